"""What is planned of a stage's memory, beside what it took; and plans of clusters."""

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
PROGRAM = Path(os.environ.get("BITRAIN_BUILD_DIR", ROOT / "build" / "release")) / "bin" / "bitrain"
sys.path.insert(0, str(ROOT / "benchmarks"))

import memory_plan as cases  # noqa: E402

MOST = 1.3


def bitrain(*arguments, code=0):
    done = subprocess.run([PROGRAM, *map(str, arguments)], capture_output=True, text=True, cwd=ROOT, timeout=300)
    assert done.returncode == code, f"{arguments}: exit {done.returncode}\n{done.stdout}\n{done.stderr}"
    return done


def off(stages):
    """Stages whose plan and peak are further apart than MOST, with both."""
    ratios = {name: stage["planned_memory_bytes"] / stage["peak_memory_bytes"] for name, stage in stages.items()}
    return {name: f"{ratio:.2f} of {stages[name]['peak_memory_bytes'] >> 20} MiB"
            for name, ratio in ratios.items() if not 1 / MOST <= ratio <= MOST}


@pytest.fixture(scope="module", params=["small", "middle"])
def language_model(request, tmp_path_factory):
    folder = tmp_path_factory.mktemp("language_model") / "data"
    recipe = cases.language_model_recipe(folder, cases.SIZES[request.param])
    return recipe, cases.run(PROGRAM, recipe)


@pytest.fixture(scope="module", params=["small", "middle"])
def encoder(request, tmp_path_factory):
    folder = tmp_path_factory.mktemp("encoder") / "data"
    return cases.run(PROGRAM, cases.encoder_recipe(folder, cases.SIZES[request.param]))


def test_stages_of_language_models_need_what_was_planned(language_model):
    _, stages = language_model
    assert off(stages) == {}


def test_stages_of_encoders_need_what_was_planned(encoder):
    assert off(encoder) == {}


def test_every_type_of_stage_is_looked_at(tmp_path):
    """A new type of stage needs a plan, and a place in the recipes above."""
    size = cases.SIZES["small"]
    recipes = [cases.language_model_recipe(tmp_path / "a", size), cases.encoder_recipe(tmp_path / "b", size)]
    seen = {stage["recipe"] for recipe in recipes for stage in recipe["stages"].values()}
    schema = json.loads(bitrain("config", "schema").stdout)
    assert {name for name in re.findall(r'"const": "(\w+)"', json.dumps(schema))} - {"1"} == seen


@pytest.mark.parametrize("changes", [
    {"dtype": "float32", "quantize": False},
    {"micro_batch_rows": 1},
    {"train": {"recompute": True}},
    {"train": {"save_every": 1, "save_in_background": True, "eval_every": 1}},
], ids=["float32", "micro_batches", "recompute", "background_save"])
def test_other_ways_to_train(changes, tmp_path):
    size = {**cases.SIZES["middle"], "rows": 4}
    recipe = cases.language_model_recipe(tmp_path / "data", size, **changes)
    recipe["stages"] = {name: recipe["stages"][name] for name in ("tok", "first", "extend", "adapt")}
    assert off(cases.run(PROGRAM, recipe)) == {}


def test_a_peak_holds_no_earlier_stages_pages(language_model):
    """The evaluation behind a training stage takes what it takes by itself, in a process of its own."""
    recipe, stages = language_model
    directory = Path(recipe["dir"])
    alone = {**recipe, "stages": {name: recipe["stages"][name] for name in ("tok", "first", "judge")}}
    peak = stages["judge"]["peak_memory_bytes"]
    subprocess.run(["rm", "-r", directory / "judge"], check=True)
    again = cases.run(PROGRAM, alone)["judge"]["peak_memory_bytes"]
    assert peak < 1.15 * again + (8 << 20)


def test_validate_lists_every_stage(tmp_path):
    recipe = cases.language_model_recipe(tmp_path / "data", cases.SIZES["small"])
    path = tmp_path / "recipe.yaml"
    path.write_text(json.dumps(recipe))
    shown = bitrain("validate", path).stdout
    for name, stage in recipe["stages"].items():
        assert re.search(rf"^  {name} +{stage['recipe']} .* [MG]iB$", shown, re.MULTILINE), shown
    assert "program" in shown and "scoring" in shown


LARGE = {
    "schema": 1, "name": "large",
    "source": {"path": "pairs.tsv", "format": "tsv", "column": 2, "language": "en"},
    "target": {"path": "pairs.tsv", "format": "tsv", "column": 3, "language": "es"},
    "held_out": {"every": 10},
    "stages": {
        "tok": {"recipe": "tokenizer", "tokenizer": {"vocab_size": 32000}},
        "first": {"recipe": "pretrain",
                  "model": {"hidden_size": 4096, "num_hidden_layers": 32, "num_attention_heads": 32,
                            "intermediate_size": 11008, "max_position_embeddings": 4096},
                  "data": {"loader": {"sequence_length": 4096, "rows_per_step": 64, "micro_batch_rows": 8}},
                  "train": {"max_steps": 10}},
    },
}


def test_a_plan_that_does_not_fit_fails_and_its_advice_works(tmp_path):
    path = tmp_path / "large.yaml"
    path.write_text(json.dumps(LARGE))
    cluster = ["--nodes", 2, "--gpus-per-node", 8, "--gpu", "a100-80"]
    done = bitrain("plan", path, *cluster, code=6)
    assert "DOES NOT FIT" in done.stdout
    assert re.search(r"stages\.first needs [\d.]+ GiB on each GPU, which has [\d.]+: [\d.]+ GiB too much", done.stderr)
    advice = done.stderr.split("it fits with ")[1].split(": ")[0].split()
    assert advice and all("=" in key for key in advice)
    bitrain("plan", path, *advice, *cluster)
    # Options that stand for keys do not stand in the way of the keys.
    bitrain("plan", path, *advice, *cluster, "--shard", "none")
    assert json.loads(bitrain("plan", path, *cluster, "--json", code=6).stdout)["stages"][0]["fits"] is False


def test_keys_of_a_cluster_plan_are_keys_of_recipes(tmp_path):
    """Whatever the advice names must be read: with a value, no key is a problem."""
    path = tmp_path / "large.yaml"
    (tmp_path / "pairs.tsv").write_text("".join(f"{i}\ta b\tc d\n" for i in range(30)))
    path.write_text(json.dumps({**LARGE, "dir": str(tmp_path / "run")}))
    seen = set()
    for gpus in (1, 2, 8):
        error = bitrain("plan", path, "--gpus-per-node", gpus, "--gpu", "a100-40", code=6).stderr
        seen |= set(re.findall(r"(?:parallel|stages\.\w+\.\w+)\.[\w.]*\w(?:=\w+)?", error))
    assert len(seen) >= 3
    bitrain("validate", path, *(key if "=" in key else f"{key}=1024" for key in seen))


def test_the_recipes_own_parallel_counts(tmp_path):
    path = tmp_path / "large.yaml"
    path.write_text(json.dumps({**LARGE, "parallel": {"shard": "gradients"}}))
    plan = json.loads(bitrain("plan", path, "--nodes", 16, "--gpus-per-node", 8,
                              "stages.first.data.loader.micro_batch_rows=1", "stages.first.train.recompute=true",
                              "--json").stdout)
    assert plan["shard"] == "gradients"
