"""Optional step 0: make many free (query, passage) pairs out of Debian main.

    python free_pairs.py --out FREE

Everything in Debian main is free by the Debian guidelines: no non-commercial and no
no-derivatives text. Package descriptions, dictionaries and manuals become training sets in the
layout that prepare.py reads: OUT/train-NAME/{train.tsv.gz,corpus.jsonl.gz}, without negatives.
OUT/licences.tsv names each source package, its version and its licence. Needs apt and lxml.
"""
import argparse
import subprocess
import tarfile
import time
from itertools import zip_longest
from pathlib import Path

from free.debian import Apt, licence
from free.prose import Sets
from free.sources import dictd, manuals, package_descriptions, wordnet


def packages():
    """{kind: [package]} of packages.txt."""
    kinds = {}
    for line in (Path(__file__).parent / "free" / "packages.txt").read_text().splitlines():
        if line.startswith("#"):
            continue
        head, colon, rest = line.partition(":")
        if colon and not head.startswith(" "):
            kind, line = head, rest
        if line.strip():
            kinds.setdefault(kind, []).extend(line.split())
    return kinds


def main():
    args = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    args.add_argument("--out", type=Path, required=True)
    args.add_argument("--work", type=Path, help="where downloads go and stay (default OUT/apt)")
    args.add_argument("--release", default="bookworm")
    args.add_argument("--cap", type=int, default=2000, help="pairs from any one manual package")
    args.add_argument("--only", default="", help="kinds to make, e.g. packages,words (default all)")
    args.add_argument("--minutes", type=float, default=600, help="start no further package after this")
    args.add_argument("--seed", type=int, default=1)
    args = args.parse_args()
    args.out.mkdir(parents=True, exist_ok=True)
    sets, apt = Sets(args.out, args.seed), Apt(args.work or args.out / "apt", args.release)
    start, kinds = time.time(), packages()
    wanted = lambda kind: not args.only or kind in args.only.split(",")
    jobs = []
    if wanted("packages") and "train-packages" not in sets.rows:
        print("packages", package_descriptions(sets, apt, 40000), flush=True)
    if wanted("words"):
        jobs.append(("wordnet-base", lambda p: wordnet(sets, apt, 8000)))
        jobs += [(p, lambda p: dictd(sets, apt, p, 8000)) for p in kinds["dictionaries"]]
    queues = [[(g, p) for p in names] for g, names in kinds.items() if g != "dictionaries" and wanted(g)]
    for group, package in (row for rank in zip_longest(*queues) for row in rank if row):  # by turns
        jobs.append((package, lambda p, g=group: manuals(sets, apt, f"train-{g}", p, args.cap)))
    licences = ["source\tversion\tlicence\tpackage", f"(descriptions)\t{args.release}\tthat of each source package in Debian main\t"]
    if (args.out / "licences.tsv").exists():
        licences += (args.out / "licences.tsv").read_text(encoding="utf-8").split("\n")[1:-1]
    done = {row.split("\t")[-1] for row in licences}
    for package, job in jobs:
        if time.time() > start + 60 * args.minutes:
            print("out of time before", package)
            break
        if package in done:
            continue
        try:
            count = job(package) if package in apt.packages else None
            if count:
                text = next((t for p, t in apt.files(package).items() if p.endswith("/copyright")), "")
                known = apt.packages[package]
                licences.append(f"{known.get('Source', package).split()[0]}\t{known['Version']}\t{licence(text)}\t{package}")
            print(package, "not in this release" if count is None else count, flush=True)
        except (subprocess.SubprocessError, OSError, tarfile.TarError, EOFError, LookupError, ValueError) as error:
            print(package, "skipped:", error, flush=True)
    (args.out / "licences.tsv").write_text("\n".join(dict.fromkeys(licences)) + "\n", encoding="utf-8")
    for row in sets.write():
        print("%s: %d pairs, %d passages of %d words, %.1f MB" % row)


if __name__ == "__main__":
    main()
