"""Makes retrieval sets, training pairs and parallel text out of LibreOffice's help in several languages.

The help has the same pages in every language. A page's title is a query, its text a document. Pages are kept only if
they are usable in every language, so that all sets have the same pages; every fifth, chosen by its name, is held out in
all languages at once. tools/data/libreoffice_help.sh fetches the packages and calls this.
"""

import argparse
import collections
import hashlib
import html.parser
import json
import os
import re
import sys
from dataclasses import dataclass
from pathlib import Path

BLOCKS = {"p", "h1", "h2", "h3", "h4", "h5", "h6", "li", "td", "th", "dt", "dd"}
UNREAD = {"pre", "script", "style", "noscript"}
# Its links repeat the titles of other pages.
RELATED = "relatedtopics"

FEWEST_CHARACTERS = 60  # A page with less text says nothing.
MOST_CHARACTERS = 1200  # More than encoders read of a document (256 tokens).
COMMON_BLOCK = 20  # A block on this many pages is furniture: "Syntax:", "To access this command...".
ENGLISH_SHARE = 0.6  # A text with this share of the English one's words is not translated.
HELD_OUT_EVERY = 5


@dataclass
class Page:
    title: str
    blocks: list[tuple[str, str]]  # tag and text, in order, without the title


class PageParser(html.parser.HTMLParser):
    """Reads the blocks of a page's content; of alternatives for operating systems and modules it takes the default."""

    def __init__(self):
        super().__init__(convert_charrefs=True)
        self.blocks = []
        self.inside = False
        self.unread = 0
        self.spans = []  # whether each open span is an alternative that is passed over
        self.divs = []  # whether each open div is
        self.tag = ""
        self.text = []

    def flush(self, tag=""):
        text = " ".join("".join(self.text).split())
        if text and self.tag:
            self.blocks.append((self.tag, text))
        self.tag, self.text = tag, []

    def handle_starttag(self, tag, attributes):
        named = dict(attributes)
        if tag == "div":
            if named.get("id") == "DisplayArea":
                self.inside = True
            elif named.get("id") == "SearchFrame":
                self.flush()
                self.inside = False
            self.divs.append(RELATED in (named.get("class") or "").split())
        elif tag == "span":
            self.spans.append("hidden" in named and bool(named.get("class")))
        elif tag in UNREAD:
            self.unread += 1
        elif tag == "br":
            self.text.append(" ")
        elif tag in BLOCKS and self.inside:
            self.flush(tag)

    def handle_endtag(self, tag):
        if tag == "div" and self.divs:
            self.divs.pop()
        elif tag == "span" and self.spans:
            self.spans.pop()
        elif tag in UNREAD:
            self.unread = max(0, self.unread - 1)
        elif tag in BLOCKS and self.inside:
            self.flush()

    def handle_data(self, data):
        if self.inside and not self.unread and not any(self.spans) and not any(self.divs):
            self.text.append(data)


def parse_page(source):
    """The page, or None if it has no title."""
    parser = PageParser()
    parser.feed(source)
    parser.flush()
    title = next((text for tag, text in parser.blocks if tag == "h1"), "")
    return Page(title, [block for block in parser.blocks if block[0] != "h1"]) if title else None


def read_pages(folder):
    pages = {}
    for path in sorted(folder.rglob("*.html")):
        page = parse_page(path.read_text(encoding="utf-8"))
        if page:
            pages[path.relative_to(folder).with_suffix("").as_posix()] = page
    return pages


def words_of(text):
    return set(re.findall(r"\w+", text.lower()))


def looks_english(text, english):
    """Whether a translation is the English text, or nearly. Both count: names and code are the same everywhere."""
    words, originals = words_of(text), words_of(english)
    return bool(words) and len(words & originals) >= ENGLISH_SHARE * min(len(words), len(originals))


def bodies(pages):
    """What stays of every page's text without the furniture, cut at a word."""
    counts = collections.Counter()
    for page in pages.values():
        counts.update({text for _, text in page.blocks})
    found = {}
    for name, page in pages.items():
        text = " ".join(text for _, text in page.blocks if counts[text] < COMMON_BLOCK)
        if len(text) > MOST_CHARACTERS:
            text = text[:MOST_CHARACTERS].rsplit(" ", 1)[0]
        found[name] = text
    return found


def unique_keys(texts):
    """Names whose text, whatever its case, is nobody else's."""
    counts = collections.Counter(text.lower() for text in texts.values())
    return {name for name, text in texts.items() if counts[text.lower()] == 1}


def choose_pages(pages, texts):
    """Pages fit in every language: documents; and of those the ones whose title is a query in every language."""
    documents = set.intersection(*(unique_keys(found) for found in texts.values()))
    documents = {
        name
        for name in documents
        if all(len(found[name]) >= FEWEST_CHARACTERS for found in texts.values())
        and not any(
            looks_english(found[name], texts["en"][name]) for language, found in texts.items() if language != "en"
        )
    }
    queries = set(documents)
    for found in pages.values():
        queries &= unique_keys({name: found[name].title for name in documents})
    return sorted(documents), sorted(queries)


def is_held_out(name):
    return int.from_bytes(hashlib.sha256(name.encode()).digest()[:8], "big") % HELD_OUT_EVERY == 0


def aligned_blocks(english, other):
    """Pairs of texts of two pages with the same structure; none if the structures differ."""
    if [tag for tag, _ in english.blocks] != [tag for tag, _ in other.blocks]:
        return
    for (_, text), (_, translation) in zip([("h1", english.title), *english.blocks], [("h1", other.title), *other.blocks]):
        ratio = len(translation) / len(text)
        if text != translation and 0.4 <= ratio <= 2.5 and len(text.split()) >= 2 and not looks_english(translation, text):
            yield text, translation


def write_lines(path, rows):
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w", encoding="utf-8") as file:
        for row in rows:
            file.write((row if isinstance(row, str) else json.dumps(row, ensure_ascii=False)) + "\n")
    return path


def write_sets(out, pages, texts, documents, queries):
    held_out = [name for name in queries if is_held_out(name)]
    trained = [name for name in queries if not is_held_out(name)]
    corpora = {
        language: write_lines(
            out / f".corpus-{language}", ({"_id": name, "title": "", "text": found[name]} for name in documents)
        )
        for language, found in texts.items()
    }
    for asked in texts:
        for answered in texts:
            folder = out / f"{asked}-{answered}"
            write_lines(folder / "queries.jsonl", ({"_id": name, "text": pages[asked][name].title} for name in held_out))
            write_lines(
                folder / "qrels" / "test.tsv",
                ["query-id\tcorpus-id\tscore", *(f"{name}\t{name}\t1" for name in held_out)],
            )
            os.link(corpora[answered], folder / "corpus.jsonl")
            write_lines(
                out / "pairs" / f"{asked}-{answered}.jsonl",
                ({"query": pages[asked][name].title, "positive": texts[answered][name]} for name in trained),
            )
    for corpus in corpora.values():
        corpus.unlink()
    print(f"{len(documents)} documents, {len(held_out)} queries and {len(trained)} training pairs, each in {' '.join(texts)}")


def write_parallel(out, pages):
    """Segments of the pages that are not held out."""
    for language in pages:
        if language == "en":
            continue
        seen = set()
        rows = []
        for name in sorted(pages["en"].keys() & pages[language].keys()):
            if is_held_out(name):
                continue
            for text, translation in aligned_blocks(pages["en"][name], pages[language][name]):
                if (text, translation) not in seen:
                    seen.add((text, translation))
                    rows.append(f"{name}\t{text}\t{translation}")
        write_lines(out / "parallel" / f"en-{language}.tsv", rows)
        print(f"en-{language}: {len(rows)} parallel segments")


def main(arguments=None):
    parser = argparse.ArgumentParser(description=__doc__.split("\n", 1)[0])
    parser.add_argument("out", type=Path)
    parser.add_argument("folders", nargs="+", metavar="LANGUAGE=FOLDER", help="en first")
    options = parser.parse_args(arguments)
    pages = {language: read_pages(Path(folder)) for language, folder in (f.split("=", 1) for f in options.folders)}
    for language, found in pages.items():
        if not found:
            sys.exit(f"libreoffice_help.py: no pages for {language}; has the package changed its layout?")
    texts = {language: bodies(found) for language, found in pages.items()}
    documents, queries = choose_pages(pages, texts)
    write_sets(options.out, pages, texts, documents, queries)
    write_parallel(options.out, pages)


if __name__ == "__main__":
    main()
