// Hours at more than the server can do, with clients that leave and bad bytes among the good, and faults of the
// device if RERANKD_FAULTS asks the server for some.
//
// From the environment: PEAK, the requests a second of a closed loop (loadtest/run measures it), FACTOR over it,
// DURATION, RERANKD_FAULTS, and the texts' (workload.js). loadtest/run watches the server's memory meanwhile.

import { check } from "k6";
import exec from "k6/execution";
import http from "k6/http";
import { Counter, Trend } from "k6/metrics";
import { booksAddUp, metric, requests, settled, url } from "./workload.js";

const peak = Number(__ENV.PEAK || 5);
const hasFaults = Number(__ENV.RERANKD_FAULTS || 0) > 0;

export const options = {
  scenarios: {
    soak: {
      executor: "constant-arrival-rate",
      rate: Math.max(1, Math.round(60 * peak * Number(__ENV.FACTOR || 1.5))),
      timeUnit: "60s",
      duration: __ENV.DURATION || "30m",
      preAllocatedVUs: 100,
      maxVUs: 2000,
      gracefulStop: "60s",
    },
  },
  thresholds: { unexpected: ["count==0"], answered: ["count>0"], checks: ["rate==1"] },
  summaryTrendStats: ["avg", "p(50)", "p(95)", "p(99)"],
};

const unexpected = new Counter("unexpected");
const answered = new Counter("answered");
const refused = new Counter("refused");
const late = new Counter("late");
const lost = new Counter("lost");
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

export default function () {
  const i = exec.scenario.iterationInTest;
  const { query, documents } = requests[i % requests.length];
  const body = JSON.stringify({ query, documents });
  if (i % 10 === 3) return leave(body);
  if (i % 10 === 7) return bad(...BAD[Math.floor(i / 10) % BAD.length]);
  // A tenth asks for scores that may be known; the rest must be computed.
  const headers = i % 10 === 5 ? JSON_TYPE : { ...JSON_TYPE, "Cache-Control": "no-store" };
  const response = http.post(`${url}/v2/rerank`, body, { headers, timeout: "120s" });
  if (response.status === 200) {
    answered.add(1);
    latency.add(response.timings.duration);
  } else if (response.status === 429 && saysWhen(response)) {
    refused.add(1);
  } else if (response.status === 504) {
    late.add(1);
  } else if (response.status === 503 && saysWhen(response) && hasFaults) {
    lost.add(1);
  } else {
    fail(response);
  }
}

const saysWhen = (response) => Number(response.headers["Retry-After"]) >= 1;

function leave(body) {
  http.post(`${url}/v2/rerank`, body, { headers: JSON_TYPE, timeout: `${Math.ceil(Math.random() * 2000)}ms` });
}

function bad(status, body, headers = JSON_TYPE) {
  const response = http.post(`${url}/v2/rerank`, body, { headers });
  if (response.status !== status) fail(response);
}

function fail(response) {
  unexpected.add(1);
  console.error(`status ${response.status} ${response.error} ${String(response.body).slice(0, 200)}`);
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
