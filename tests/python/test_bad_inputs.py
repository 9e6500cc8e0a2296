"""Models that hold no numbers, are too large to be true or are no files: what every verb and stage says."""

import json
import os
import shutil
import signal
import struct
import subprocess
import sys
import time
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
PROGRAM = Path(os.environ.get("BITRAIN_BUILD_DIR", ROOT / "build" / "release")) / "bin" / "bitrain"
NAN = float("nan")


def bitrain(*arguments, code):
    """Ends at once, whatever waits; what it printed on stderr."""
    done = subprocess.run([PROGRAM, *map(str, arguments)], capture_output=True, text=True, cwd=ROOT, timeout=60)
    assert done.returncode == code, f"{arguments}: exit {done.returncode}\n{done.stdout}\n{done.stderr}"
    assert "null" not in done.stdout
    return done.stderr


def recipe(folder, stages, base=None):
    rows = "".join(f"{i}\tthe cat number {i} saw it\tel gato número {i} lo vio\n" for i in range(300))
    (folder / "pairs.tsv").write_text(rows)
    side = {"path": str(folder / "pairs.tsv"), "format": "tsv"}
    content = {
        "schema": 1,
        "name": "tiny",
        "dir": str(folder / "run"),
        "source": {**side, "column": 2, "language": "en"},
        "target": {**side, "column": 3, "language": "es"},
        "held_out": {"every": 10, "max_documents": 10},
        "stages": stages,
    }
    if base:
        content["base"] = str(base)
    (folder / "recipe.yaml").write_text(json.dumps(content))
    return folder / "recipe.yaml"


LOADER = {"loader": {"sequence_length": 64, "rows_per_step": 2}}


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """A model and an adapter on it."""
    folder = tmp_path_factory.mktemp("made")
    stages = {
        "tok": {"recipe": "tokenizer", "tokenizer": {"vocab_size": 320, "exact_vocab_size": False}},
        "first": {
            "recipe": "pretrain",
            "model": {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 64},
            "data": LOADER,
            "train": {"max_steps": 2},
        },
        "adapt": {
            "recipe": "cpt",
            "lora": {"target_modules": ["q_proj"]},
            "data": LOADER,
            "train": {"max_steps": 2},
        },
    }
    bitrain("run", recipe(folder, stages), code=0)
    return folder / "run"


@pytest.fixture
def model(made, tmp_path):
    return Path(shutil.copytree(made / "first", tmp_path / "model"))


def set_first_number(path, name, value):
    with open(path, "r+b") as file:
        size = struct.unpack("<Q", file.read(8))[0]
        entry = json.loads(file.read(size))[name]
        assert entry["dtype"] in ("F32", "BF16")
        number = struct.pack("<f", value)
        file.seek(8 + size + entry["data_offsets"][0])
        file.write(number if entry["dtype"] == "F32" else number[2:])


@pytest.mark.parametrize("value", [NAN, float("inf")])
def test_verbs_name_the_weight_that_is_no_number(model, made, tmp_path, value):
    weights = model / "model.safetensors"
    set_first_number(weights, "model.norm.weight", value)
    lines = tmp_path / "lines.txt"
    lines.write_text("el gato vio al perro\n" * 300)
    out = tmp_path / "out"
    for verb in (
        ["eval", model, "--data", lines, "--language", "es", "--json"],
        ["merge", model, "--adapter", made / "adapt", "--out", out],
        ["merge", model, "--adapter", made / "adapt", "--out", out, "--verify"],
        ["vocab", "extend", model, "--data", lines, "--out", out],
        ["generate", model, "the cat"],
    ):
        said = bitrain(*verb, code=7)
        assert f"{weights}: model.norm.weight holds" in said, verb
        assert not out.exists(), verb


def test_an_adapter_that_is_no_number_is_named(model, made, tmp_path):
    adapter = Path(shutil.copytree(made / "adapt", tmp_path / "adapter"))
    weights = adapter / "adapter_model.safetensors"
    name = "base_model.model.model.layers.1.self_attn.q_proj.lora_B.weight"
    set_first_number(weights, name, NAN)
    said = bitrain("merge", model, "--adapter", adapter, "--out", tmp_path / "out", code=7)
    assert f"{weights}: {name} holds nan" in said


@pytest.mark.parametrize(
    "stage",
    [
        {"recipe": "evaluate"},
        {"recipe": "cpt", "lora": {"target_modules": ["q_proj"]}, "data": LOADER, "train": {"max_steps": 2}},
        {
            "recipe": "cpt",
            "lora": {"target_modules": ["q_proj"]},
            "data": LOADER,
            "train": {"max_steps": 2, "eval_at_start": False, "eval_at_end": False},
        },
        {"recipe": "extend_vocab", "vocab": {"pieces": 10}},
    ],
)
def test_stages_name_the_weight_that_is_no_number(model, tmp_path, stage):
    weights = model / "model.safetensors"
    set_first_number(weights, "model.layers.1.mlp.up_proj.weight", NAN)
    path = recipe(tmp_path, {"s": {"from": "base", **stage}}, base=model)
    said = bitrain("run", path, code=7)
    assert "stage s" in said and f"{weights}: model.layers.1.mlp.up_proj.weight holds nan at element 0" in said
    assert not (tmp_path / "run" / "s").exists()


#: Runs a program and prints its peak of memory in KiB. The kernel counts what a process was before it began the program, too: here
#: this small one, and not that of all the tests.
PEAK = """
import resource, subprocess, sys
done = subprocess.run(sys.argv[1:], stderr=subprocess.PIPE, text=True)
sys.stderr.write(done.stderr)
print(resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss)
sys.exit(done.returncode)
"""


@pytest.mark.parametrize(
    "key, size",
    [("num_hidden_layers", 4000), ("hidden_size", 1 << 20), ("vocab_size", 60_000_000), ("intermediate_size", 1 << 20)],
)
@pytest.mark.parametrize("verb", ["eval", "validate", "plan", "run"])
def test_sizes_out_of_proportion_take_no_memory(model, tmp_path, verb, key, size):
    config = json.loads((model / "config.json").read_text())
    config[key] = size
    (model / "config.json").write_text(json.dumps(config))
    (tmp_path / "lines.txt").write_text("el gato\n")
    stage = {"recipe": "cpt", "from": "base", "lora": {"target_modules": ["q_proj"]}, "data": LOADER}
    arguments = {"eval": [model, "--data", tmp_path / "lines.txt", "--language", "es"]}.get(
        verb, [recipe(tmp_path, {"s": {**stage, "train": {"max_steps": 2}}}, base=model)]
    )
    done = subprocess.run([sys.executable, "-c", PEAK, PROGRAM, verb, *map(str, arguments)], capture_output=True, text=True)
    assert done.returncode in (2, 4), done.stderr
    assert str(model) in done.stderr and "do not fit config.json" in done.stderr
    assert int(done.stdout) < 1 << 20


NO_FILES = {
    "a pipe": os.mkfifo,
    "a folder": os.mkdir,
    "a device": lambda path: os.symlink("/dev/zero", path),
}


@pytest.mark.parametrize("kind", NO_FILES)
@pytest.mark.parametrize(
    "name", ["model.safetensors", "config.json", "tokenizer.model", "tokenizer.json", "tokenizer_config.json"]
)
def test_what_is_no_file_in_a_model_is_named(model, tmp_path, name, kind):
    if name == "tokenizer.model":
        (model / "tokenizer.json").unlink()  # It would be used alone, with a warning.
    (model / name).unlink(missing_ok=True)
    NO_FILES[kind](model / name)
    (tmp_path / "lines.txt").write_text("el gato\n")
    said = bitrain("eval", model, "--data", tmp_path / "lines.txt", "--language", "es", code=5)
    assert f"{model / name}: it is {kind}" in said


@pytest.mark.parametrize("kind", NO_FILES)
def test_a_shard_that_is_no_file_is_named(model, tmp_path, kind):
    (model / "model.safetensors").unlink()
    index = {"weight_map": {"model.norm.weight": "model-00001-of-00001.safetensors"}}
    (model / "model.safetensors.index.json").write_text(json.dumps(index))
    NO_FILES[kind](model / "model-00001-of-00001.safetensors")
    (tmp_path / "lines.txt").write_text("el gato\n")
    said = bitrain("eval", model, "--data", tmp_path / "lines.txt", "--language", "es", code=5)
    assert f"model-00001-of-00001.safetensors: it is {kind}" in said


@pytest.mark.parametrize("kind", NO_FILES)
@pytest.mark.parametrize("side", ["source", "target"])
def test_text_that_is_no_file_is_named(tmp_path, side, kind):
    path = recipe(tmp_path, {"tok": {"recipe": "tokenizer", "tokenizer": {"vocab_size": 320}}})
    NO_FILES[kind](tmp_path / "text.tsv")
    content = json.loads(path.read_text())
    content[side]["path"] = str(tmp_path / "text.tsv")
    path.write_text(json.dumps(content))
    for verb in ("validate", "run"):
        done = subprocess.run([PROGRAM, verb, path], capture_output=True, text=True, cwd=ROOT, timeout=60)
        assert done.returncode in (2, 3, 5), (verb, done)
        assert str(tmp_path / "text.tsv") in done.stderr and kind.split()[1] in done.stderr


def test_a_recipe_comes_from_a_file_or_a_pipe(tmp_path):
    assert "it is a folder" in bitrain("validate", tmp_path, code=5)
    stage = {"recipe": "tokenizer", "tokenizer": {"vocab_size": 320, "exact_vocab_size": False}}
    text = recipe(tmp_path, {"tok": stage}).read_text()
    for verb in ("validate", "run"):
        for given, code, said in ((text, 0, ""), ("", 5, "an empty pipe"), ("{", 2, "/dev/stdin:")):
            done = subprocess.run(
                [PROGRAM, verb, "/dev/stdin"], input=given, capture_output=True, text=True, cwd=ROOT, timeout=60
            )
            assert done.returncode == code and said in done.stderr, (verb, given, done)
    assert (tmp_path / "run" / "tok" / "tokenizer.model").is_file()


def test_text_that_is_cut_during_a_run_is_named(tmp_path):
    stages = {
        "tok": {"recipe": "tokenizer", "tokenizer": {"vocab_size": 320, "exact_vocab_size": False}},
        "first": {
            "recipe": "pretrain",
            "model": {"hidden_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 64},
            "data": LOADER,
            "train": {"max_steps": 1000000, "save_every": 1},
        },
    }
    child = subprocess.Popen([PROGRAM, "run", recipe(tmp_path, stages)], stderr=subprocess.PIPE, text=True)
    try:
        work = tmp_path / "run" / "first.work"
        deadline = time.monotonic() + 60
        while not list(work.glob("checkpoint-*/manifest.json")) and time.monotonic() < deadline:
            time.sleep(0.01)
        os.truncate(tmp_path / "pairs.tsv", 50)
        said = child.communicate(timeout=60)[1]
    finally:
        if child.poll() is None:
            child.send_signal(signal.SIGKILL)
    assert child.returncode == 5, said[-2000:]
    assert f"{tmp_path / 'pairs.tsv'}: changed while it was in use" in said
