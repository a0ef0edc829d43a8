// Several tenants at one server, in three parts of DURATION each:
//
//   alone   the light tenant, with nobody beside it
//   flood   the same, while another tenant of the same weight sends all it can
//   shares  two tenants of weights 3 and 1 that both send all they can
//
// From the environment: KEYS, {"light": .., "flood": .., "three": .., "one": .., "ops": ..}, the last an admin's; DURATION; RATE, the light
// tenant's requests a second; FLOOD_VUS; DOCUMENTS of its requests and FLOOD_DOCUMENTS of the others'; WORDS of
// a document; GAP_SECONDS between the parts; SUMMARY, where the figures go as JSON.

import http from "k6/http";
import { Counter, Trend } from "k6/metrics";

const url = __ENV.RERANKD_URL || "http://127.0.0.1:8080";
const keys = JSON.parse(__ENV.KEYS);
const seconds = parseInt(__ENV.DURATION || "20s", 10);
const rate = Number(__ENV.RATE || 10);
const floodVus = Number(__ENV.FLOOD_VUS || 16);
const numDocuments = Number(__ENV.DOCUMENTS || 10);
const numFloodDocuments = Number(__ENV.FLOOD_DOCUMENTS || 100);
const numWords = Number(__ENV.WORDS || 40);

// While a flood ends or begins nobody is measured.
const GAP_SECONDS = Number(__ENV.GAP_SECONDS || 5);
const part = (i) => `${i * (seconds + GAP_SECONDS)}s`;

const lightArrivals = (exec, startTime) => ({
  executor: "constant-arrival-rate",
  rate,
  timeUnit: "1s",
  duration: `${seconds}s`,
  preAllocatedVUs: 50,
  gracefulStop: "30s",
  startTime,
  exec,
});
// A flood is there before the light tenant comes and after it has gone.
const floods = (exec, startTime, duration, vus) => ({
  executor: "constant-vus",
  vus,
  duration,
  gracefulStop: "0s",
  startTime,
  exec,
});

const samples = (exec, startSeconds) => ({
  executor: "constant-arrival-rate",
  rate: 2,
  timeUnit: "1s",
  duration: `${seconds - 4}s`,
  preAllocatedVUs: 2,
  startTime: `${startSeconds}s`,
  exec,
});

export const options = {
  scenarios: {
    alone: lightArrivals("alone", part(0)),
    flood: floods("flood", `${seconds + GAP_SECONDS - 3}s`, `${seconds + 4}s`, floodVus),
    light: lightArrivals("besideFlood", part(1)),
    three: floods("three", `${2 * (seconds + GAP_SECONDS)}s`, `${seconds}s`, floodVus),
    one: floods("one", `${2 * (seconds + GAP_SECONDS)}s`, `${seconds}s`, floodVus),
    speed: samples("speed", seconds + GAP_SECONDS),
    // Once both have as much under way as they will: what is half done then is so at the end, too.
    shares: samples("shares", 2 * (seconds + GAP_SECONDS) + 3),
  },
  // Only its threshold keeps a counter in the summary that nothing was added to.
  thresholds: { errors: ["count==0"], refusals: ["count>=0"] },
  summaryTrendStats: ["count", "min", "p(50)", "p(95)", "p(99)", "max"],
};

const errors = new Counter("errors");
const refusals = new Counter("refusals");
const latency = {
  alone: new Trend("latency_alone", true),
  flood: new Trend("latency_flood", true),
};
// Counters of the server: the largest less the smallest is what was answered between.
const batches = { seconds: new Trend("batch_seconds"), tokens: new Trend("batch_tokens") };
const tokens = { three: new Trend("tokens_three"), one: new Trend("tokens_one") };
const stages = ["parse", "admit", "tokenize", "queue", "device"];
const stageTimes = {};
for (const who of ["alone", "flood"]) {
  for (const stage of stages) {
    stageTimes[`${who} ${stage}`] = new Trend(`stage_${who}_${stage}`, true);
  }
}

const WORDS = "water city music state world school house light power small river market".split(" ");
const document = (i) =>
  Array.from({ length: numWords }, (_, j) => WORDS[(i * 7 + j * j) % WORDS.length]).join(" ");
const body = (count) =>
  JSON.stringify({
    query: "what the market of a small city is like",
    documents: Array.from({ length: count }, (_, i) => document(i)),
  });
const small = body(numDocuments);
const large = body(numFloodDocuments);
// Usage is counted by whole requests: with large ones the last few would decide the shares.
const medium = body(20);

function post(tenant, payload) {
  const headers = { "Content-Type": "application/json", Authorization: `Bearer ${keys[tenant]}` };
  return http.post(`${url}/v2/rerank`, payload, { headers });
}

function light(who) {
  const response = post("light", small);
  if (response.status !== 200) {
    errors.add(1);
    console.error(`the light tenant got ${response.status}: ${response.body || response.error}`);
    return;
  }
  latency[who].add(response.timings.duration);
  const header = response.headers["Server-Timing"] || "";
  for (const [, stage, ms] of header.matchAll(/(\w+);dur=([\d.]+)/g)) {
    stageTimes[`${who} ${stage}`].add(Number(ms));
  }
}

// A flood that is told to wait does not: that is what makes it one.
function all(tenant, payload) {
  const { status } = post(tenant, payload);
  if (status === 429) refusals.add(1);
  else if (status !== 200 && status !== 0) errors.add(1, { status });
}

export const alone = () => light("alone");
export const besideFlood = () => light("flood");
export const flood = () => all("flood", large);
export const three = () => all("three", medium);
export const one = () => all("one", medium);

// How fast the device is beside the flood, where k6 and the tokenizer take their part of the cores.
export function speed() {
  const page = http.get(`${url}/metrics`).body;
  for (const name of ["seconds", "tokens"]) {
    const sum = page.match(new RegExp(`^rerank_batch_${name}_sum ([\\d.e+-]+)$`, "m"));
    batches[name].add(Number(sum[1]));
  }
}

export function shares() {
  const headers = { Authorization: `Bearer ${keys.ops}` };
  for (const line of http.get(`${url}/v1/usage`, { headers }).json().data) {
    if (line.tenant in tokens) tokens[line.tenant].add(line.tokens);
  }
}

export function handleSummary(data) {
  const values = (name) => (data.metrics[name] || { values: {} }).values;
  const grown = (name) => values(name).max - values(name).min;
  const figures = {
    alone: values("latency_alone"),
    flood: values("latency_flood"),
    batches: { seconds: grown("batch_seconds"), tokens: grown("batch_tokens") },
    tokens: { three: grown("tokens_three"), one: grown("tokens_one") },
    refusals: values("refusals").count || 0,
    errors: values("errors").count || 0,
    stages: Object.fromEntries(
      Object.keys(stageTimes).map((name) => [name, values(`stage_${name.replace(" ", "_")}`)]),
    ),
  };
  return { [__ENV.SUMMARY || "stdout"]: JSON.stringify(figures) };
}
