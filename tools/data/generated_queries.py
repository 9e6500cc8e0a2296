"""Makes queries for documents in another language, without a model: their first sentences, translated word by word.

Each of the first sentences of a document becomes a query: its first words, each as the dictionary translates it, as
they are where it does not (names of programs, say). That is no good translation, but it has words that people of that
language look for. Output rows are {"document": id, "query": text}, which `generated_queries` of an evaluate_retrieval
stage reads.

    python3 tools/data/generated_queries.py CORPUS.jsonl DICTIONARY.tsv OUT.jsonl [--queries 5] [--words 12]
"""

import argparse
import json
import os
import re
import sys
from pathlib import Path

SENTENCE_END = re.compile(r"(?<=[.!?:])\s+")
WORD = re.compile(r"[^\W\d_]+")
FEWEST_WORDS = 2


def read_corpus(path):
    """Identifiers and texts, in order."""
    with open(path, encoding="utf-8") as lines:
        for number, line in enumerate(lines, 1):
            row = json.loads(line)
            if "_id" not in row or "text" not in row:
                sys.exit(f"generated_queries.py: {path}:{number}: a row needs _id and text")
            yield str(row["_id"]), f"{row.get('title', '')} {row['text']}".strip()


def read_dictionary(path):
    """The first translation of each word, in lower case."""
    translations = {}
    with open(path, encoding="utf-8") as lines:
        for number, line in enumerate(lines, 1):
            columns = line.rstrip("\n").split("\t")
            if len(columns) != 2:
                sys.exit(f"generated_queries.py: {path}:{number}: not a word and a translation, parted by a tab")
            translations.setdefault(columns[0].strip().lower(), columns[1].strip().lower())
    return translations


def translate(word, translations):
    """By the dictionary, a plural by its singular; the word itself where that has neither."""
    forms = [word]
    if word.endswith("ies"):
        forms.append(word[:-3] + "y")
    if word.endswith("es"):
        forms.append(word[:-2])
    if word.endswith("s"):
        forms.append(word[:-1])
    return next((translations[form] for form in forms if form in translations), word)


def queries_of(text, translations, queries, words):
    """At most `queries` queries of at most `words` words each."""
    sentences = (WORD.findall(sentence.lower()) for sentence in SENTENCE_END.split(text))
    chosen = [sentence[:words] for sentence in sentences if len(sentence) >= FEWEST_WORDS][:queries]
    return [" ".join(translate(word, translations) for word in sentence) for sentence in chosen]


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("corpus", type=Path)
    parser.add_argument("dictionary", type=Path)
    parser.add_argument("out", type=Path)
    parser.add_argument("--queries", type=int, default=5, help="for a document, at most")
    parser.add_argument("--words", type=int, default=12, help="of a query, at most")
    arguments = parser.parse_args()
    translations = read_dictionary(arguments.dictionary)
    arguments.out.parent.mkdir(parents=True, exist_ok=True)
    partial = arguments.out.with_name(arguments.out.name + ".partial")
    documents = written = without = 0
    with open(partial, "w", encoding="utf-8") as out:
        for identifier, text in read_corpus(arguments.corpus):
            queries = queries_of(text, translations, arguments.queries, arguments.words)
            documents += 1
            written += len(queries)
            without += not queries
            for query in queries:
                out.write(json.dumps({"document": identifier, "query": query}, ensure_ascii=False) + "\n")
    os.replace(partial, arguments.out)
    print(f"generated_queries.py: {written} queries for {documents} documents, {without} have none: {arguments.out}")


if __name__ == "__main__":
    main()
