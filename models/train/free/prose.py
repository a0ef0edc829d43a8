"""What makes a good passage, and the sets that passages are gathered in."""
import gzip
import hashlib
import json
import random
import re

LOW, HIGH = 20, 180  # words in a passage
STOP = set(
    "the of and to a in is that for it as with are be on by this or an from at which you can "
    "not has its will when used if was have one all also into but there more other your".split()
)
HOLES = re.compile(r"\b(for|where|of|is|by|the|with|if|are|a|an|to|let|and)[.,;:](\s|$)|[.,:;] ?[,.;](\s|$)|see \.|\bdoi:|\bpp\.|\bvol\. ?\d|\[source\]|\\\*\(|\bNode: |\]\[|\\\(")
BOILERPLATE = re.compile(
    r"copyright|\(c\)|©|warrant(y|ies)|licen[cs]e|all rights reserved|permission is|redistribut"
    r"|generated from|lorem ipsum|mailing list|bug report|report(ing)? bugs|click here|last (updated|modified)"
    r"|cookie|table of contents|this (page|document|chapter|section) (was|is) (generated|under)", re.I)
GENERIC = re.compile(
    r"^(introduction|overview|description|(basic )?usage|examples?|notes?|details?|summary|general|details?"
    r"|background|features?|options?|purpose|abstract|theory|methods?|definitions?|remarks?|basics"
    r"|motivation|concepts?|preface|other|miscellaneous|discussion|conclusions?|what it does)$", re.I)
UNWANTED = re.compile(
    r"see also|contribut(or|ion)|reference|further reading|bibliograph|^index|licen[cs]|copying|author|acknowledg|bugs"
    r"|copyright|changelog|changes|what's new|release notes|navigation|contents|^(parameters|returns?|"
    r"raises|yields|attributes|synopsis|name|files|history|credits|todo|news|links|environment|exit status"
    r"|conforming to|colophon|standards|availability|versions?|prerequisites|download|source code|"
    r"detailed description|public member.*|namespace.*|class list|file list)$", re.I)
DANGLING = re.compile(
    r"^(this|that|these|those|it|its|they|their|he|she|his|her|such|here|note|also|however|but|and|or|so"
    r"|thus|then|therefore|for (example|instance)|in (this|that|these|addition|contrast)|moreover|see|if so"
    r"|otherwise|both|again|similarly|finally|next|another|the (above|following|latter|former|same)|as "
    r"(above|before|mentioned|noted|in)|now|let)\b", re.I)


def words(text):
    return len(text.split())


def tidy(text):
    text = re.sub(r"<?\b(https?|ftp)://\S+", "", text.replace("\xad", "").replace("¶", ""))
    text = re.sub(r"\[\d+\]|\(\s*\)|[│┃]", "", text)
    return re.sub(r"\s+([,.;:)])", r"\1", re.sub(r"\s+", " ", text)).strip(" -*•")


def english_prose(text, stop_share=0.2):
    tokens = re.findall(r"[A-Za-z']+", text.lower())
    if not LOW <= words(text) <= HIGH or len(tokens) < 0.75 * words(text):
        return False
    letters = sum(c.isalpha() or c in " ,.'-" for c in text)
    if letters < 0.9 * len(text) or sum(c in "{}=<>|\\_$#@" for c in text) > 0.012 * len(text):
        return False
    if sum(not c.isascii() for c in text) > 0.03 * len(text) or len(set(tokens)) < 0.4 * len(tokens):
        return False
    return sum(t in STOP for t in tokens) >= stop_share * len(tokens) and not BOILERPLATE.search(text) and not HOLES.search(text)


def sentences(text):
    return re.split(r"(?<=[.!?])(?<!e\.g\.)(?<!i\.e\.)(?<!cf\.)(?<!vs\.)\s+(?=[A-Z\"“(])", text)


def pieces(paragraphs, rng):
    """Passages of a section: neighbouring paragraphs up to a random length, long ones by sentence."""
    out, size, limit = [[]], 0, rng.randint(50, HIGH - 20)
    for paragraph in paragraphs:
        for part in [paragraph] if words(paragraph) <= limit else sentences(paragraph):
            if size + words(part) > limit and size >= LOW:
                out.append([])
                size, limit = 0, rng.randint(50, HIGH - 20)
            out[-1].append(part)
            size += words(part)
    return [" ".join(p if p[-1] in ".!?:;," else p + "." for p in piece if p) for piece in out if any(piece)]


class Sets:
    """The sets being made, without duplicates over all of them."""

    def __init__(self, out, seed):
        self.out, self.rng, self.seen, self.rows = out, random.Random(seed), set(), {}
        for folder in sorted(out.glob("train-*")):  # an earlier run's sets are added to
            with gzip.open(folder / "train.tsv.gz", "rt", encoding="utf-8") as pairs:
                queries = {row.split("\t")[1]: row.split("\t")[0] for row in pairs}
            with gzip.open(folder / "corpus.jsonl.gz", "rt", encoding="utf-8") as corpus:
                for row in map(json.loads, corpus):
                    query = queries.get(row["id"])
                    self.rows.setdefault(folder.name, []).append((query, row["title"], row["text"]))
                    self.seen.add(self.key(row["text"]))
                    self.seen.add(re.sub(r"\W", "", (query or "").lower()))

    @staticmethod
    def key(text):
        return hashlib.md5(re.sub(r"\W+", "", text.lower())[:150].encode()).digest()

    def add(self, name, query, text, title="", stop_share=0.2):
        """Keep the passage if it is good and new; a pair too if there is a query."""
        key = self.key(text)
        if key in self.seen or not english_prose(text, stop_share):
            return 0
        self.seen.add(key)
        query = tidy(query or "")
        same = re.sub(r"\W", "", query.lower()) in self.seen if query else True
        if not 1 <= words(query) <= 40 or len(query) < 3 or same or HOLES.search(query) or not query.isascii() or sum(c.isalpha() or c == " " for c in query) < 0.75 * len(query):
            query = None
        else:
            self.seen.add(re.sub(r"\W", "", query.lower()))
        self.rows.setdefault(name, []).append((query, title, text))
        return 1 if query else 0

    def add_section(self, name, query, paragraphs):
        """Heading -> first passage; of later passages, first sentence -> rest."""
        count = 0
        for piece in pieces(paragraphs, self.rng):
            if query:
                faq = query.endswith("?") and words(query) > 3
                added = self.add("train-faq" if faq else name, query, piece)
                count += added
                query = None if added else query
                continue
            first = sentences(piece)[0]
            rest = piece[len(first) :].strip()
            usable = 5 <= words(first) <= 35 and words(rest) >= LOW and not DANGLING.match(first)
            count += self.add(name, first, rest) if usable else self.add(name, None, piece)
        return count

    def write(self):
        report = []
        for name, rows in sorted(self.rows.items()):
            (self.out / name).mkdir(parents=True, exist_ok=True)
            with gzip.open(self.out / name / "train.tsv.gz", "wt", encoding="utf-8") as pairs, \
                    gzip.open(self.out / name / "corpus.jsonl.gz", "wt", encoding="utf-8") as corpus:
                pairs.write("query\tpositive\tnegatives\n")
                for i, (query, title, text) in enumerate(rows):
                    corpus.write(json.dumps({"id": f"{i}", "title": title, "text": text}, ensure_ascii=False) + "\n")
                    if query:
                        pairs.write(f"{query}\t{i}\t\n")
            labelled = sum(1 for row in rows if row[0])
            report.append((name, labelled, len(rows), round(sum(words(r[2]) for r in rows) / len(rows)),
                           round(sum(len(r[2]) for r in rows) / 1e6, 1)))
        return report
