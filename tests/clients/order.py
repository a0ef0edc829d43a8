"""The embedded model answers easy questions: the only test here that needs a good one."""

import unittest

from plain import post

# (question, its answer, documents that share words or topic with it)
EASY = [
    (
        "What is the capital of France?",
        "Paris is the capital of France.",
        ["Berlin is the capital of Germany.", "Bananas are rich in potassium."],
    ),
    (
        "How do I reset my password?",
        "To reset your password, open Settings and choose 'Forgot password'.",
        [
            "Our office is closed on public holidays.",
            "Invoices are sent on the first of each month.",
        ],
    ),
    (
        "Who wrote Romeo and Juliet?",
        "Romeo and Juliet is a tragedy written by William Shakespeare.",
        ["Verona is a city in northern Italy.", "The Odyssey is attributed to Homer."],
    ),
    (
        "At what temperature does water boil?",
        "Water boils at 100 degrees Celsius at sea level.",
        [
            "Most of the Earth's surface is covered by oceans.",
            "Steel is an alloy of iron and carbon.",
        ],
    ),
]


class Order(unittest.TestCase):
    def test_the_answer_comes_first(self):
        for query, answer, others in EASY:
            with self.subTest(query):
                body = {"query": query, "documents": [others[0], answer, *others[1:]]}
                results = post("/v2/rerank", body)["results"]
                self.assertEqual(results[0]["index"], 1, results)


if __name__ == "__main__":
    unittest.main()
