"""Input and surroundings that nobody wishes for: each ends in one message and the exit code of its kind."""

import json
import os
import resource
import subprocess
import time
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
PROGRAM = Path(os.environ.get("BITRAIN_BUILD_DIR", ROOT / "build" / "release")) / "bin" / "bitrain"
QUICKSTART = ROOT / "recipes" / "quickstart" / "en_es.yaml"
KIB = 1024
MIB = 1024 * KIB


def bitrain(*arguments, limits=(), stdout=subprocess.PIPE, timeout=120):
    """Runs the program; `limits`: (resource.RLIMIT_..., bytes) of its process."""

    def limit():
        for what, size in limits:
            resource.setrlimit(what, (size, size))

    return subprocess.run(
        [PROGRAM, *map(str, arguments)], stdout=stdout, stderr=subprocess.PIPE, cwd=ROOT, timeout=timeout, preexec_fn=limit
    )


def refused(done, code, *parts):
    errors = done.stderr.decode(errors="backslashreplace")
    assert done.returncode == code, f"exit {done.returncode}\n{errors}"
    for part in parts:
        assert part in errors, f"{part!r} is not in:\n{errors}"
    for foreign in ("Exception raised from", "frame #", "INTERNAL ASSERT", "report a bug to PyTorch", "unexpected"):
        assert foreign not in errors, errors
    return errors


@pytest.mark.parametrize("mib", [410, 450, 500, 530, 560, 700, 900])
def test_too_few_addresses_are_one_message(tmp_path, mib):
    done = bitrain("run", QUICKSTART, f"dir={tmp_path / 'run'}", limits=[(resource.RLIMIT_AS, mib * MIB)])
    # What the last bytes were for depends on what the threads did before.
    last = done.stderr.decode().splitlines()[-1]
    if "cannot map" in last:
        refused(done, 5, "the limit of memory (ulimit -v")
    elif "another thread" in last:
        refused(done, 5, "lower threads or loader.prefetch_threads")
    else:
        refused(done, 5, "out of memory: the system refused", f"of at most {mib} MiB", "micro_batch_rows")
    assert last.startswith("bitrain: i/o error: ")


def test_a_limit_of_file_sizes_is_as_a_full_disk(tmp_path):
    for size in (0, 4 * KIB, 64 * KIB):
        directory = tmp_path / str(size)
        done = bitrain("run", QUICKSTART, f"dir={directory}", limits=[(resource.RLIMIT_FSIZE, size)])
        refused(done, 5, "cannot write", "the size limit of files (ulimit -f) is reached")


def test_small_stacks_do_no_harm():
    for size in (128 * KIB, 256 * KIB, 1024 * KIB):
        done = bitrain("validate", QUICKSTART, limits=[(resource.RLIMIT_STACK, size)])
        assert done.returncode == 0, done.stderr
    deep = "a: " + "[" * 60 + "]" * 60
    done = bitrain("validate", QUICKSTART, deep.replace(": ", "="), limits=[(resource.RLIMIT_STACK, 256 * KIB)])
    refused(done, 2, "there is no such key")


EVIL = "\x1b]0;owned\x07\x1b[2J\u202egnp.exe\u009b31m"
SHOWN = "\\x1b]0;owned\\x07\\x1b[2J\\u202egnp.exe\\u009b31m"
OBEYED = "\x1b\x07\u202e\u009b\r"


def test_names_do_not_act_on_the_terminal(tmp_path):
    evil, shown = EVIL, SHOWN
    # A file's name.
    refused(bitrain("validate", str(tmp_path) + "/" + evil), 5, shown)
    # A key and a value of a recipe: YAML's escapes bring them past the check of the file's own characters.
    recipe = tmp_path / "recipe.yaml"
    recipe.write_text('schema: 1\nname: "\\e[2Jx"\n"\\e[31mkey\\u202e": 1\ndevice: "\\a\\x9b31m"\n')
    errors = refused(bitrain("validate", recipe), 2, "\\x1b[31mkey\\u202e")
    # A word of the command line, as CLI11 says it.
    errors += refused(bitrain("validate", recipe, "--" + evil), 2)
    errors += refused(bitrain(evil), 2)
    # A model's config.json.
    model = tmp_path / "model"
    model.mkdir()
    (model / "config.json").write_text(json.dumps({"model_type": evil}))
    errors += refused(bitrain("generate", model, "x"), 8, shown)
    assert not set(OBEYED) & set(errors)


def test_reports_do_not_act_on_the_terminal(tmp_path):
    """Also not through a pipe, behind which a launcher's terminal may be."""
    (tmp_path / "summary.json").write_text(json.dumps({"schema": 1, "name": EVIL, "stages": {}}))
    done = bitrain("report", tmp_path)
    text = done.stdout.decode()
    assert done.returncode == 0 and SHOWN in text, done
    assert not set(OBEYED) & set(text)


def test_text_of_all_languages_stays_readable(tmp_path):
    refused(bitrain("validate", tmp_path / "한국어 日本語 עברית é.yaml"), 5, "한국어 日本語 עברית é.yaml")


def seconds(function):
    start = time.monotonic()
    result = function()
    return result, time.monotonic() - start


@pytest.mark.parametrize(
    "text, parts",
    [
        ("".join(f"key{i}: 1\n" for i in range(60_000)), ["key0: there is no such key", "more"]),
        ("name: [" + "a," * 3_000_000 + "a]\n", ["a recipe of 5.7 MiB"]),
        ("name: [" + "a," * 1_000_000 + "a]\n", ["more than 200000 values"]),
        ("name: " + "9" * 3_000_000 + "\n", ["schema: is missing"]),
        ("? " + "a" * 100_000 + "\n: 1\n", ["there is no such key"]),
        ("a" * 3_000_000 + ": 1\n", []),
    ],
    ids=["keys", "list", "shorter list", "digits", "long key", "longer key"],
)
def test_huge_recipes_end_soon(tmp_path, text, parts):
    recipe = tmp_path / "recipe.yaml"
    recipe.write_text(text)
    done, taken = seconds(lambda: bitrain("validate", recipe))
    errors = refused(done, 2, *parts)
    assert taken < 20, f"{taken} s"  # Two on a machine that does nothing else.
    assert len(errors) < 40_000 or not parts, len(errors)


@pytest.mark.parametrize("number", ["9223372036854775807", "9007199254740993", "-9223372036854775808", "9223372036854775808",
                                    "1" * 400, "1e308", "1e999", "-1e308"])
@pytest.mark.parametrize(
    "key",
    [
        "seed", "threads", "stages.adapt.lora.r", "stages.adapt.train.max_steps", "stages.adapt.train.max_tokens",
        "stages.adapt.data.loader.rows_per_step", "stages.adapt.data.loader.sequence_length",
        "stages.adapt.data.loader.micro_batch_rows", "stages.pretrain.model.hidden_size",
        "stages.pretrain.model.num_hidden_layers", "stages.pretrain.model.vocab_size", "stages.tokenizer.tokenizer.vocab_size",
        "stages.adapt.data.lines_per_document", "held_out.every", "parallel.timeout_seconds",
    ],
)
def test_numbers_beyond_all_use_are_refused(key, number):
    done = bitrain("plan", QUICKSTART, f"{key}={number}")
    refused(done, 2, key.rpartition(".")[2])


def test_products_that_cannot_be_counted_are_refused():
    loader = "stages.adapt.data.loader."
    many = 1 << 24
    done = bitrain("plan", QUICKSTART, f"stages.adapt.train.max_steps={1 << 53}", f"{loader}rows_per_step={many}",
                   f"{loader}sequence_length={many}")
    refused(done, 2, "beyond what can be counted")


@pytest.mark.parametrize(
    "config",
    [
        {"model_type": "llama", **{f"key{i}": i for i in range(60_000)}},
        {"model_type": "llama", "hidden_size": list(range(1_000_000))},
        {"model_type": "llama", "hidden_size": "a" * 5_000_000},
        {"model_type": "llama", "eos_token_id": list(range(2_000_000))},
        {"model_type": "llama", "hidden_size": 10**400},
        {"model_type": "llama", "hidden_size": 2**62, "num_hidden_layers": 2**62, "vocab_size": 2**62},
        {"model_type": "a" * 5_000_000},
        {"model_type": "bert", "hidden_size": 2**40, "vocab_size": 2**40, "num_hidden_layers": 2**40},
        {"model_type": "llama", "rope_scaling": {"rope_type": "longrope", "short_factor": list(range(1_000_000))}},
    ],
    ids=["keys", "list", "text", "ends", "digits", "sizes", "type", "bert", "factors"],
)
def test_huge_configs_end_soon(tmp_path, config):
    (tmp_path / "config.json").write_text(json.dumps(config))
    done, taken = seconds(lambda: bitrain("generate", tmp_path, "x"))
    errors = refused(done, done.returncode)
    assert done.returncode in (2, 4, 5, 8), errors
    assert taken < 20, f"{taken} s"
    assert len(errors) < 40_000, len(errors)


def tiny_llama(folder):
    torch = pytest.importorskip("torch")
    transformers = pytest.importorskip("transformers")
    config = transformers.LlamaConfig(
        vocab_size=16, hidden_size=16, intermediate_size=16, num_hidden_layers=2, num_attention_heads=2, num_key_value_heads=2
    )
    transformers.LlamaForCausalLM(config).to(torch.float32).save_pretrained(folder)
    tokenizers = pytest.importorskip("tokenizers")
    tokenizers.Tokenizer(tokenizers.models.WordLevel({f"w{i}": i for i in range(16)}, unk_token="w0")).save(str(folder / "tokenizer.json"))
    return folder


@pytest.mark.parametrize(
    "changed, parts",
    [
        ({"target_modules": "((((.?)*)*)*)*[!?]"}, ["takes too many steps"]),
        ({"target_modules": ["q_proj"] * 1_000_000}, ["target_modules has 1000000 entries; the most is 10000"]),
        ({"target_modules": "(" * 300 + ")" * 300}, ["is not a regular expression"]),
        ({"rank_pattern": {f"x{i}": 2 for i in range(60_000)}}, ["rank_pattern has 60000 entries"]),
        ({"rank_pattern": {"((((.*)*)*)*)*!": 2}}, ["rank_pattern"]),
        ({"layers_to_transform": list(range(1_000_000))}, ["there is no layer 2; the model has 2"]),
        ({"layers_to_transform": [0] * 5_000_000, "target_modules": ["v_proj"]}, []),
        ({"trainable_token_indices": list(range(3_000_000))}, ["trainable_token_indices"]),
        ({"trainable_token_indices": [3] * 3_000_000}, []),
        ({"r": 2**62}, ["'r' should be a whole number from 1 to 65536, not 4611686018427387904"]),
        ({"r": 10**400}, ["r"]),
        ({"lora_alpha": 1e308 * 10}, []),
        ({f"key{i}": i for i in range(60_000)}, ["key0", "59990 more unknown keys are ignored"]),
    ],
    ids=["steps", "list", "nesting", "map", "stars", "layers", "same layers", "rows", "same rows", "rank", "digits", "alpha", "keys"],
)
def test_huge_adapters_end_soon(tmp_path, changed, parts):
    base = tiny_llama(tmp_path / "base")
    adapter = tmp_path / "adapter"
    adapter.mkdir()
    config = {"peft_type": "LORA", "r": 2, "lora_alpha": 2, "target_modules": ["q_proj"], **changed}
    (adapter / "adapter_config.json").write_text(json.dumps(config))
    safetensors = pytest.importorskip("safetensors.torch")
    safetensors.save_file({}, adapter / "adapter_model.safetensors")
    done, taken = seconds(lambda: bitrain("merge", base, "--adapter", adapter, "--out", tmp_path / "merged"))
    errors = refused(done, done.returncode, *parts)
    assert done.returncode in (2, 4, 6, 8), errors
    assert taken < 20, f"{taken} s"
    assert len(errors) < 40_000, len(errors)


@pytest.mark.parametrize(
    "arguments",
    [
        ["--help"], ["run", "--help"], ["--version"], ["validate", QUICKSTART], ["config", "explain"], ["config", "schema"],
        ["plan", QUICKSTART], ["plan", QUICKSTART, "--json"], ["plan", "--list-gpus"], ["recipes", "ls"],
        ["launch", "--nproc", "2", "--", "echo", "x"],
    ],
    ids=lambda words: " ".join(map(str, words)).replace(str(ROOT), ""),
)
def test_a_full_disk_behind_stdout_is_an_error(arguments):
    with open("/dev/full", "w") as full:
        done = bitrain(*arguments, stdout=full)
    refused(done, 5, "standard output", *(["No space left on device"] if arguments[0] != "launch" else []))


def test_a_failure_keeps_its_code_where_stdout_is_full():
    with open("/dev/full", "w") as full:
        refused(bitrain("plan", QUICKSTART, "nokey=1", stdout=full), 2, "there is no such key")


def test_a_closed_stdout_is_an_error_and_no_file_of_ours(tmp_path):
    recipe = tmp_path / "copy.yaml"
    command = ["sh", "-c", 'exec "$0" "$@" >&-', PROGRAM, "recipes", "cp", "quickstart/en_es.yaml", recipe]
    done = subprocess.run(command, stderr=subprocess.PIPE, cwd=ROOT, timeout=120)
    refused(done, 5, "cannot write to standard output: Bad file descriptor")
    assert recipe.read_bytes() == QUICKSTART.read_bytes()
