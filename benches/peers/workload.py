"""Writes a workload of our own making: three sets of one query and its documents, the same on every machine.

    python workload.py OUT_FILE [--bulk]

short: 20 documents of about 120 word pieces; mixed: 100, log-normal around 120; long: 20 that fill 512;
bulk, if asked for: the lengths of mixed for 1,000.
"""
import json
import math
import random
import sys
from pathlib import Path

WORDS = """the of and to in a is that for it as was with be by on not he his but at are this have from or had an
they which one you were all her she there would their we him been has when who will no more if out so up said what
its about than into them can only other time new some could these two may first then do any like my now over such
our man me even most made after also did many off before must well back through years where much your way down
should because long each just state those people too how little good world make very year still see own work men day
get here old life both between being under three never know same last another while us might great go come since
against right came take used himself few house use place during high without again home around small however found
engine library server query index document model token memory network package format driver protocol compiler kernel
database language interface function variable thread process storage system tool client message header parser""".split()


def text(source, num_words):
    words = [source.choice(WORDS) for _ in range(num_words)]
    ends = range(11, num_words, 12)
    for i in ends:
        words[i] += "."
    return " ".join(words)


def main():
    source = random.Random(20261126)
    mixed = [min(500, max(8, round(math.exp(source.gauss(math.log(106), 0.6))))) for _ in range(100)]
    lengths = {"short": [106] * 20, "mixed": mixed, "long": [520] * 20}
    if "--bulk" in sys.argv[2:]:
        lengths["bulk"] = mixed * 10
    sets = {
        name: {"query": text(source, 6), "documents": [text(source, n) for n in of]}
        for name, of in lengths.items()
    }
    Path(sys.argv[1]).write_text(json.dumps({"sets": sets}))


if __name__ == "__main__":
    main()
