// Half of the clients leave before their answer; the others must notice nothing, and nothing may be left of those.
//
// From the environment: VUS, DURATION, LEAVE_MS at most, and the texts' (workload.js).

import { check } from "k6";
import exec from "k6/execution";
import http from "k6/http";
import { Counter, Trend } from "k6/metrics";
import { booksAddUp, requests, settled, url } from "./workload.js";

const vus = Math.max(2, Number(__ENV.VUS || 16));
const leaveMs = Number(__ENV.LEAVE_MS || 400);
const loop = (exec) => ({
  executor: "constant-vus",
  vus: Math.floor(vus / 2),
  duration: __ENV.DURATION || "60s",
  gracefulStop: "60s",
  exec,
});

export const options = {
  scenarios: { stay: loop("stay"), leave: loop("leave") },
  thresholds: { errors: ["count==0"], left: ["count>0"], stayed: ["count>0"], checks: ["rate==1"] },
  summaryTrendStats: ["avg", "p(50)", "p(95)", "p(99)"],
};

const errors = new Counter("errors");
const stayed = new Counter("stayed");
const left = new Counter("left");
const latency = new Trend("latency", true);

function post(params) {
  const { query, documents } = requests[exec.scenario.iterationInTest % requests.length];
  const headers = { "Content-Type": "application/json" };
  return http.post(`${url}/v2/rerank`, JSON.stringify({ query, documents }), { headers, ...params });
}

export function stay() {
  const response = post({ timeout: "120s" });
  if (response.status === 200) {
    stayed.add(1);
    latency.add(response.timings.duration);
  } else {
    errors.add(1);
    console.error(`status ${response.status} ${response.error}`);
  }
}

export function leave() {
  const patience = Math.ceil(Math.random() * leaveMs);
  // A time-out closes the connection. Who was answered before stays unseen.
  if (post({ timeout: `${patience}ms` }).status === 0) left.add(1);
}

export function teardown() {
  check(settled(), {
    "the books add up": booksAddUp,
    "nothing is left of them": (books) => books.backlog === 0 && books.inFlight === 0,
    "some were cancelled": (books) => books.cancelled > 0,
  });
}
