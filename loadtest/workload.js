// The texts of every scenario, and what of the server's metrics they read.
//
// From the environment: RERANKD_URL, DOCUMENTS a request, TOKENS a pair, SEED, or WORKLOAD, a JSON file
// {"requests": [{"query": "..", "documents": [".."]}]} in place of generated texts.

import { SharedArray } from "k6/data";
import http from "k6/http";
import { sleep } from "k6";

export const url = __ENV.RERANKD_URL || "http://127.0.0.1:8080";
const numDocuments = Number(__ENV.DOCUMENTS || 20);
const meanTokens = Number(__ENV.TOKENS || 135);

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
export const requests = new SharedArray("requests", () =>
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

// A number on the metrics page, summed over its labels; undefined where there is none.
export function metric(name) {
  const page = http.get(`${url}/metrics`, { tags: { name: "metrics" } }).body || "";
  const values = [...page.matchAll(new RegExp(`^${name}(?:{[^}]*})? ([\\d.e+-]+)$`, "gm"))];
  return values.length ? values.reduce((sum, [, value]) => sum + Number(value), 0) : undefined;
}

// The server's books once it has nothing to do, or as they stand after a minute.
export function settled() {
  for (let i = 0; ; i += 1) {
    const count = (name) => metric(`rerank_${name}_requests_total`);
    const books = {
      received: count("received"),
      answered: count("answered"),
      refused: count("refused"),
      cancelled: count("cancelled"),
      failed: count("failed"),
      inFlight: metric("rerank_in_flight_requests") || 0,
      backlog: metric("rerank_backlog_tokens"),
    };
    if ((booksAddUp(books) && books.inFlight === 0 && books.backlog === 0) || i >= 120) {
      console.log(JSON.stringify(books));
      return books;
    }
    sleep(0.5);
  }
}

// received = answered + refused + cancelled + failed, exactly.
export const booksAddUp = ({ received, answered, refused, cancelled, failed }) =>
  received > 0 && received === answered + refused + cancelled + failed;
