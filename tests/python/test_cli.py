"""The program as its users meet it: verbs, exit codes, messages, interruption."""

import json
import os
import signal
import subprocess
import time
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
PROGRAM = Path(os.environ.get("BITRAIN_BUILD_DIR", ROOT / "build" / "release")) / "bin" / "bitrain"
QUICKSTART = ROOT / "recipes" / "quickstart" / "en_es.yaml"
SHORT = (ROOT / "recipes" / "quickstart" / "short.overrides").read_text().split()


def bitrain(*arguments, code=0):
    done = subprocess.run([PROGRAM, *map(str, arguments)], capture_output=True, text=True, cwd=ROOT, timeout=300)
    assert done.returncode == code, f"{arguments}: exit {done.returncode}\n{done.stdout}\n{done.stderr}"
    return done


@pytest.fixture(scope="session")
def run(tmp_path_factory):
    """The quickstart with few steps."""
    directory = tmp_path_factory.mktemp("quickstart") / "run"
    done = bitrain("run", QUICKSTART, f"dir={directory}", *SHORT)
    assert "bits per byte" in done.stdout
    return directory


def pairs(path, rows):
    path.write_text("".join(f"{i}\t{a}\t{b}\n" for i, (a, b) in enumerate(rows)))
    return path


ROWS = [(f"the cat number {i} saw the dog", f"el gato número {i} vio al perro") for i in range(300)]


def tiny(tmp_path, data, **stages):
    """A recipe small enough for a second."""
    recipe = {
        "schema": 1,
        "name": "tiny",
        "dir": str(tmp_path / "run"),
        "source": {"path": str(data), "format": "tsv", "column": 2, "language": "en"},
        "target": {"path": str(data), "format": "tsv", "column": 3, "language": "es"},
        "held_out": {"every": 10},
        "stages": {
            "tok": {"recipe": "tokenizer", "tokenizer": {"vocab_size": 320}},
            "first": {
                "recipe": "pretrain",
                "model": {"hidden_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 64},
                "data": {"loader": {"sequence_length": 64, "rows_per_step": 2}},
                "train": {"max_steps": 6, "save_every": 2},
            },
            **stages,
        },
    }
    path = tmp_path / "recipe.yaml"
    path.write_text(json.dumps(recipe, indent=1))  # JSON is YAML.
    return path


def test_every_stage_left_what_it_should(run):
    summary = json.loads((run / "summary.json").read_text())
    stages = summary["stages"]
    assert [s["type"] for s in stages.values()] == [
        "tokenizer", "pretrain", "evaluate", "extend_vocab", "cpt", "merge"]
    for language in ("en", "es"):
        assert stages["evaluate"]["languages"][language]["bits_per_byte"] > 0
        assert stages["merge"]["languages"][language]["loss_per_token"] > 0
        assert {"before", "after"} <= stages["extend"]["fertility"][language].keys()
    assert {"zip_tie", "gaussian", "global_mean"} <= stages["extend"]["initialisers"].keys()
    assert abs(stages["adapt"]["shares"]["es"]["asked"] - 0.8) < 1e-9
    assert stages["adapt"]["curve"]["step"] and summary["peak_memory_bytes"] > 0
    assert (run / "adapt" / "adapter_model.safetensors").exists()
    assert (run / "adapt" / "metrics.jsonl").exists()
    assert "</html>" in (run / "report.html").read_text()
    assert not list(run.glob("*.work")) and not list(run.glob("*.tmp-*"))


def test_a_second_run_skips_everything(run):
    before = (run / "merge" / "model.safetensors").stat().st_mtime_ns
    done = bitrain("run", QUICKSTART, f"dir={run}", *SHORT)
    assert done.stderr.count("finished before, skipped") == 6
    assert (run / "merge" / "model.safetensors").stat().st_mtime_ns == before


def test_verbs_on_the_result(run, tmp_path):
    model = run / "merge"
    figures = json.loads(bitrain("eval", model, "--data", "examples/data/en-es.tsv.zst", "--column", 3, "--language", "es",
                                 "--held-out-every", 64, "--max-documents", 40, "--json").stdout)
    expected = json.loads((run / "summary.json").read_text())["stages"]["merge"]["languages"]["es"]
    assert figures["bits_per_byte"] == pytest.approx(expected["bits_per_byte"], rel=1e-6)
    assert bitrain("generate", model, "En el principio", "--max-new-tokens", 5).stdout.startswith("En el principio")
    text = tmp_path / "text.txt"
    text.write_text("en el principio creó dios los cielos y la tierra\n" * 3)
    report = json.loads(bitrain("vocab", "report", run / "tokenizer", model, "--data", text, "--json").stdout)
    assert report[1]["tokens"] < report[0]["tokens"]
    bitrain("merge", run / "extend", "--adapter", run / "adapt", "--nf4", "--verify", "--out", tmp_path / "merged")
    assert (tmp_path / "merged" / "config.json").exists()
    bitrain("vocab", "extend", run / "pretrain", "--data", "examples/data/en-es.tsv.zst", "--column", 3, "--pieces", 50,
            "--out", tmp_path / "extended")
    assert json.loads((tmp_path / "extended" / "config.json").read_text())["vocab_size"] > 8000
    shown = bitrain("data", "inspect", QUICKSTART, "adapt", f"dir={run}", *SHORT).stdout
    assert "[" in shown and "es" in shown
    assert "report.html" in bitrain("report", run).stdout


def test_recipes_and_config(tmp_path):
    assert "quickstart/en_es.yaml" in bitrain("recipes", "ls").stdout
    bitrain("recipes", "cp", "quickstart/en_es.yaml", tmp_path / "mine.yaml")
    assert (tmp_path / "mine.yaml").read_text() == QUICKSTART.read_text()
    bitrain("recipes", "cp", "quickstart/en_es.yaml", tmp_path / "mine.yaml", code=2)
    assert "learning_rate" in bitrain("config", "explain", "cpt").stdout
    assert "max_steps" in json.dumps(json.loads(bitrain("config", "schema").stdout))
    assert "cpt" in bitrain("config", "explain", "ctp", code=2).stderr


def test_all_problems_at_once_with_places_and_nearest_names(tmp_path):
    recipe = tmp_path / "bad.yaml"
    recipe.write_text(QUICKSTART.read_text().replace("max_steps: 330", "max_stepz: 330").replace(
        "hidden_size: 256", "hidden_size: wide").replace("recipe: merge", "recipe: murge"))
    message = bitrain("validate", recipe, code=2).stderr
    assert "did you mean 'max_steps'" in message
    assert "should be a whole number, not 'wide'" in message
    assert "did you mean 'merge'" in message
    line = next(i for i, text in enumerate(recipe.read_text().splitlines(), 1) if "max_stepz" in text)
    assert f"bad.yaml:{line}:" in message
    bitrain("run", recipe, code=2)


@pytest.mark.parametrize("overrides, part", [
    (["target.path=nowhere.tsv"], "there is no file nowhere.tsv"),
    (["target.language=en"], "is the source's language too"),
    (["base=nowhere"], "no Hugging Face model folder"),
    (["stages.adapt.data.loader.mixture.weights={sauce: 1}"], "there is no source 'sauce'"),
    (["stages.pretrain.train.max_steps=-1"], "must be at least 0, not -1"),
    (["nonsense"], "is no override"),
])
def test_bad_values(overrides, part):
    assert part in bitrain("validate", QUICKSTART, *overrides, code=2).stderr


def test_a_gpu_that_is_not_there(tmp_path):
    if Path("/dev/nvidia0").exists():
        pytest.skip("there is a GPU")
    message = bitrain("run", QUICKSTART, f"dir={tmp_path / 'run'}", "device=cuda", code=2).stderr
    assert "device: " in message and "cuda" in message.lower()
    assert not (tmp_path / "run").exists()


def test_missing_and_empty_files(tmp_path):
    bitrain("run", tmp_path / "none.yaml", code=5)
    empty = tmp_path / "empty.tsv"
    empty.touch()
    assert "is empty" in bitrain("validate", tiny(tmp_path, empty), code=2).stderr
    assert "is empty" in bitrain("run", tiny(tmp_path, empty), code=3).stderr
    blank = tmp_path / "blank.tsv"
    blank.write_text("\n\n")
    assert "blank.tsv" in bitrain("run", tiny(tmp_path, blank), code=3).stderr
    bitrain("eval", tmp_path, "--data", empty, "--language", "es", code=3)


@pytest.mark.parametrize("key, value", [("--max-documents", -1), ("--held-out-every", 0), ("--language", "")])
def test_options_out_of_range_are_named(key, value, tmp_path):
    (tmp_path / "text.txt").write_text("uno\n")
    options = {"--data": tmp_path / "text.txt", "--language": "es", key: value}
    message = bitrain("eval", tmp_path, *(word for pair in options.items() for word in pair), code=2).stderr
    assert key in message


def test_a_run_into_a_link_to_nowhere(tmp_path):
    """The folder that the link names is made."""
    (tmp_path / "run").symlink_to(tmp_path / "disk" / "runs")
    bitrain("run", tiny(tmp_path, pairs(tmp_path / "pairs.tsv", ROWS)))
    assert (tmp_path / "disk" / "runs" / "summary.json").exists()


def test_bad_rows_are_named_or_counted(tmp_path):
    data = pairs(tmp_path / "pairs.tsv", ROWS)
    data.write_bytes(data.read_bytes() + b"300\tbroken \xff\xfe\tx\n301\tonly two\n")
    recipe = tiny(tmp_path, data)
    assert "pairs.tsv:301" in bitrain("run", recipe, code=3).stderr
    assert not (tmp_path / "run" / "tok").exists()
    skipped = bitrain("run", recipe, "skip_invalid=true")
    # The row of two columns lacks only the target; the broken one is unreadable for both.
    assert "1 of 302 rows" in skipped.stderr and "2 of 302 rows" in skipped.stderr
    assert json.loads((tmp_path / "run" / "summary.json").read_text())["invalid_rows"] == {str(data): 2}
    data.write_bytes(b"".join(line for line in data.read_bytes().splitlines(True) if b"\xff" not in line))
    assert "pairs.tsv:301" in bitrain("run", recipe, code=3).stderr


def test_two_runs_in_one_folder(tmp_path):
    data = pairs(tmp_path / "pairs.tsv", ROWS)
    recipe = tiny(tmp_path, data)
    first = subprocess.Popen([PROGRAM, "run", recipe, "stages.first.train.max_steps=100000"], stderr=subprocess.PIPE, text=True)
    try:
        for line in first.stderr:
            if "step 1/" in line:
                break
        message = bitrain("run", recipe, code=6).stderr
        assert "in use by another run" in message and str(first.pid) in message
    finally:
        first.kill()
        first.wait()


def test_interrupted_and_taken_up_again(tmp_path):
    data = pairs(tmp_path / "pairs.tsv", ROWS)
    whole = tiny(tmp_path, data)
    # More lines than a pipe holds: nobody reads on after the signal, so the run cannot have ended before it.
    steps = ["stages.first.train.max_steps=1500", "stages.first.train.log_every=1"]
    bitrain("run", whole, f"dir={tmp_path / 'whole'}", *steps)
    broken = tmp_path / "broken"
    # Tests that run in the background may have inherited that SIGINT is ignored.
    first = subprocess.Popen([PROGRAM, "run", whole, f"dir={broken}", *steps], stderr=subprocess.PIPE, text=True,
                             preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL))
    for line in first.stderr:
        if "step 5/" in line:
            first.send_signal(signal.SIGINT)
            break
    first.communicate(timeout=60)
    assert first.returncode == 130
    assert list(broken.glob("first.work/checkpoint-*")) and not (broken / "first").exists()
    bitrain("run", whole, f"dir={broken}", *steps)

    def curve(directory):
        return json.loads((directory / "summary.json").read_text())["stages"]["first"]["curve"]["loss"]

    assert curve(broken) == curve(tmp_path / "whole")


def test_changed_options_run_what_they_touch(tmp_path):
    data = pairs(tmp_path / "pairs.tsv", ROWS)
    recipe = tiny(tmp_path, data, eval={"recipe": "evaluate"})
    bitrain("run", recipe)
    done = bitrain("run", recipe, "stages.first.train.max_steps=7")
    assert done.stderr.count("skipped") == 1  # The tokenizer.
    time.sleep(0.01)
    pairs(data, ROWS[:-5])
    assert bitrain("run", recipe, "stages.first.train.max_steps=7").stderr.count("skipped") == 0


def test_kill_leaves_nothing_half_written(tmp_path):
    data = pairs(tmp_path / "pairs.tsv", ROWS)
    recipe = tiny(tmp_path, data)
    first = subprocess.Popen([PROGRAM, "run", recipe, "stages.first.train.max_steps=300"], stderr=subprocess.PIPE, text=True)
    for line in first.stderr:
        if "step 3/" in line or "step 4/" in line:
            break
    first.kill()
    first.wait()
    assert not (tmp_path / "run" / "first").exists()
    bitrain("run", recipe, "stages.first.train.max_steps=300")
    assert not list((tmp_path / "run").glob("*.tmp-*"))


def test_damaged_model_folder(run, tmp_path):
    import shutil

    shutil.copytree(run / "merge", tmp_path / "model")
    weights = tmp_path / "model" / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-100])
    assert "truncated" in bitrain("generate", tmp_path / "model", "x", code=4).stderr
    weights.unlink()
    (tmp_path / "model" / "pytorch_model.bin").write_bytes(b"PK")
    assert "save_pretrained" in bitrain("generate", tmp_path / "model", "x", code=8).stderr


def test_plan_says_what_a_cluster_would_give():
    cluster = ["--nodes", 2, "--gpus-per-node", 8, "--gpu", "a100-80", "--shard", "gradients"]
    text = bitrain("plan", QUICKSTART, "stages.adapt.data.loader.rows_per_step=64", *cluster).stdout
    assert "no run of bitrain on several GPUs has been compared with it" in text
    assert "pretrain (pretrain)" in text and "adapt (cpt)" in text and ": fits" in text
    plan = json.loads(bitrain("plan", QUICKSTART, *cluster, "--network-gbps", 100, "--recompute", "--json").stdout)
    assert plan["gpu"]["name"] == "a100-80" and plan["gpu"]["network_gbps"] == 100 and plan["measured"] is False
    pretrain, adapt = plan["stages"]
    assert pretrain["recompute"] and pretrain["groups"] == 16 and pretrain["notes"]
    scatter = next(t for t in adapt["transfers"] if t["collective"] == "reduce_scatter")
    assert scatter["payload_bytes"] == adapt["trained"] * 4  # Adapters are float32, and nothing else travels.
    assert scatter["sent_bytes"] == scatter["payload_bytes"] * 15 // 16
    assert "a100-40" in bitrain("plan", "--list-gpus").stdout
    assert "did you mean 'a100-80'?" in bitrain("plan", QUICKSTART, "--gpu", "a100_80", code=2).stderr
    assert "must divide the 16 ranks" in bitrain("plan", QUICKSTART, *cluster, "--context", 3, code=2).stderr
    assert "name a recipe" in bitrain("plan", code=2).stderr
