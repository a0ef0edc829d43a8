// A steady closed loop: every user posts a request, waits for its scores, and posts the next.
//
// From the environment: VUS, DURATION, RETRY (a request that fails is sent once more), and the texts' (workload.js).

import exec from "k6/execution";
import http from "k6/http";
import { Counter, Gauge, Trend } from "k6/metrics";
import { sleep } from "k6";
import { metric, requests, url } from "./workload.js";

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
  thresholds: { errors: ["count==0"], pairs: ["count>0"], retried: ["count>=0"] },
  summaryTrendStats: ["avg", "p(50)", "p(95)", "p(99)"],
};

// Only its threshold keeps a counter in the summary that nothing was added to.
const errors = new Counter("errors");
const retried = new Counter("retried");
const pairs = new Counter("pairs");
const tokens = new Counter("tokens");
const deviceBusy = new Gauge("device_busy_share");
const latency = new Trend("latency", true);
const overhead = new Trend("overhead", true);
const stages = Object.fromEntries(STAGES.map((name) => [name, new Trend(`stage_${name}`, true)]));

export function setup() {
  return { started: Date.now(), deviceSeconds: deviceSeconds() };
}

export default function () {
  const { query, documents } = requests[exec.scenario.iterationInTest % requests.length];
  const headers = { "Content-Type": "application/json" };
  const post = () => http.post(`${url}/v2/rerank`, JSON.stringify({ query, documents }), { headers });
  let response = post();
  let fault = faultOf(response, documents.length);
  if (fault && __ENV.RETRY) {
    retried.add(1);
    // As clients do. At once, a proxy may not have seen yet that a server is gone.
    sleep(0.5);
    response = post();
    fault = faultOf(response, documents.length);
  }
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
const deviceSeconds = () => metric("rerank_batch_seconds_sum");

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
    row("retried", count("retried")),
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
