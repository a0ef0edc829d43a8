// Ten times what the server can do: an open loop that sends however slow the answers are.
//
// From the environment: PEAK, the requests a second of a closed loop (loadtest/run measures it), FACTOR over it,
// DURATION, DEADLINE_MS, REFUSAL_MS, SMOKE, and the texts' (workload.js). With SMOKE times are no matter, as on an
// emulated device: what comes late is told and not held against it, and the large request is left out.
//
// What must hold: goodput stays near the peak, admitted requests keep their deadline, refusals are quick and
// say when to come back, and the books add up. At the burst's end a request comes that is too large for what is
// left of its deadline, again and again until it is let in: the time to that is held against its first Retry-After.

import { check, sleep } from "k6";
import exec from "k6/execution";
import http from "k6/http";
import { Counter, Gauge, Trend } from "k6/metrics";
import { booksAddUp, metric, requests, settled, url } from "./workload.js";

const peak = Number(__ENV.PEAK || 5);
const factor = Number(__ENV.FACTOR || 10);
const deadlineMs = Number(__ENV.DEADLINE_MS || 5000);
const refusalMs = Number(__ENV.REFUSAL_MS || 5);
const timesMatter = !__ENV.SMOKE;
const durationSeconds = parseInt(__ENV.DURATION || "30s", 10);

export const options = {
  scenarios: {
    burst: {
      executor: "constant-arrival-rate",
      rate: Math.max(1, Math.round(peak * factor)),
      duration: `${durationSeconds}s`,
      preAllocatedVUs: 200,
      // As many as may wait for their deadline at one time.
      maxVUs: 2000,
      gracefulStop: "60s",
    },
    ...(timesMatter && {
      large: {
        executor: "per-vu-iterations",
        vus: 1,
        iterations: 1,
        startTime: `${durationSeconds}s`,
        maxDuration: "60s",
        exec: "large",
      },
    }),
  },
  thresholds: {
    ...(timesMatter && {
      // By the clock of a client on the same busy machine; a deadline counts from the server's first byte.
      admitted_latency: [`p(99)<=${deadlineMs * 1.1}`],
      refusal_latency: [`p(99)<=${refusalMs}`],
      refused_in_time_share: ["value>=0.99"],
      late: ["count==0"],
      refused: ["count>0"],
    }),
    admitted: ["count>0"],
    other: ["count==0"],
    without_retry_after: ["count==0"],
    checks: ["rate==1"],
  },
  summaryTrendStats: ["avg", "p(50)", "p(95)", "p(99)", "max"],
};

const admitted = new Counter("admitted");
const answeredInTime = new Counter("answered_in_time");
const refused = new Counter("refused");
const late = new Counter("late");
const other = new Counter("other");
const withoutRetryAfter = new Counter("without_retry_after");
const admittedLatency = new Trend("admitted_latency", true);
const refusalLatency = new Trend("refusal_latency", true);
const retryAfter = new Trend("retry_after_seconds");

const quick = new Gauge("refused_in_time_share");
const promised = new Trend("promised_seconds");
const cameTrue = new Trend("came_true_seconds");

function post(body) {
  const headers = { "Content-Type": "application/json", "X-Request-Timeout-Ms": `${deadlineMs}` };
  return http.post(`${url}/v2/rerank`, body, { headers });
}

// Each user has a request of its own, written once: to write it each time takes cores that the server shares with k6.
let own;

export default function () {
  own = own || JSON.stringify(requests[exec.vu.idInTest % requests.length]);
  const response = post(own);
  const { duration } = response.timings;
  if (response.status === 200) {
    admitted.add(1);
    // What is answered after the burst is no part of its goodput.
    if (Date.now() - exec.scenario.startTime <= durationSeconds * 1000) answeredInTime.add(1);
    admittedLatency.add(duration);
  } else if (response.status === 429) {
    refused.add(1);
    refusalLatency.add(duration);
    const seconds = Number(response.headers["Retry-After"]);
    if (seconds >= 1) retryAfter.add(seconds);
    else withoutRetryAfter.add(1);
  } else if (response.status === 504) {
    late.add(1);
  } else {
    other.add(1);
    console.error(`status ${response.status} ${response.error}`);
  }
}

// Work for two thirds of the deadline, behind about as much as fits into it: there is room for it in two thirds.
export function large() {
  const count = Math.ceil((2 / 3) * (deadlineMs / 1000) * peak);
  const { query } = requests[0];
  const documents = requests.slice(0, count).flatMap((request) => request.documents);
  const body = JSON.stringify({ query, documents });
  const begin = Date.now();
  let response, sent, promise;
  for (;;) {
    sent = Date.now();
    response = post(body);
    if (response.status !== 429) break;
    if (promise === undefined) {
      promise = Number(response.headers["Retry-After"]);
      promised.add(promise);
    }
    sleep(0.1);
  }
  const took = (sent - begin) / 1000;
  cameTrue.add(took);
  check(response, {
    "the large request is scored": ({ status }) => status === 200,
    "Retry-After was right within a factor of two": () => promise <= 2 * took && took <= 2 * promise,
  });
}

// How many errors the server gave, and how many of them in time by its own clock, from a request's first byte on.
// REFUSAL_MS must be a bound of the histogram.
function refusals() {
  const counts = [metric("rerank_refusal_seconds_count"), metric(`rerank_refusal_seconds_bucket{le="${refusalMs / 1000}"}`)];
  return counts.map((count) => count || 0);
}

export function setup() {
  return refusals();
}

export function teardown(before) {
  const [all, inTime] = refusals().map((count, i) => count - before[i]);
  if (all > 0) quick.add(inTime / all);
  check(settled(), { "the books add up": booksAddUp, "nothing is left": (books) => books.backlog === 0 });
}

export function handleSummary({ metrics }) {
  const value = (name, key) => ((metrics[name] || { values: {} }).values[key] || 0);
  const goodput = value("answered_in_time", "count") / durationSeconds;
  const trend = (name, unit) =>
    `p50 ${value(name, "p(50)").toFixed(1)}  p99 ${value(name, "p(99)").toFixed(1)} ${unit}`;
  const lines = [
    `offered         ${(value("iterations", "count") / durationSeconds).toFixed(1)} requests/s, peak ${peak.toFixed(1)}`,
    `goodput         ${goodput.toFixed(1)} requests/s, ${((100 * goodput) / peak).toFixed(0)} % of the peak`,
    `admitted        ${value("admitted", "count")}`,
    `not sent        ${value("dropped_iterations", "count")}`,
    `refused         ${value("refused", "count")}, of which ${value("without_retry_after", "count")} without Retry-After`,
    `past deadline   ${value("late", "count")}`,
    `other           ${value("other", "count")}`,
    `answers         ${trend("admitted_latency", "ms")}`,
    `refusals        ${trend("refusal_latency", "ms")}`,
    `by the server   ${(100 * value("refused_in_time_share", "value")).toFixed(2)} % of errors within ${refusalMs} ms of the first byte`,
    `Retry-After     ${trend("retry_after_seconds", "s")}`,
    `and how true    ${value("promised_seconds", "avg").toFixed(0)} s promised to a large request, let in after ${value("came_true_seconds", "avg").toFixed(1)} s`,
    `checks failed   ${value("checks", "fails")}`,
  ];
  return { stdout: `\n${lines.join("\n")}\n` };
}
