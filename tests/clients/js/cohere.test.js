// cohere-ai (npm), two releases side by side: CohereClient speaks v1, CohereClientV2 v2.

import assert from "node:assert/strict";
import { test } from "node:test";
import * as cohere7 from "cohere-7";
import * as cohere8 from "cohere-8";

const url = process.env.RERANKD_URL;
const query = "What is the capital of France?";
const documents = [
  "Berlin is the capital of Germany.",
  "Paris is the capital of France.",
  "Bananas are rich in potassium.",
];

// What plain HTTP says of the same documents, best first.
const reply = await fetch(`${url}/v2/rerank`, {
  method: "POST",
  headers: { "content-type": "application/json" },
  body: JSON.stringify({ model: "any", query, documents }),
});
const expected = (await reply.json()).results;

function checkRanking(results, count = documents.length) {
  assert.deepEqual(results.map((r) => r.index), expected.slice(0, count).map((r) => r.index));
  for (const [rank, { relevanceScore }] of results.entries()) {
    assert.ok(relevanceScore >= 0 && relevanceScore <= 1);
    // Batch mates may change the last digits.
    assert.ok(Math.abs(relevanceScore - expected[rank].relevance_score) < 1e-5);
  }
}

for (const [release, cohere] of Object.entries({ "7.21.0": cohere7, "8.1.0": cohere8 })) {
  for (const [name, version] of [["CohereClient", "1"], ["CohereClientV2", "2"]]) {
    const client = new cohere[name]({ token: "any", environment: url });
    const example = { model: "rerank-v3.5", query, documents };
    const rerank = (options) => client.rerank({ ...example, ...options });

    test(`${release} ${name} ranks all documents`, async () => {
      const { id, results, meta } = await rerank();
      checkRanking(results);
      assert.ok(id);
      assert.equal(meta.apiVersion.version, version);
      assert.equal(meta.billedUnits.searchUnits, 1);
    });

    test(`${release} ${name} honours topN`, async () => {
      checkRanking((await rerank({ topN: 2 })).results, 2);
    });

    test(`${release} ${name} throws BadRequestError for no documents`, async () => {
      const isExpected = (error) =>
        error instanceof cohere.Cohere.BadRequestError &&
        error.statusCode === 400 &&
        /list of documents must not be empty/.test(error.body.message);
      await assert.rejects(rerank({ documents: [] }), isExpected);
    });

    if (version === "1") {
      test(`${release} ${name} returns documents`, async () => {
        const { results } = await rerank({ returnDocuments: true });
        for (const { index, document } of results) assert.equal(document.text, documents[index]);
      });
    }
  }
}
