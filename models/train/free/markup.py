"""Documents as levels and texts: (level, heading) or (0, paragraph)."""
import re

from lxml import etree, html

from .prose import UNWANTED, tidy, words

HEADINGS = {"h1": 1, "h2": 2, "h3": 3, "h4": 4, "h5": 5, "h6": 6, "title": 2, "dt": 6, "question": 6, "term": 6}
INLINE = set(
    "a b i u em strong tt code span font small sub sup big kbd var samp q cite abbr acronym dfn literal ulink link"
    " emphasis guilabel guimenu guimenuitem gui application command filename quote menuchoice keycombo keycap"
    " guibutton guiicon xref option replaceable userinput computeroutput key keyseq app file cmd output input".split()
)
DROP = set(
    "script style pre nav header footer head form button select programlisting screen synopsis funcsynopsis svg"
    " info articleinfo bookinfo media mediaobject imageobject textobject math img object credit toc".split()
)
DROP_CLASS = re.compile(
    r"sidebar|related|navigation|headerlink|toctree|highlight|breadcrumb|footer|navbar|nav-side|nav-top|navheader|navfooter"
    r"|^toc|index|copyright|admonition-title|memproto|synopsis|programlisting|caption|legend|field-list|citation|footnote|versionadded|versionchanged")


def parse_markup(text):
    """(level, heading) and (0, paragraph) of HTML, DocBook or Mallard."""
    text = re.sub(r"^\s*<\?xml[^>]*\?>", "", text)
    text = re.sub(r"&(?!(?:lt|gt|amp|quot|nbsp|[lr][sd]quo|[mn]dash|#x?\w+);)([\w.-]+);", r"\1", text)
    try:
        root = html.document_fromstring(text)
    except (etree.ParserError, ValueError):
        return
    out, buffer = [], []

    def flush(level=0, table=False):
        block = tidy("".join(buffer))
        buffer.clear()
        if block and (level or not table or words(block) >= 15):
            out.append((level, block))

    def walk(node, table):
        if not isinstance(node.tag, str):
            return
        tag = node.tag.split(":")[-1]
        if tag == "head" and len(out) == 0 and (title := node.findtext("title")):
            out.append((1, tidy(re.split(r" [—|–-]+ |: ", title)[0])))
        if tag in DROP or DROP_CLASS.search(node.get("class") or "") or node.get("role") in ("navigation", "search"):
            flush(0, table)
            return
        if "math" in (node.get("class") or ""):
            buffer.append("".join(node.itertext()))
            return
        block = tag not in INLINE
        if block:
            flush(0, table)
        buffer.append(node.text or "")
        for child in node:
            walk(child, table or tag == "table")
            buffer.append(child.tail or "")
        if block:
            signature = tag == "dt" and "sig" in (node.get("class") or "")
            rubric = "rubric" in (node.get("class") or "")
            flush(9 if signature else 8 if rubric else HEADINGS.get(tag, 0), table)

    try:
        walk(root, False)
    except RecursionError:
        return
    yield from out


def parse_plain(text):
    """The same for reStructuredText, AsciiDoc, Markdown, Info and POD."""
    marks = []
    text = re.sub(r"^=(head|item)(\d?) *(.*)$", lambda m: f"\n{'#' * int(m[2] or 6)} {m[3]}\n", text, flags=re.M)
    text = re.sub(r"[A-Z]<<?\s*([^<>]*?)\s*>?>", r"\1", text)
    text = re.sub(r":\w+:`([^`<]*?)\s*(<[^>]*>)?`", r"\1", text)
    for block in re.split(r"\n\s*\n", re.sub(r"^```.*?^```", "", text, flags=re.M | re.S)):
        lines = block.strip("\n").split("\n")
        if m := re.match(r"(#+)\s+(.*)", lines[0].strip()):
            yield len(m[1]), tidy(m[2])
            lines = lines[1:]
        while len(lines) > 1 and (m := re.match(r"([=\-~^*\"'.#])\1{2,}\s*$", lines[1])):
            if m[1] not in marks:
                marks.append(m[1])
            yield marks.index(m[1]) + 1, re.sub(r"^[\d.]+\s+", "", tidy(lines[0]))
            lines = lines[2:]
        indent = lines and all(line.startswith(("    ", "\t")) for line in lines)
        if lines and not indent and not re.match(r"\s*(\.\. |:\w+:|\||\+-|<|%|=\w)|.*::?$", lines[0]):
            yield 0, re.sub(r"[`*]+|\\\w?|\[([^\]]*)\]\([^)]*\)", lambda m: m[1] or "", tidy(" ".join(lines)))


def parse_man(text):
    """The same for troff man pages."""
    if m := re.search(r'^\.TH\s+"?([\w.+-]+)', text, re.M):
        yield 1, m[1].lower()
    buffer, code = [], False
    for line in text.split("\n") + [".PP"]:
        line = re.sub(r"\\f(\[\w*\]|\(..|.)|\\&|\\[/,|^]|\\s[+-]?\d", "", line)
        line = re.sub(r"\\-|\\\(en|\\\(mi", "-", re.sub(r"\\\((aq|cq|oq)", "'", line)).replace("\\e", "\\").replace("\\ ", " ")
        macro = re.match(r"\.\s*(\w+)\s*(.*)", line)
        if re.match(r"\.\\\"|'", line):
            continue
        if macro and macro[1] in ("B", "I", "BR", "IR", "BI", "RB", "RI", "IB"):
            parts = re.findall(r'"([^"]*)"|(\S+)', macro[2])
            line = ("" if len(macro[1]) == 2 else " ").join(a or b for a, b in parts)
        elif macro:
            if buffer and not code:
                yield 0, tidy(" ".join(buffer))
            buffer = []
            code = macro[1] in ("nf", "EX") or code and macro[1] not in ("fi", "EE", "SH", "SS")
            if macro[1] in ("SH", "SS"):
                yield 2 + (macro[1] == "SS"), macro[2].strip('"').capitalize()
            continue
        buffer.append(line)


def parse(path, text):
    if re.search(r"/man/man|\.[1-8](posix|pm|perl)?(\.gz)?$", path):
        return parse_man(text)
    if re.search(r"\.(html?|xhtml|page|docbook|xml)\b", path) or text.lstrip()[:9].lower() in ("<!doctype", "<html>"):
        return parse_markup(text)
    return parse_plain(text)


def plain_heading(text):
    text = re.sub(r"^(chapter|section|part|appendix|question|q)?\s*[\dA-Z]?[\d.]*[.:)]\s+|^[\d.]+\s+|[¶#:]+$", "", text, flags=re.I)
    code = re.search(r"[_(){}=<>/\\@$;]|::|\w\.\w|\w[a-z][A-Z]|^-", text) or not re.match(r"\W?\w", text)
    return None if code or words(text) > 15 or UNWANTED.search(text) else text.strip()
