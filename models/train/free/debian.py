"""Debian packages: their descriptions, their text files, their licences."""
import bz2
import gzip
import re
import subprocess
import tarfile

SKIP_FILE = re.compile(
    r"changelog|copyright|/news|readme\.debian|genindex|py-modindex|/search|_modules|_sources|/cs/|/static/"
    r"|(_8h|_8hpp|_8cpp|-members|_source|-source|/graph_legend|/annotated|/classes|/functions|/globals|"
    r"/hierarchy|/files|/namespaces|deprecated|navtree|-index|-history)[^/]*\.html|whatsnew|release[-_]?notes"
    r"|licen[cs]e|/examples?/.*\.txt|/help/(?!C/|en)|/(?!en)[a-z]{2}[-_@]\w+/|/kde/html/(?!en/)|/perl\w*delta|/man/(?!man\d)|00index|/(de|fr|es|it|ja|ru|pt|pt[-_]br|zh[-_]\w+|nl|ko|tr|pl|sv|da|uk|ca|el)/"
    r"|\.(de|fr|es|it|ja|ru|pt|pt-br|zh-cn|tr|ko|da)(\.utf8)?\.html|/todo|contribut|/authors", re.I)
TEXT_FILE = re.compile(
    r"\.(html?|xhtml|page|docbook|xml|pod|rst|md|txt|info|info-\d+|[1-8](posix|pm|perl)?|en)(\.gz|\.bz2)?$")


class Apt:
    """apt with lists of its own: main only, with the long descriptions."""

    def __init__(self, folder, release):
        self.folder = folder.resolve()
        for sub in "lists/partial", "cache/archives/partial":
            (self.folder / sub).mkdir(parents=True, exist_ok=True)
        (self.folder / "sources.list").write_text(f"deb http://deb.debian.org/debian {release} main\n")
        self.options = [f"-o{k}={v}" for k, v in {
            "Dir::State::lists": self.folder / "lists", "Dir::Cache": self.folder / "cache",
            "Dir::Etc::sourcelist": self.folder / "sources.list", "Dir::Etc::sourceparts": "/dev/null",
            "Acquire::Languages": "en", "Acquire::GzipIndexes": "false", "APT::Sandbox::User": "root",
        }.items()]
        if not list((self.folder / "lists").glob("*Translation-en")):
            subprocess.run(["apt-get", *self.options, "-qq", "update"], check=True, timeout=300)
        self.packages, self.last = {}, (None, {})
        for stanza in self.stanzas("*_Packages"):
            self.packages.setdefault(stanza["Package"], stanza)

    def stanzas(self, pattern):
        for path in sorted((self.folder / "lists").glob(pattern)):
            for block in path.read_text(encoding="utf-8").split("\n\n"):
                fields = dict(re.findall(r"^([\w-]+): ?(.*(?:\n[ \t].*)*)", block, re.M))
                if fields:
                    yield fields

    def files(self, package, limit=25_000_000):
        """{path: bytes} of the text files in a package; downloads it once."""
        if self.last[0] == package:
            return self.last[1]
        debs = self.folder / "debs"
        debs.mkdir(exist_ok=True)
        if not (found := list(debs.glob(f"{package}_*.deb"))):
            subprocess.run(["apt-get", *self.options, "-qq", "download", package], cwd=debs, timeout=180, check=True)
            found = list(debs.glob(f"{package}_*.deb"))
        out = {}
        with subprocess.Popen(["dpkg-deb", "--fsys-tarfile", found[0]], stdout=subprocess.PIPE) as process:
            tar = tarfile.open(fileobj=process.stdout, mode="r|")
            for member in tar:
                name = member.name.lstrip(".")
                if limit < 0 and any(path.endswith("/copyright") for path in out):
                    process.kill()
                    break
                data = re.search(r"dictd/|/wordnet/data", name)
                text = TEXT_FILE.search(name) and not SKIP_FILE.search(name) and member.size < 4_000_000
                copyright = name.endswith("/copyright")
                if not member.isfile() or not (copyright or data or text and limit > 0):
                    continue
                raw = tar.extractfile(member).read()
                limit -= len(raw)
                if name.endswith((".gz", ".dz")):
                    raw = gzip.decompress(raw)
                elif name.endswith(".bz2"):
                    raw = bz2.decompress(raw)
                out[name] = raw.decode("latin-1" if data else "utf-8", "replace")
        self.last = package, out
        return out


def licence(text):
    found = list(dict.fromkeys(re.findall(r"^License:[ \t]*(\S[^\n]{0,60})", text, re.M)))
    if not found:
        known = ("public domain|GNU Free Documentation|GNU General Public|GNU Lesser|Artistic|Apache|MIT|BSD|Creative "
                 "Commons[\\w -]{0,40}|Mozilla|Python Software|PostgreSQL|Open Publication|Permission is hereby granted")
        found = list(dict.fromkeys(re.sub(r"\s+", " ", m) for m in re.findall(known, text)))
    return ", ".join(found[:4]) or "free (Debian main), see its debian/copyright"
