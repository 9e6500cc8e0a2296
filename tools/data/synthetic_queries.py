"""Makes queries in other languages for English passages, without anybody's queries (SWIM-IR's idea, without its model).

SWIM-IR has PaLM-2 summarise a passage and ask a question about it in the wanted language. In its place: the segment of
a page that says most of what the page says (by tf-idf) is the summary, its translation stands beside it in the parallel
text, and the most salient words of that, in their order, are what somebody would type. Pages that are held out are never
used. Needs what tools/data/libreoffice_help.sh made.

    python3 tools/data/synthetic_queries.py [FOLDER [HELP]]     default: runs/data/swim_ir runs/data/help

    <q>-en.jsonl     query in language q, positive: the English text of the page
"""

import argparse
import collections
import json
import math
import re
import shutil
import sys
from pathlib import Path

from libreoffice_help import is_held_out

DATA = Path(__file__).parents[2] / "runs" / "data"
QUERIES = 3  # Of a page, each from another segment.
WORDS = 5  # Of a query.
FEWEST_WORDS = 5  # Of a segment that can be a summary.


def words_of(text):
    return [word for word in re.findall(r"[^\W\d_]+", text) if len(word) > 1]


class Rarity:
    """Inverse document frequency of lower-cased words."""

    def __init__(self, texts):
        self.counts = collections.Counter(word for text in texts for word in {w.lower() for w in words_of(text)})
        self.texts = max(1, len(texts))

    def of(self, word):
        return math.log((1 + self.texts) / (1 + self.counts[word.lower()]))


def salience(texts, rarity):
    """How much each word, lower-cased, stands for the page of these texts: tf-idf."""
    counts = collections.Counter(word.lower() for text in texts for word in words_of(text))
    return {word: math.log1p(count) * rarity.of(word) for word, count in counts.items()}


def summaries(segments, salient, most):
    """The segments (English, translation) that say most of what the page says, for their length."""

    def central(segment):
        words = {word.lower() for word in words_of(segment[0])}
        return sum(salient[word] for word in words) / math.sqrt(len(words))

    long_enough = [segment for segment in segments if len(words_of(segment[0])) >= FEWEST_WORDS]
    return sorted(long_enough, key=lambda segment: -central(segment))[:most]


def ask(text, salient):
    """The most salient words of a text, each once, in their order."""
    words = list({word.lower(): word for word in words_of(text)}.values())
    kept = set(sorted(words, key=lambda word: (-salient[word.lower()], word))[:WORDS])
    return " ".join(word for word in words if word in kept)


def read_parallel(path):
    """Segments (English, translation) of every page."""
    pages = collections.defaultdict(list)
    for line in path.read_text(encoding="utf-8").splitlines():
        name, english, translation = line.split("\t")
        pages[name].append((english, translation))
    return pages


def queries_of(pages, passages):
    """Rows (query, positive) for the passages that are not held out."""
    english = Rarity([" ".join(text for text, _ in segments) for segments in pages.values()])
    foreign = Rarity([" ".join(text for _, text in segments) for segments in pages.values()])
    for name, passage in passages.items():
        if is_held_out(name):
            continue
        segments = [segment for segment in pages.get(name, []) if segment[0] in passage]
        in_english = salience([text for text, _ in segments], english)
        in_foreign = salience([text for _, text in segments], foreign)
        asked = set()
        for _, translation in summaries(segments, in_english, QUERIES):
            query = ask(translation, in_foreign)
            if len(query.split()) > 1 and query not in asked:
                asked.add(query)
                yield {"query": query, "positive": passage}


def main(arguments=None):
    parser = argparse.ArgumentParser(description=__doc__.split("\n", 1)[0])
    parser.add_argument("out", type=Path, nargs="?", default=DATA / "swim_ir")
    parser.add_argument("help", type=Path, nargs="?", default=DATA / "help")
    options = parser.parse_args(arguments)
    if options.out.exists():
        print(f"synthetic_queries.py: {options.out} is there")
        return
    corpus = options.help / "en-en" / "corpus.jsonl"
    if not corpus.exists():
        sys.exit(f"synthetic_queries.py: there is no {corpus}; run 'bash tools/data/libreoffice_help.sh' first")
    with corpus.open(encoding="utf-8") as file:
        passages = {row["_id"]: row["text"] for row in map(json.loads, file)}
    # Written aside and renamed, so that an interruption leaves nothing half there.
    partial = options.out.with_name(options.out.name + ".partial")
    shutil.rmtree(partial, ignore_errors=True)
    partial.mkdir(parents=True)
    for path in sorted((options.help / "parallel").glob("en-*.tsv")):
        language = path.stem.removeprefix("en-")
        rows = list(queries_of(read_parallel(path), passages))
        with (partial / f"{language}-en.jsonl").open("w", encoding="utf-8") as file:
            for row in rows:
                file.write(json.dumps(row, ensure_ascii=False) + "\n")
        print(f"{language}-en: {len(rows)} queries for {len({row['positive'] for row in rows})} passages")
    partial.rename(options.out)


if __name__ == "__main__":
    main()
