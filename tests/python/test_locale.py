"""A program that uses bitrain may have set a locale with a decimal comma (locale.setlocale(LC_ALL, ""), R, toolkits of
windows): files, numbers and messages must not notice."""

import json
import os
import re
import shutil
import subprocess
import sys

import pytest

LOCALES = {"de_DE": "de_DE.UTF-8", "tr_TR": "tr_TR.UTF-8"}  # Turkish letters have another lower case of I.
SCRIPT = """
import json, locale, sys
import bitrain
name, folder, recipe = sys.argv[1:]
locale.setlocale(locale.LC_ALL, name)
assert name == "C" or locale.localeconv()["decimal_point"] == ","
lines = [f"the cat number {i} saw a dog and the tree {i % 7}" for i in range(300)]
for kind in ("bpe", "unigram"):
    bitrain.train_tokenizer(lines, f"{folder}/{kind}", vocab_size=320, character_coverage=0.9995, model_type=kind,
                            exact_vocab_size=False)
bitrain.run(recipe, [f"dir={folder}/run", "stages.first.train.learning_rate=0.0015"])
"""
VOLATILE = {"directory", "seconds", "train_seconds", "tokens_per_second", "seconds_per_step", "peak_memory_bytes", "planned_memory_bytes", "curve"}


@pytest.fixture(scope="module")
def locales(tmp_path_factory):
    if shutil.which("localedef") is None or not os.path.exists("/usr/share/i18n/locales/de_DE"):
        pytest.skip("the package locales (localedef and its sources) is not installed")
    folder = tmp_path_factory.mktemp("locales")
    for source, name in LOCALES.items():
        subprocess.run(["localedef", "-i", source, "-f", "UTF-8", folder / name], check=True, capture_output=True)
    return folder


def recipe_in(folder):
    pairs = folder / "pairs.tsv"
    pairs.write_text("".join(f"{i}\tthe cat number {i} saw\tel gato número {i} vio\n" for i in range(200)))
    recipe = {
        "schema": 1,
        "name": "commas",
        "dtype": "float32",
        "source": {"path": str(pairs), "format": "tsv", "column": 2, "language": "en"},
        "target": {"path": str(pairs), "format": "tsv", "column": 3, "language": "es"},
        "held_out": {"every": 10},
        "claims": [{"says": "It ran at all.", "that": "first/steps", "above": "0.5"}],
        "stages": {
            "tok": {"recipe": "tokenizer",
                    "tokenizer": {"vocab_size": 320, "character_coverage": 0.9995, "exact_vocab_size": False}},
            "first": {
                "recipe": "pretrain",
                "model": {"hidden_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 64},
                "data": {"loader": {"sequence_length": 64, "rows_per_step": 2}},
                "train": {"max_steps": 8, "eval_every": 4, "log_every": 2, "learning_rate": 0.001},
            },
        },
    }
    path = folder / "recipe.yaml"
    path.write_text(json.dumps(recipe))
    return path


def run_under(name, locales, folder):
    folder.mkdir()
    done = subprocess.run(
        [sys.executable, "-c", SCRIPT, name, folder, recipe_in(folder.parent)], capture_output=True, text=True,
        env={**os.environ, "LOCPATH": str(locales), "OMP_NUM_THREADS": "1"}, timeout=300,
    )
    assert done.returncode == 0, done.stderr
    return re.sub(r"[\d,]+ tokens/s", "N tokens/s", done.stderr)


@pytest.fixture(scope="module")
def plain(locales, tmp_path_factory):
    folder = tmp_path_factory.mktemp("plain")
    return folder / "C", run_under("C", locales, folder / "C")


def lasting(value):
    """What two runs have in common."""
    if isinstance(value, dict):
        return {key: lasting(one) for key, one in value.items() if key not in VOLATILE}
    return [lasting(one) for one in value] if isinstance(value, list) else value


@pytest.mark.parametrize("name", LOCALES.values())
def test_a_decimal_comma_changes_nothing(name, plain, locales, tmp_path):
    expected, expected_log = plain
    log = run_under(name, locales, tmp_path / "comma")
    for kind in ("bpe", "unigram"):
        model = f"{kind}/tokenizer.model"
        assert (tmp_path / "comma" / model).read_bytes() == (expected / model).read_bytes(), model
    summaries = [json.loads((folder / "run" / "summary.json").read_text()) for folder in (expected, tmp_path / "comma")]
    assert summaries[0]["claims"][0]["held"] is True
    assert lasting(summaries[1]) == lasting(summaries[0])
    assert summaries[1]["stages"]["first"]["curve"]["loss"] == summaries[0]["stages"]["first"]["curve"]["loss"]
    shapes = [re.sub(r"\d+", "#", text).replace("run/", "").splitlines() for text in (expected_log, log)]
    assert [line for line in shapes[1] if "/" not in line] == [line for line in shapes[0] if "/" not in line]
    assert re.search(r"\d\.\d s", log) and not re.search(r"\d,\d+ s", log)
    html = (tmp_path / "comma" / "run" / "report.html").read_text()
    assert re.search(r' y1?="\d+\.\d"', html)
    assert not re.search(r'="-?\d+,\d', html) and not re.search(r"[ML]\d+,\d", html)
