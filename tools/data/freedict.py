"""Makes word pairs out of FreeDict's dictionaries in dictd's format, split by headword into training and test part.

No word of a test part, headword or gloss, is in the training part of any dictionary of its language.

A pair stays if the dictionaries of both directions have it: one of them alone splits phrases wrongly and has slips.
tools/data/freedict.sh fetches the packages and calls this.
"""

import argparse
import gzip
import hashlib
import json
import re
import string
import sys
from pathlib import Path

ALPHABET = string.ascii_uppercase + string.ascii_lowercase + string.digits + "+/"
TEST_EVERY = 5

# Grammar, field and country beside a gloss, and pronunciation: <masc>, [Br.], (of a tree), {pl}, /ˈɛːɡ/.
NOTES = re.compile(r"<[^>]*>|\[[^\]]*\]|\([^)]*\)|\{[^}]*\}|/[^/]*/")
WORD = re.compile(r"[^\W\d_]+(?:[-'’][^\W\d_]+)*")
# Two words that a conversion ran together: MarEgeo.
RUN_TOGETHER = re.compile(r"[^\W\d_A-ZÀ-Þ][A-ZÀ-Þ]")


def number_of(digits):
    """dictd writes offsets in base 64."""
    value = 0
    for digit in digits:
        value = value * 64 + ALPHABET.index(digit)
    return value


def is_word(text):
    return bool(WORD.fullmatch(text)) and len(text) > 1 and not RUN_TOGETHER.search(text)


def parse_entry(entry):
    """Headword and glosses that are single words. Examples (indented further) and references are no glosses."""
    lines = entry.split("\n")
    headword = NOTES.sub(" ", lines[0]).strip()
    glosses = []
    for line in lines[1:]:
        if line.startswith("  ") or line.lstrip().startswith(("see:", '"', "Synonym")):
            continue
        line = re.sub(r"^\s*\d+\.\s*", "", line)
        for gloss in re.split(r"[,;]", NOTES.sub(" ", line)):
            if is_word(gloss.strip()):
                glosses.append(gloss.strip())
    return (headword if is_word(headword) else ""), glosses


def read_dictionary(folder, name):
    index = (folder / f"freedict-{name}.index").read_text(encoding="utf-8")
    with gzip.open(folder / f"freedict-{name}.dict.dz") as file:
        text = file.read()
    pairs = set()
    for line in index.splitlines():
        key, offset, length = line.rsplit("\t", 2)
        if key.startswith("00database"):
            continue
        begin = number_of(offset)
        headword, glosses = parse_entry(text[begin : begin + number_of(length)].decode("utf-8"))
        if headword:
            pairs.update((headword, gloss) for gloss in glosses)
    return pairs


def is_test(headword):
    """By the word as it is read, so that Bank and bank are on one side."""
    digest = hashlib.sha256(headword.lower().encode()).digest()
    return int.from_bytes(digest[:8], "big") % TEST_EVERY == 0


def write_lines(path, lines):
    path.write_text("".join(line + "\n" for line in lines), encoding="utf-8")


def split(dictionaries):
    """{"en-es": pairs} -> {"en-es": (training pairs, test pairs)}"""
    test = {name: {pair for pair in pairs if is_test(pair[0])} for name, pairs in dictionaries.items()}
    held = {
        (language, word.lower())
        for name, pairs in test.items()
        for pair in pairs
        for language, word in zip(name.split("-"), pair, strict=True)
    }
    return {
        name: (
            {
                pair
                for pair in pairs - test[name]
                if not any((side, word.lower()) in held for side, word in zip(name.split("-"), pair, strict=True))
            },
            test[name],
        )
        for name, pairs in dictionaries.items()
    }


def write_pairs(out, name, train, test):
    train, test = sorted(train), sorted(test)
    write_lines(out / f"{name}.train.tsv", ("\t".join(pair) for pair in train))
    write_lines(out / f"{name}.test.tsv", ("\t".join(pair) for pair in test))
    write_lines(
        out / f"{name}.jsonl",
        (json.dumps({"query": word, "positive": gloss}, ensure_ascii=False) for word, gloss in train),
    )
    print(f"{name}: {len(train)} training and {len(test)} test pairs")


def main(arguments=None):
    parser = argparse.ArgumentParser(description=__doc__.split("\n", 1)[0])
    parser.add_argument("out", type=Path)
    parser.add_argument("folder", type=Path, help="with freedict-<name>.index and .dict.dz")
    parser.add_argument("names", nargs="+", metavar="PAIR=THERE,BACK", help="for example en-es=eng-spa,spa-eng")
    options = parser.parse_args(arguments)
    options.out.mkdir(parents=True)
    dictionaries = {}
    for argument in options.names:
        name, sources = argument.split("=", 1)
        there, back = sources.split(",")
        pairs = read_dictionary(options.folder, there) & {
            (word, gloss) for gloss, word in read_dictionary(options.folder, back)
        }
        if not pairs:
            sys.exit(f"freedict.py: no pairs for {name}; has the package changed its layout?")
        dictionaries[name] = pairs
    for name, (train, test) in split(dictionaries).items():
        write_pairs(options.out, name, train, test)


if __name__ == "__main__":
    main()
