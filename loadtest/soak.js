// Hours at more than the server can do, with clients that leave and bad bytes among the good, and faults of the
// device if RERANKD_FAULTS asks the server for some.
//
// From the environment: PEAK, the requests a second of a closed loop (loadtest/run measures it), FACTOR over it,
// DURATION, RERANKD_FAULTS, SUMMARY, where what the clients got goes as JSON, and the texts' (workload.js).
// loadtest/run watches the server's memory meanwhile, and holds its books against the summary. Every three minutes the
// load pauses until nothing is under way: what the server's memory is then is what it does not give back. The soak begins
// with a surge, so that no later load makes more requests wait at a time than were there before.

import { check } from "k6";
import exec from "k6/execution";
import http from "k6/http";
import { Counter, Trend } from "k6/metrics";
import { booksAddUp, metric, requests, settled, url } from "./workload.js";

const peak = Number(__ENV.PEAK || 5);
const perMinute = Math.max(1, Math.round(60 * peak * Number(__ENV.FACTOR || 1.5)));
const duration = seconds(__ENV.DURATION || "30m");
const PERIOD = 180;
// Longer than requests may wait for the device, 30 s unless they or the server say otherwise.
const REST = 45;
// How many times the load that follows.
const SURGE = 7;
const SURGE_SECONDS = Math.min(30, Math.ceil(duration / 10));
const hasFaults = Number(__ENV.RERANKD_FAULTS || 0) > 0;

export const options = {
  // Each request on a connection of its own: an idle one keeps the buffer of its longest body, and the more users k6
  // ever had at once, the more of them would be kept. Nor is any closed just as its user posts again.
  noConnectionReuse: true,
  scenarios: {
    surge: load(0, SURGE_SECONDS, SURGE * perMinute),
    ...Object.fromEntries(
      Array.from({ length: Math.ceil(duration / PERIOD) }, (_, i) => [`soak_${i}`, period(i * PERIOD)]),
    ),
  },
  thresholds: {
    unexpected: ["count==0"],
    answered: ["count>0"],
    checks: ["rate==1"],
    // Only its threshold keeps a counter in the summary that nothing was added to.
    ...Object.fromEntries(["posted", "refused", "failed", "left"].map((name) => [name, ["count>=0"]])),
  },
  summaryTrendStats: ["avg", "p(50)", "p(95)", "p(99)"],
};

function period(begin) {
  return load(begin, Math.min(duration - begin, PERIOD - REST), perMinute);
}

function load(begin, lasts, rate) {
  return {
    executor: "constant-arrival-rate",
    rate,
    timeUnit: "60s",
    startTime: `${begin}s`,
    duration: `${lasts}s`,
    preAllocatedVUs: 100,
    maxVUs: 2000,
    gracefulStop: "60s",
  };
}

// Of "45m" or "12s".
function seconds(text) {
  const [, number, unit] = /^(\d+)([ms])$/.exec(text);
  return Number(number) * (unit === "m" ? 60 : 1);
}

// What clients saw, whoever they were: as many as they posted.
const posted = new Counter("posted");
const answered = new Counter("answered");
const refused = new Counter("refused");
const failed = new Counter("failed");
const left = new Counter("left");
const unexpected = new Counter("unexpected");
const latency = new Trend("latency", true);

const JSON_TYPE = { "Content-Type": "application/json" };
// Bodies that must be refused, each with what it is refused with.
const BAD = [
  [400, '{"query": "q", "documents": ["a"'],
  [400, '{"query": "q", "documents": 7}'],
  [400, '{"query": 1e999, "documents": ["\\ud800"]}'],
  [400, "\x00\x01\x02", { ...JSON_TYPE, "Content-Encoding": "gzip" }],
  [415, "{}", { ...JSON_TYPE, "Content-Encoding": "br" }],
  [400, ""],
];

// k6 gave up waiting.
const TIMEOUT = 1050;

export default function () {
  const i = exec.scenario.iterationInTest;
  const { query, documents } = requests[i % requests.length];
  const body = JSON.stringify({ query, documents });
  if (i % 10 === 7) return bad(...BAD[Math.floor(i / 10) % BAD.length]);
  const leaves = i % 10 === 3;
  // A tenth asks for scores that may be known; the rest must be computed.
  const headers = i % 10 === 5 ? JSON_TYPE : { ...JSON_TYPE, "Cache-Control": "no-store" };
  const timeout = leaves ? `${Math.ceil(Math.random() * 2000)}ms` : "120s";
  const response = post(body, { headers, timeout });
  const { status } = response;
  if (status === 200) {
    latency.add(response.timings.duration);
  } else if (status === 0 && leaves && response.error_code === TIMEOUT) {
    left.add(1);
  } else if (!(status === 504 || (saysWhen(response) && (status === 429 || (status === 503 && hasFaults))))) {
    tell(response);
  }
}

function bad(status, body, headers = JSON_TYPE) {
  const response = post(body, { headers });
  if (response.status !== status) tell(response);
}

function post(body, parameters) {
  posted.add(1);
  const response = http.post(`${url}/v2/rerank`, body, parameters);
  const { status } = response;
  if (status === 200) answered.add(1);
  else if (status >= 500) failed.add(1);
  else if (status >= 400) refused.add(1);
  return response;
}

const saysWhen = (response) => Number(response.headers["Retry-After"]) >= 1;

function tell(response) {
  unexpected.add(1);
  const { status, error_code, error, body, timings } = response;
  const after = `after ${timings.duration.toFixed(0)} ms`;
  console.error(`status ${status}, k6's error ${error_code} ${error} ${after}: ${String(body).slice(0, 200)}`);
}

export function teardown() {
  check(settled(), {
    "the books add up": booksAddUp,
    "nothing is stuck": (books) => books.backlog === 0 && books.inFlight === 0,
  });
  const replaced = metric("rerank_replaced_workers_total") || 0;
  console.log(`replaced workers: ${replaced}`);
  check(replaced, { "failed workers are replaced": (count) => !hasFaults || count > 0 });
}

export function handleSummary({ metrics }) {
  const count = (name) => (metrics[name] || { values: {} }).values.count || 0;
  const names = ["posted", "answered", "refused", "failed", "left", "unexpected"];
  const seen = Object.fromEntries(names.map((name) => [name, count(name)]));
  const { values } = metrics.latency || { values: {} };
  const trend = ["p(50)", "p(95)", "p(99)"].map((key) => `${key} ${Math.round(values[key])} ms`).join("  ");
  const lines = [
    `offered         ${perMinute} requests a minute, peak ${(60 * peak).toFixed(0)}`,
    `not sent        ${count("dropped_iterations")}`,
    `answers         ${trend}`,
    `checks failed   ${metrics.checks.values.fails}`,
  ];
  return { stdout: `\n${lines.join("\n")}\n`, ...(__ENV.SUMMARY && { [__ENV.SUMMARY]: JSON.stringify(seen) }) };
}
