"""The scripts of tools/data that make word vectors and queries, on tiny inputs made here."""

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

ROOT = Path(__file__).resolve().parents[2]
TOOLS = ROOT / "tools" / "data"
sys.path.insert(0, str(TOOLS))

import generated_queries  # noqa: E402
import hidden_rotation  # noqa: E402


def script(name, *arguments):
    return subprocess.run([sys.executable, TOOLS / name, *map(str, arguments)], capture_output=True, text=True)


def test_hidden_rotation_is_one_and_the_same_every_time(tmp_path):
    for folder in ("a", "b"):
        assert script("hidden_rotation.py", tmp_path / folder).returncode == 0
    files = ["source.vec", "target.vec", "train.txt", "test.txt"]
    for part in ("clean", "noisy"):
        for name in files:
            assert (tmp_path / "a" / part / name).read_bytes() == (tmp_path / "b" / part / name).read_bytes()
    assert (tmp_path / "a/clean/source.vec").read_bytes() == (tmp_path / "a/noisy/source.vec").read_bytes()
    heading, *rows = (tmp_path / "a/noisy/target.vec").read_text().splitlines()
    assert heading == "2200 30"
    words = [row.split()[0] for row in rows]
    vectors = np.array([[float(x) for x in row.split()[1:]] for row in rows])
    assert len(words) == 2200 and sum(word.startswith("hub") for word in words) == 200
    assert words != sorted(words, key=lambda word: (word[0] != "t", len(word), word))  # No order to learn from.
    np.testing.assert_allclose(np.linalg.norm(vectors, axis=1), 1, atol=1e-4)


def test_the_clean_set_is_a_rotation():
    sources, translations, hubs = hidden_rotation.spaces(3, 200, 12, 0.0, 0.1)
    sources, translations = np.array(sources), np.array(translations)
    u, s, v = np.linalg.svd(sources.T @ translations)
    np.testing.assert_allclose(sources @ (u @ v), translations, atol=1e-12)
    # Hubs are nearer to all words together than the words are to each other.
    assert (np.array(hubs) @ translations.T).mean() > (translations @ translations.T).mean()


def test_queries_are_first_sentences_word_by_word():
    translations = {"open": "abrir", "file": "fichero", "the": "el", "query": "consulta"}
    text = "Open the file.  Stop. Queries and LibreOffice files: no query 7! The end of it"
    assert generated_queries.queries_of(text, translations, 3, 4) == [
        "abrir el fichero", "consulta and libreoffice fichero", "no consulta"]
    assert generated_queries.queries_of("One.", translations, 3, 4) == []


def test_queries_of_a_corpus(tmp_path):
    corpus, dictionary, out = tmp_path / "corpus.jsonl", tmp_path / "en-es.tsv", tmp_path / "new" / "out.jsonl"
    corpus.write_text('{"_id": "a", "title": "", "text": "The house. A cat sleeps."}\n{"_id": "b", "text": "x"}\n')
    dictionary.write_text("house\tcasa\nhouse\thogar\nthe\tel\nCat\tgato\n")
    done = script("generated_queries.py", corpus, dictionary, out)
    assert "2 queries for 2 documents, 1 have none" in done.stdout
    assert [json.loads(line) for line in out.read_text().splitlines()] == [
        {"document": "a", "query": "el casa"}, {"document": "a", "query": "a gato sleeps"}]


@pytest.mark.parametrize(("corpus", "dictionary", "problem"), [
    ('{"text": "no id"}', "a\tb\n", "corpus.jsonl:1: a row needs _id and text"),
    ('{"_id": "a", "text": "b"}', "a\tb\nab\n", "en-es.tsv:2: not a word and a translation"),
])
def test_broken_rows_are_named(tmp_path, corpus, dictionary, problem):
    (tmp_path / "corpus.jsonl").write_text(corpus + "\n")
    (tmp_path / "en-es.tsv").write_text(dictionary)
    done = script("generated_queries.py", tmp_path / "corpus.jsonl", tmp_path / "en-es.tsv", tmp_path / "out.jsonl")
    assert done.returncode != 0 and problem in done.stderr
    assert not (tmp_path / "out.jsonl").exists()
