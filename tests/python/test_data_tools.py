"""The scripts of tools/data that make training data: what they read, on tiny inputs made here. Nothing is fetched."""

import gzip
import json
import os
import random
import sys
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(REPOSITORY / "tools" / "data"))

import freedict  # noqa: E402
import generated_nli  # noqa: E402
import libreoffice_help  # noqa: E402
import synthetic_queries  # noqa: E402


def page(title, body):
    return f"""<html><head><title>not this</title></head><body><header><p>Help for all</p></header>
<div id="DisplayArea"><h1>{title}</h1>{body}</div><div id="SearchFrame"></div>
<footer><div><h3>debug</h3></div></footer></body></html>"""


def test_help_page_is_read_block_by_block():
    parsed = libreoffice_help.parse_page(
        page(
            'Turning <span class="emph">URL</span>\n off',
            '<p>One <a href="x">link</a>.</p><pre>code()</pre><ol><li><p>Press <span hidden="true" class="MAC">Cmd</span>'
            '<span hidden="true">Ctrl</span>+Z &amp; go.</p></li></ol><table><tr><td><p>cell</p></td></tr></table>'
            '<div class="relatedtopics"><p class="related">Related</p><div><p>Another title</p></div></div><p>End</p>',
        )
    )
    assert parsed.title == "Turning URL off"
    assert parsed.blocks == [("p", "One link."), ("p", "Press Ctrl+Z & go."), ("p", "cell"), ("p", "End")]


def test_help_page_without_a_title_is_none():
    assert libreoffice_help.parse_page("<html><body><div id='DisplayArea'><p>text</p></div></body></html>") is None
    assert libreoffice_help.parse_page("") is None


def test_untranslated_text_is_told_from_translations():
    english = "Opens a dialog where you choose the colour of the line"
    assert libreoffice_help.looks_english(english, english)
    assert libreoffice_help.looks_english("Opens a dialog where you choose la couleur", english)
    assert not libreoffice_help.looks_english("Ouvre une boîte de dialogue pour choisir la couleur", english)
    assert not libreoffice_help.looks_english("", english)


def test_furniture_is_dropped_and_long_text_cut_at_a_word():
    pages = {
        f"p{i}": libreoffice_help.Page(f"title {i}", [("h2", "Syntax:"), ("p", f"text{i} " + "word " * 400)])
        for i in range(libreoffice_help.COMMON_BLOCK)
    }
    texts = libreoffice_help.bodies(pages)
    assert all(text.startswith(f"{name.replace('p', 'text')} word") for name, text in texts.items())
    assert all(len(text) <= libreoffice_help.MOST_CHARACTERS and text.endswith(" word") for text in texts.values())


def test_pages_with_equal_titles_are_no_queries_and_pages_with_equal_or_english_texts_no_documents():
    def made(language, titles):
        return {name: libreoffice_help.Page(title, []) for name, title in zip("abcdef", titles)}

    def texts(prefix, last):
        words = [" ".join(f"{prefix}{name}{i}" for i in range(30)) for name in "abc"]
        return dict(zip("abcdef", [*words, "short", words[0], last]))

    english = texts("e", "this page was never translated " * 4)
    documents, queries = libreoffice_help.choose_pages(
        {"en": made("en", ["One", "Two", "two", "D", "E", "F"]), "de": made("de", ["Eins", "Zwei", "Drei", "D", "E", "F"])},
        {"en": english, "de": texts("d", "this page was never translated  " * 4)},
    )
    assert documents == ["b", "c"]
    assert queries == []  # "Two" and "two"
    documents, queries = libreoffice_help.choose_pages(
        {"en": made("en", "UVWXYZ"), "de": made("de", "UVWXYZ")}, {"en": english, "de": texts("d", "kurz")}
    )
    assert (documents, queries) == (["b", "c"], ["b", "c"])


def test_blocks_of_different_pages_are_not_aligned():
    english = libreoffice_help.Page("The title", [("p", "A first text."), ("p", "Only code: x=1")])
    other = libreoffice_help.Page("Der Titel", [("p", "Ein erster Text."), ("p", "Only code: x=1")])
    assert list(libreoffice_help.aligned_blocks(english, other)) == [
        ("The title", "Der Titel"),
        ("A first text.", "Ein erster Text."),
    ]
    other.blocks[1] = ("h2", "Only code: x=1")
    assert list(libreoffice_help.aligned_blocks(english, other)) == []


def test_help_sets_share_no_page_between_training_and_test(tmp_path):
    for language, word in (("en", "English"), ("de", "Deutsch")):
        for i in range(60):
            file = tmp_path / language / "text" / f"{i}.html"
            file.parent.mkdir(parents=True, exist_ok=True)
            body = " ".join(f"{word}{i}x{j}" for j in range(20))
            file.write_text(page(f"{word} title {i}", f"<p>{body}</p><p>{word} and {body}</p>"), encoding="utf-8")
    out = tmp_path / "out"
    libreoffice_help.main([str(out), f"en={tmp_path}/en/text", f"de={tmp_path}/de/text"])
    held_out = {line.split("\t")[0] for line in (out / "de-en/qrels/test.tsv").read_text().splitlines()[1:]}
    trained = {json.loads(line)["query"].split()[-1] for line in (out / "pairs/en-de.jsonl").open()}
    parallel = {line.split("\t")[0] for line in (out / "parallel/en-de.tsv").open()}
    assert len(held_out) + len(trained) == 60 and held_out
    assert not held_out & trained and not held_out & parallel
    corpus = [json.loads(line) for line in (out / "de-en/corpus.jsonl").open()]
    assert len(corpus) == 60 and corpus[0]["text"].startswith("English0x0")
    assert not [name for name in os.listdir(out) if name.startswith(".")]


def test_help_without_pages_is_refused(tmp_path):
    with pytest.raises(SystemExit, match="no pages for en"):
        libreoffice_help.main([str(tmp_path / "out"), f"en={tmp_path}"])


def test_dictionary_entries_lose_grammar_examples_and_phrases():
    entry = """recycling /ɹɪsˈaɪklɪŋ/
 [Am.] Wiederverwertung <fem>, Altstoff hof <masc> [Dt.] [envir.]
1. Kreislauf; Umlauf (of goods)
      "household recycling"  - Haushalt, Abfall
   Synonyms: {reuse}, {upcycling}

 see: {recycling centres}"""
    assert freedict.parse_entry(entry) == ("recycling", ["Wiederverwertung", "Kreislauf", "Umlauf"])
    assert freedict.parse_entry("two words /x/\nWort") == ("", ["Wort"])
    assert freedict.parse_entry("sea\nMarEgeo, mar") == ("sea", ["mar"])


def write_dictionary(folder, name, entries):
    index, text = [], b""
    for headword, entry in entries:
        encoded = entry.encode()
        digits = ["".join(freedict.ALPHABET[(n >> 6) & 63] + freedict.ALPHABET[n & 63]) for n in (len(text), len(encoded))]
        index.append("\t".join([headword, *digits]))
        text += encoded
    (folder / f"freedict-{name}.index").write_text("\n".join(index) + "\n", encoding="utf-8")
    with gzip.open(folder / f"freedict-{name}.dict.dz", "wb") as file:
        file.write(text)


def test_word_pairs_are_those_of_both_directions(tmp_path):
    there = [("00databaseinfo", "about\nthis"), ("house", "house /x/\ncasa, rancho\n"), ("sun", "sun\nsol")]
    back = [("casa", "casa\nhouse\n"), ("sol", "sol /s/\n1. sun\n"), ("rancho", "rancho\nhut")]
    write_dictionary(tmp_path, "eng-spa", there)
    write_dictionary(tmp_path, "spa-eng", back)
    freedict.main([str(tmp_path / "out"), str(tmp_path), "en-es=eng-spa,spa-eng"])
    parts = [(tmp_path / "out" / f"en-es.{part}.tsv").read_text().splitlines() for part in ("train", "test")]
    assert sorted(parts[0] + parts[1]) == ["house\tcasa", "sun\tsol"]
    assert [json.loads(line) for line in (tmp_path / "out" / "en-es.jsonl").open()] == [
        dict(zip(("query", "positive"), line.split("\t"))) for line in parts[0]
    ]


def test_no_word_of_a_test_part_is_trained_on(monkeypatch):
    monkeypatch.setattr(freedict, "is_test", lambda word: word.lower() in ("cat", "hund"))
    parts = freedict.split({
        "en-es": {("Cat", "gato"), ("kitty", "Gato"), ("dog", "perro")},
        "en-de": {("dog", "Hund"), ("tree", "Baum"), ("hound", "hund"), ("gato", "Brot")},
        "de-it": {("Hund", "cane"), ("Baum", "albero")},
    })
    assert parts["en-es"] == ({("dog", "perro")}, {("Cat", "gato")})
    assert parts["en-de"] == ({("tree", "Baum"), ("gato", "Brot")}, set())  # gato is Spanish.
    assert parts["de-it"] == ({("Baum", "albero")}, {("Hund", "cane")})


def test_test_words_do_not_depend_on_case():
    words = [f"word{i}" for i in range(200)]
    assert all(freedict.is_test(word) == freedict.is_test(word.upper()) for word in words)
    assert 20 < sum(map(freedict.is_test, words)) < 60


def scene(**slots):
    return generated_nli.Scene(**{"agent": "woman", "deed": ("read", 0), **slots})


def test_similarity_is_five_less_what_slots_cost():
    full = scene(attribute="old", place="garden", time="night")
    assert generated_nli.similarity(full, full) == 5
    assert generated_nli.similarity(full, scene(attribute="old", place="garden")) == 4.75  # not said
    assert generated_nli.similarity(full, scene(attribute="old", place="park", time="night")) == 4.375  # both green
    assert generated_nli.similarity(full, scene(attribute="young", place="garden", time="night")) == 3.75
    assert generated_nli.similarity(full, scene(attribute="rich", place="garden", time="night")) == 4.375
    assert generated_nli.similarity(scene(), scene(agent="man", deed=("read", 1))) == 3.125  # alike both
    assert generated_nli.similarity(full, scene(agent="actor", deed=("eat", 0), place="beach", time="noon")) == 0


def test_scenes_are_said_in_the_grammar_of_each_language():
    class First(random.Random):
        def choice(self, options):
            return options[0]

        def random(self):
            return 0.0  # The time comes first.

    said = scene(attribute="old", place="garden", time="morning", deed=("clean", None))
    assert generated_nli.say(said, "en", First()) == "In the morning, the old woman is cleaning up in the garden."
    assert generated_nli.say(said, "es", First()) == "Por la mañana, la mujer vieja limpia en el jardín."
    assert generated_nli.say(said, "de", First()) == "Am Morgen macht die alte Frau im Garten sauber."
    assert generated_nli.say(scene(agent=None), "de", First()) == "Jemand liest ein Buch."


def test_generated_test_sentences_are_never_trained_on_and_the_seed_decides():
    files = generated_nli.generate(1, 300, 200, 200)
    assert files == generated_nli.generate(1, 300, 200, 200)
    assert files != generated_nli.generate(2, 300, 200, 200)
    for language in generated_nli.LANGUAGES:
        trained = set()
        for row in files[f"{language}.nli"]:
            texts = [row["query"], row["positive"], *row["negatives"]]
            assert len(set(texts)) == 3
            trained.update(texts)
        trained.update(row[side] for row in files[f"{language}.sts.train"] for side in ("text", "pair"))
        tested = files[f"{language}.sts.test"]
        assert not trained & {row[side] for row in tested for side in ("text", "pair")}
        assert all(row["text"] != row["pair"] and 0 <= row["score"] <= 5 for row in tested)
        assert len({row["score"] for row in tested}) > 10
    assert generated_nli.contradicting(scene(place="beach"), random.Random(1)) != scene(place="beach")
    assert files["en-de.sts.test"][7]["text"] == files["en.sts.test"][7]["text"]
    assert files["en-de.sts.test"][7]["pair"] == files["de.sts.test"][7]["pair"]


def test_generating_twice_does_nothing(tmp_path, capsys):
    arguments = [str(tmp_path / "nli"), "--nli", "3", "--sts-train", "3", "--sts-test", "3"]
    generated_nli.main(arguments)
    before = sorted(path.name for path in (tmp_path / "nli").iterdir())
    assert len(before) == 12 and "es.nli.jsonl" in before and "es-de.sts.test.jsonl" in before
    assert len((tmp_path / "nli/es.nli.jsonl").read_text(encoding="utf-8").splitlines()) == 3
    capsys.readouterr()
    generated_nli.main(arguments)
    assert "is there" in capsys.readouterr().out


def test_synthetic_queries_are_the_salient_words_of_the_salient_segment():
    common = ("You can also choose the option here", "También puede elegir la opción aquí")
    names = [f"page{i}" for i in range(10)]
    trained = [name for name in names if not libreoffice_help.is_held_out(name)]
    pages = {
        name: [common, (f"Subject{name} of this page is here", f"Asunto de esta {name} está aquí")] for name in names
    }
    asked = trained[0]
    pages[asked][1] = ("Footnotes number footnotes of long documents", "Las notas numeran notas de documentos muy largos")
    passages = {name: " ".join(text for text, _ in segments) for name, segments in pages.items()}

    def queries(of):
        return [row["query"] for row in synthetic_queries.queries_of(pages, of) if row["positive"] == of[asked]]

    assert {row["positive"] for row in synthetic_queries.queries_of(pages, passages)} == {passages[n] for n in trained}
    assert len(trained) < 10
    assert "notas" in queries(passages)[0] and len(queries(passages)[0].split()) == synthetic_queries.WORDS
    # A segment that the passage does not have (it was cut, or furniture) is nothing to ask about.
    assert "notas" not in " ".join(queries({**passages, asked: common[0]}))


def test_synthetic_queries_without_the_help_say_what_to_run(tmp_path):
    with pytest.raises(SystemExit, match="libreoffice_help.sh"):
        synthetic_queries.main([str(tmp_path / "out"), str(tmp_path)])


def test_synthetic_queries_write_a_file_a_language(tmp_path):
    (tmp_path / "help" / "en-en").mkdir(parents=True)
    (tmp_path / "help" / "parallel").mkdir()
    name = next(name for name in "abcdefgh" if not libreoffice_help.is_held_out(name))
    text = "The pages of this document are numbered"
    (tmp_path / "help" / "en-en" / "corpus.jsonl").write_text(json.dumps({"_id": name, "text": text}) + "\n")
    (tmp_path / "help" / "parallel" / "en-es.tsv").write_text(f"{name}\t{text}\tLas páginas están numeradas\n")
    for _ in range(2):
        synthetic_queries.main([str(tmp_path / "out"), str(tmp_path / "help")])
    rows = [json.loads(line) for line in (tmp_path / "out" / "es-en.jsonl").open()]
    assert rows == [{"query": "Las páginas están numeradas", "positive": text}]
