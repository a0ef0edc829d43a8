"""The server's books against what its clients saw."""

import re
import time
import urllib.request

WAYS = ["answered", "refused", "failed"]
IN_FLIGHT = "rerank_in_flight_requests"


def read(url):
    """Its counts of scoring requests, once none is under way."""
    deadline = time.monotonic() + 60
    while True:
        page = metrics(url)
        names = ["received", *WAYS, "cancelled"]
        books = {name: count(page, f"rerank_{name}_requests_total") for name in names}
        if count(page, IN_FLIGHT) == 0 or time.monotonic() > deadline:
            return books


def under_way(url):
    """How many scoring requests are."""
    return count(metrics(url), IN_FLIGHT)


def metrics(url):
    return urllib.request.urlopen(f"{url}/metrics", timeout=60).read().decode()


def count(page, name):
    values = re.findall(rf"^{name}(?:{{[^}}]*}})? (\S+)$", page, re.M)
    return sum(int(float(value)) for value in values)


def agree(before, after, seen):
    """Prints both, and whether one explains the other: what the server received beyond the replies that clients
    saw was of clients that left, each counted once."""
    server = {name: after[name] - before[name] for name in after}
    print("        " + "".join(f"{name:>11}" for name in [*server, "left"]))
    print("server  " + "".join(f"{number:>11}" for number in server.values()))
    print("clients " + "".join(
        f"{seen[name]:>11}" for name in ["posted", *WAYS]) + f"{'':>11}{seen['left']:>11}")
    beyond = {way: server[way] - seen[way] for way in WAYS}
    # Who left before its head came was never received; who left with the reply on its way got none.
    of_those_who_left = sum(beyond.values()) + server["cancelled"]
    holds = {
        "every request that was received ended once":
            server["received"] == sum(server[way] for way in WAYS) + server["cancelled"],
        "every post got a reply or left":
            seen["posted"] == sum(seen[way] for way in WAYS) + seen["left"],
        "every reply is in the books": min(beyond.values()) >= 0,
        "what nobody saw was of clients that left": of_those_who_left <= seen["left"],
    }
    for what, is_true in holds.items():
        print(f"{'holds ' if is_true else 'BROKEN'}  {what}")
    return all(holds.values())
