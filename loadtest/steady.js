// A steady closed loop: every user posts a request, waits for its scores, and posts the next.
//
// From the environment: VUS, DURATION, DOCUMENTS a request, TOKENS a pair, SEED, or WORKLOAD,
// a JSON file {"requests": [{"query": "..", "documents": [".."]}]} in place of generated texts.

import { SharedArray } from "k6/data";
import exec from "k6/execution";
import http from "k6/http";
import { Counter, Gauge, Trend } from "k6/metrics";
import { sleep } from "k6";

const url = __ENV.RERANKD_URL || "http://127.0.0.1:8080";
const numDocuments = Number(__ENV.DOCUMENTS || 20);
const meanTokens = Number(__ENV.TOKENS || 135);
const STAGES = ["parse", "admit", "tokenize", "queue", "device"];

export const options = {
  scenarios: {
    steady: {
      executor: "constant-vus",
      vus: Number(__ENV.VUS || 32),
      duration: __ENV.DURATION || "60s",
      // Requests under way at the end are finished and counted, however slow the device.
      gracefulStop: "60s",
    },
  },
  thresholds: { errors: ["count==0"], pairs: ["count>0"] },
  summaryTrendStats: ["avg", "p(50)", "p(95)", "p(99)"],
};

// Only its threshold keeps a counter in the summary that nothing was added to.
const errors = new Counter("errors");
const pairs = new Counter("pairs");
const tokens = new Counter("tokens");
const deviceBusy = new Gauge("device_busy_share");
const latency = new Trend("latency", true);
const overhead = new Trend("overhead", true);
const stages = Object.fromEntries(STAGES.map((name) => [name, new Trend(`stage_${name}`, true)]));

// Common words, each a single token in the vocabularies of English models.
const WORDS = (
  "the of and to in for is on that by this with you it not or be are from at as your all have " +
  "new more an was we will home can us about if page my has search free but our one other do " +
  "no time they site he up may what which their news out use any there see only so his when " +
  "here business who also now help get view first people water city music state world school " +
  "house light power small river market"
).split(" ");
const QUERY_WORDS = 8;
// [CLS] query [SEP] document [SEP]
const SPECIAL_TOKENS = 3;
// Passages of real corpora are skewed like this: many short ones, few of four times the mean.
const SIGMA = 0.6;

// Built once and shared: 256 requests are enough that none is near its repetition.
const requests = new SharedArray("requests", () =>
  __ENV.WORKLOAD ? JSON.parse(open(__ENV.WORKLOAD)).requests : generate(256),
);

function generate(count) {
  const random = mulberry32(Number(__ENV.SEED || 1));
  const words = (n) =>
    Array.from({ length: n }, () => WORDS[Math.floor(random() * WORDS.length)]).join(" ");
  // The mean of a log-normal is exp(mu + sigma^2 / 2).
  const mu = Math.log(meanTokens - QUERY_WORDS - SPECIAL_TOKENS) - SIGMA ** 2 / 2;
  const normal = () => Math.sqrt(-2 * Math.log(1 - random())) * Math.cos(2 * Math.PI * random());
  const document = () => words(Math.max(1, Math.round(Math.exp(mu + SIGMA * normal()))));
  return Array.from({ length: count }, () => ({
    query: words(QUERY_WORDS),
    documents: Array.from({ length: numDocuments }, document),
  }));
}

// A seeded generator, since Math.random() cannot be seeded: the same SEED is the same load.
function mulberry32(seed) {
  let state = seed;
  return () => {
    state = (state + 0x6d2b79f5) | 0;
    let z = Math.imul(state ^ (state >>> 15), 1 | state);
    z = (z + Math.imul(z ^ (z >>> 7), 61 | z)) ^ z;
    return ((z ^ (z >>> 14)) >>> 0) / 2 ** 32;
  };
}

export function setup() {
  return { started: Date.now(), deviceSeconds: deviceSeconds() };
}

export default function () {
  const { query, documents } = requests[exec.scenario.iterationInTest % requests.length];
  const headers = { "Content-Type": "application/json" };
  const response = http.post(`${url}/v2/rerank`, JSON.stringify({ query, documents }), { headers });
  const fault = faultOf(response, documents.length);
  if (fault) {
    errors.add(1, { fault });
    console.error(`${fault}: ${String(response.body).slice(0, 200)}`);
    // A client that is told to wait waits; a hot loop would measure refusals.
    sleep(Number(response.headers["Retry-After"] || 1));
    return;
  }
  const { usage } = response.json();
  pairs.add(documents.length);
  if (usage) tokens.add(usage.total_tokens);
  record(response);
}

function faultOf(response, count) {
  if (response.status !== 200) return `status ${response.status} ${response.error}`;
  const { results } = response.json();
  if (results.length !== count) return `${results.length} results for ${count} documents`;
  const isSorted = results.every(
    ({ relevance_score }, i) => i === 0 || relevance_score <= results[i - 1].relevance_score,
  );
  return isSorted ? null : "scores are not sorted";
}

// The server says where the time went; the rest of the latency is HTTP, the network and the client.
function record(response) {
  const total = response.timings.duration;
  const header = response.headers["Server-Timing"] || "";
  const took = {};
  for (const [, name, ms] of header.matchAll(/(\w+);dur=([\d.]+)/g)) took[name] = Number(ms);
  latency.add(total);
  for (const name of STAGES) if (name in took) stages[name].add(took[name]);
  if ("device" in took && "queue" in took) overhead.add(total - took.device - took.queue);
}

// Seconds the device has spent on batches; undefined for servers that do not say.
function deviceSeconds() {
  const page = http.get(`${url}/metrics`).body || "";
  const sum = page.match(/^rerank_batch_seconds_sum ([\d.e+-]+)$/m);
  return sum ? Number(sum[1]) : undefined;
}

export function teardown({ started, deviceSeconds: before }) {
  const after = deviceSeconds();
  const wall = (Date.now() - started) / 1000;
  if (after !== undefined) deviceBusy.add((after - (before || 0)) / wall);
}

export function handleSummary(data) {
  const values = (name) => (data.metrics[name] || { values: {} }).values;
  const seconds = data.state.testRunDurationMs / 1000;
  const count = (name) => values(name).count || 0;
  const fixed = (x, digits = 1) => (x === undefined ? "-" : x.toFixed(digits));
  const percent = (share) => (share === undefined ? "-" : `${fixed(share * 100)} %`);
  const row = (...cells) =>
    cells.map((cell, i) => (i ? String(cell).padStart(12) : cell.padEnd(24))).join("");
  const timeRow = (label, name) => {
    const { avg, "p(50)": p50, "p(95)": p95, "p(99)": p99 } = values(name);
    const share = avg === undefined ? undefined : avg / values("latency").avg;
    return row(label, ...[avg, p50, p95, p99].map((ms) => fixed(ms, 2)), percent(share));
  };
  const busy = values("device_busy_share").value;
  const lines = [
    row("requests", count("iterations")),
    row("errors", count("errors")),
    row("seconds", fixed(seconds)),
    row("pairs/s", fixed(count("pairs") / seconds)),
    row("tokens/s", fixed(count("tokens") / seconds)),
    row("tokens a pair", fixed(count("tokens") / count("pairs"))),
    "",
    row("milliseconds", "mean", "p50", "p95", "p99", "of latency"),
    timeRow("latency", "latency"),
    ...STAGES.map((name) => timeRow(`  ${name}`, `stage_${name}`)),
    timeRow("latency - queue - device", "overhead"),
    "",
    row("device busy", percent(busy)),
    row("outside forward passes", percent(busy === undefined ? busy : 1 - busy)),
    "",
  ];
  return { stdout: `\n${lines.join("\n")}\n` };
}
