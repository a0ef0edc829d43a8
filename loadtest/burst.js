// Ten times what the server can do: an open loop that sends however slow the answers are.
//
// From the environment: PEAK, the requests a second of a closed loop (loadtest/run measures it), FACTOR over it,
// DURATION, DEADLINE_MS, and the texts' (workload.js).
//
// What must hold: goodput stays near the peak, admitted requests keep their deadline, refusals are quick and
// say when to come back, and the books add up.

import { check } from "k6";
import exec from "k6/execution";
import http from "k6/http";
import { Counter, Trend } from "k6/metrics";
import { booksAddUp, requests, settled, url } from "./workload.js";

const peak = Number(__ENV.PEAK || 5);
const factor = Number(__ENV.FACTOR || 10);
const deadlineMs = Number(__ENV.DEADLINE_MS || 5000);
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
  },
  thresholds: {
    // By the clock of a client on the same busy machine; a deadline counts from the server's first byte.
    admitted_latency: [`p(99)<=${deadlineMs * 1.1}`],
    other: ["count==0"],
    without_retry_after: ["count==0"],
    checks: ["rate==1"],
  },
  summaryTrendStats: ["avg", "p(50)", "p(95)", "p(99)", "max"],
};

const admitted = new Counter("admitted");
const refused = new Counter("refused");
const late = new Counter("late");
const other = new Counter("other");
const withoutRetryAfter = new Counter("without_retry_after");
const admittedLatency = new Trend("admitted_latency", true);
const refusalLatency = new Trend("refusal_latency", true);
const retryAfter = new Trend("retry_after_seconds");

export default function () {
  const { query, documents } = requests[exec.scenario.iterationInTest % requests.length];
  const headers = { "Content-Type": "application/json", "X-Request-Timeout-Ms": `${deadlineMs}` };
  const response = http.post(`${url}/v2/rerank`, JSON.stringify({ query, documents }), { headers });
  const { duration } = response.timings;
  if (response.status === 200) {
    admitted.add(1);
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

export function teardown() {
  check(settled(), { "the books add up": booksAddUp, "nothing is left": (books) => books.backlog === 0 });
}

export function handleSummary({ metrics }) {
  const value = (name, key) => ((metrics[name] || { values: {} }).values[key] || 0);
  const goodput = value("admitted", "count") / durationSeconds;
  const trend = (name, unit) =>
    `p50 ${value(name, "p(50)").toFixed(1)}  p99 ${value(name, "p(99)").toFixed(1)} ${unit}`;
  const lines = [
    `offered         ${(value("iterations", "count") / durationSeconds).toFixed(1)} requests/s, peak ${peak.toFixed(1)}`,
    `goodput         ${goodput.toFixed(1)} requests/s, ${((100 * goodput) / peak).toFixed(0)} % of the peak`,
    `not sent        ${value("dropped_iterations", "count")}`,
    `refused         ${value("refused", "count")}, of which ${value("without_retry_after", "count")} without Retry-After`,
    `past deadline   ${value("late", "count")}`,
    `other           ${value("other", "count")}`,
    `admitted        ${trend("admitted_latency", "ms")}`,
    `refusals        ${trend("refusal_latency", "ms")}`,
    `Retry-After     ${trend("retry_after_seconds", "s")}`,
    `checks failed   ${value("checks", "fails")}`,
  ];
  return { stdout: `\n${lines.join("\n")}\n` };
}
