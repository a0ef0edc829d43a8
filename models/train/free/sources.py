"""Pairs out of manuals, package descriptions and dictionaries."""
import re

from .markup import parse, plain_heading
from .prose import GENERIC, HIGH, LOW, UNWANTED, pieces, tidy, words


def manuals(sets, apt, name, package, cap):
    """Headings and first sentences of the documents in a package."""
    files = {p: t for p, t in (apt.files(package)).items() if not p.endswith("/copyright")}
    order, count = sorted(files), 0
    sets.rng.shuffle(order)
    for path in order:
        if count >= cap:
            break
        above, query, paragraphs = {}, None, []
        for level, text in [*parse(path, files[path]), (9, "")]:
            if not level:
                if words(text) > 1 and not re.match(r"new in version|changed in version|(see|defined in|type|file):? ", text, re.I):
                    paragraphs.append(text)
                continue
            if paragraphs:
                count += sets.add_section(name, query, paragraphs)
                paragraphs = []
            raw = plain_heading(text) if level < 9 else None
            above = {k: v for k, v in above.items() if k < level}
            parents = [v for k, v in sorted(above.items()) if not GENERIC.match(v)]
            if raw:
                above[level] = raw
            query = raw
            if raw and not raw.endswith("?") and (GENERIC.match(raw) or words(raw) < 4):
                query = f"{parents[-1]} {raw}" if parents and parents[-1].lower() != raw.lower() else raw
                if words(query) < 2 or GENERIC.match(query):
                    query = None
            if text and level < 9 and UNWANTED.search(text):
                query = None
    return count


def package_descriptions(sets, apt, cap):
    """Short description -> long description, each paragraph once per source package."""
    sources, passages = {}, []
    for stanza in apt.stanzas("*Translation-en"):
        name, text = stanza["Package"], stanza.get("Description-en", "")
        known = apt.packages.get(name)
        if known and not re.search(r"-(dbg|dbgsym|dev|udeb|l10n.*|locale.*|i18n)$|^(task|hunspell|aspell|myspell)-", name):
            if not re.search(r"transitional|dummy|metapackage|meta-package", text, re.I):
                sources.setdefault(known.get("Source", name).split()[0], []).append((name, text))
    for source in sorted(sources):
        seen = set()
        for name, text in sorted(sources[source], key=lambda x: (x[0].startswith("lib"), len(x[0]))):
            short, _, long = text.partition("\n")
            kept = []
            for paragraph in re.split(r"\n \.(?:\n|$)", long):
                paragraph = re.sub(r"\n\s+[*o+-]\s+", "; ", "\n" + paragraph)
                paragraph = re.sub(r"^[\s;]+", "", tidy(paragraph)).replace(":;", ":").replace(".;", ";")
                key = re.sub(r"\W", "", paragraph.lower())
                if key not in seen and not re.match(r"homepage|this package (contains|provides|includes|ships)", paragraph, re.I):
                    kept.append(paragraph)
                seen.add(key)
            short = re.sub(r"\s*\([^)]*\)$|\s+-+ .*$", "", tidy(short))
            if kept and sum(map(words, kept)) >= LOW:
                passages.append((short if words(short) > 2 else f"{name}: {short}", [p for p in kept if p]))
    sets.rng.shuffle(passages)
    return sum(sets.add_section("train-packages", *row) for row in passages[:cap])


def define(sets, name, term, text, stop_share=0.12):
    """A dictionary entry: asked for in several ways, headed by its term only half the time."""
    rng = sets.rng
    query = rng.choice([term, term, f"what is {term}?", f"define {term}", f"{term} meaning"])
    title = term if rng.random() < 0.5 else ""
    return sets.add(name, query, " ".join(text.split()[:HIGH]), title, stop_share)


def wordnet(sets, apt, cap):
    glosses = {}
    for path, data in apt.files("wordnet-base").items():
        for line in data.split("\n") if "/data." in path else ():
            if line[:1].isdigit() and " | " in line:
                fields, gloss = line.split(" | ", 1)
                fields = fields.split()
                terms = [re.sub(r"\(\w+\)", "", t).replace("_", " ") for t in fields[4 : 4 + 2 * int(fields[3], 16) : 2]]
                gloss = tidy(gloss.replace('"', ""))
                for term in terms:
                    others = [t for t in terms if t != term]
                    extra = f" (also {', '.join(others)})" if others else ""
                    glosses.setdefault(term, []).append(gloss[:1].upper() + gloss[1:] + extra + ".")
    terms = sorted(glosses, key=lambda t: (-min(words(" ".join(glosses[t])), 60), t))
    chosen = sets.rng.sample(terms[: 3 * cap], min(3 * cap, len(terms)))
    count = 0
    for term in chosen:
        count += count < cap and define(sets, "train-wordnet", term, " ".join(glosses[term]))
    return count


def dictd(sets, apt, package, cap):
    """Entries of a dictd database: index lines give base64 offset and length."""
    digits = {c: i for i, c in enumerate("ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/")}
    number = lambda s: sum(digits[c] * 64**i for i, c in enumerate(reversed(s)))
    files, count = apt.files(package), 0
    data = next((t for p, t in files.items() if p.endswith(".dict.dz")), "").encode("latin-1")
    rows = [r.split("\t") for p, t in files.items() if p.endswith(".index") for r in t.split("\n") if r.count("\t") >= 2]
    sets.rng.shuffle(rows)
    for term, offset, length, *_ in rows:
        entry = data[number(offset) : number(offset) + number(length)].decode("utf-8", "replace")
        if count >= cap or term.startswith("00") or number(length) > 9000:
            continue
        head, _, body = entry.strip().partition("\n")
        if package == "dict-gcide":
            head = head.split("\\")[0]
            body = re.sub(r"^.*?\\[^\\]*\\,?\s*((?:[a-z]{1,2}|pl|imp|adv|prep|conj|pron)\.\s*(&\s*)?)*", "", entry, count=1, flags=re.S)
            body = re.sub(r"^\s*\([^)]*[?;\"*][^)]*\),?\s*(\w{1,4}\.\s*)*", "", body)
            body = re.sub(r"\[[^\]]*\]|^\s*--.*$|--[A-Z][\w. ]*$", "", body, flags=re.M)
        body = re.sub(r"\n\s*\n\s*((?:\(|<)?\d{4}-\d\d-\d\d.*)?", "\n\n", re.sub(r"[{}]|<[^>]*>|\[Jargon File\]", "", body or entry))
        first = pieces([tidy(p) for p in body.split("\n\n") if tidy(p)], sets.rng)
        name = "train-" + ("gcide" if package == "dict-gcide" else "dictionary")
        for i, piece in enumerate(first):
            count += define(sets, name, head.strip() if words(head) < 6 else term, piece) if i == 0 else sets.add(name, None, piece)
    return count
