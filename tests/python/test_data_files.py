"""Text files as people have them, read by the program: names, layouts, compressions and pipes."""

import collections
import gzip
import json
import os
import pickle
import subprocess
from pathlib import Path

import pyarrow
import pyarrow.parquet
import pytest

ROOT = Path(__file__).resolve().parents[2]
PROGRAM = Path(os.environ.get("BITRAIN_BUILD_DIR", ROOT / "build" / "release")) / "bin" / "bitrain"
LINES = [f"the cat number {i} saw the dog" for i in range(50)]


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory):
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers

    folder = tmp_path_factory.mktemp("tokenizer")
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    made = Tokenizer(models.BPE({letter: i for i, letter in enumerate(alphabet)}, []))
    made.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    made.decoder = decoders.ByteLevel()
    made.save(str(folder / "tokenizer.json"))
    return folder


def report(tokenizer, data, *arguments, code=0, **keywords):
    """Tokens of a file, which are its bytes here; or the message."""
    command = [PROGRAM, "vocab", "report", tokenizer, "--data", data, "--json", *arguments]
    done = subprocess.run(list(map(str, command)), capture_output=True, text=True, timeout=60, **keywords)
    assert done.returncode == code, f"exit {done.returncode}\n{done.stdout}\n{done.stderr}"
    return json.loads(done.stdout)[0]["tokens"] if code == 0 else done.stderr


TOKENS = sum(map(len, LINES))


def rows(lines=LINES):
    return "".join(json.dumps({"text": line}) + "\n" for line in lines)


@pytest.mark.parametrize("name", ["x.jsonl", "X.JSONL", "x.json", "x.jsonlines", "x.ndjson", "x", "x.txt"])
def test_json_rows_under_any_name(tokenizer, tmp_path, name):
    for text in (rows(), json.dumps([{"text": line} for line in LINES], indent=1), json.dumps([{"text": line} for line in LINES])):
        (tmp_path / name).write_text(text)
        assert report(tokenizer, tmp_path / name) == TOKENS
        (tmp_path / (name + ".gz")).write_bytes(gzip.compress(text.encode()))
        assert report(tokenizer, tmp_path / (name + ".gz")) == TOKENS


def test_plain_text_is_told_from_json(tokenizer, tmp_path):
    (tmp_path / "x.json").write_text(rows())
    assert report(tokenizer, tmp_path / "x.json", "--format", "text") == len(rows()) - len(LINES)
    (tmp_path / "x.txt").write_text("{curly} words\n[1] and a note\n")
    assert report(tokenizer, tmp_path / "x.txt") == 27


def test_gzip_as_python_reads_it(tokenizer, tmp_path):
    path = tmp_path / "x.txt.gz"
    text = "".join(line + "\n" for line in LINES).encode()
    first, second = gzip.compress(text[:700]), gzip.compress(text[700:])
    for packed in (first + second, first + second + bytes(1024), first + bytes(512) + second, first + second + gzip.compress(b"")):
        path.write_bytes(packed)
        assert gzip.decompress(packed) == text
        assert report(tokenizer, path) == TOKENS
    path.write_bytes(first + second + b"words")
    assert "behind the gzip data" in report(tokenizer, path, code=4)
    path.write_bytes((first + second)[:-6])
    assert "truncated" in report(tokenizer, path, code=4)


def test_pipes_are_read_once(tokenizer, tmp_path):
    text = "".join(line + "\n" for line in LINES).encode()
    (tmp_path / "x.gz").write_bytes(gzip.compress(text))
    command = f"'{PROGRAM}' vocab report '{tokenizer}' --json --data"
    for shell in (f"{command} <(zcat '{tmp_path}/x.gz')", f"cat '{tmp_path}/x.gz' | {command} /dev/stdin"):
        done = subprocess.run(["bash", "-c", shell], capture_output=True, text=True, timeout=60)
        assert done.returncode == 0, done.stderr
        assert json.loads(done.stdout)[0]["tokens"] == TOKENS


@pytest.mark.parametrize(
    "name, data, words",
    [
        ("x.csv", b"id,text\n1,a\n", "is CSV by its name"),
        ("x.txt", "the cat\n".encode("utf-16"), "is UTF-16 text"),
        ("x.tsv", "кошка на ковре\t1\n".encode("utf-16-le") * 4, "is UTF-16 text"),
        ("x.txt", b"<!DOCTYPE html>\n<title>404</title>\n", "is HTML"),
        ("x.txt.xz", b"\xfd7zXZ\x00\x00\x04\xe6", "is an xz file"),
        ("x.txt", "caf\u00e9\n".encode("latin-1"), "x.txt:1: byte 4 is not UTF-8"),
        ("x.jsonl", b'{"text": "a"}\n{"text": "b", "n": NaN}\n', "x.jsonl:2: not valid JSON"),
        ("x.jsonl", b'{"prompt": "a", "completion": "b"}\n', "has no key 'text'; its keys are 'prompt', 'completion'"),
    ],
)
def test_what_is_no_text_is_named(tokenizer, tmp_path, name, data, words):
    (tmp_path / name).write_bytes(data)
    assert words in report(tokenizer, tmp_path / name, code=3)


def test_pickles_and_byte_order_marks(tokenizer, tmp_path):
    path = tmp_path / "x.txt"
    for value in (LINES, {"text": "the cat"}, "the cat", ("the cat", "the dog"), collections.OrderedDict(text="the cat")):
        for protocol in range(pickle.HIGHEST_PROTOCOL + 1):
            path.write_bytes(pickle.dumps(value, protocol))
            assert "is a Python pickle" in report(tokenizer, path, code=3), (value, protocol)
    for name, text in (("x.txt", "four\nmore\n"), ("x.jsonl", rows(["four", "more"])), ("x.json", json.dumps([{"text": "fourmore"}]))):
        marked = 2 * "\ufeff" + text
        (tmp_path / name).write_text(marked)
        (tmp_path / (name + ".gz")).write_bytes(gzip.compress(marked.encode()))
        assert report(tokenizer, tmp_path / name) == report(tokenizer, tmp_path / (name + ".gz")) == 8


@pytest.fixture(scope="module")
def base(tokenizer, tmp_path_factory):
    """A folder that `data inspect` takes for a model: it reads tokenizer and config alone."""
    folder = tmp_path_factory.mktemp("base")
    made = json.loads((tokenizer / "tokenizer.json").read_text())
    made["added_tokens"] = [
        {"id": 256, "content": "</s>", "single_word": False, "lstrip": False, "rstrip": False, "normalized": False, "special": True}
    ]
    (folder / "tokenizer.json").write_text(json.dumps(made))
    (folder / "tokenizer_config.json").write_text(json.dumps({"tokenizer_class": "PreTrainedTokenizerFast", "eos_token": "</s>"}))
    shape = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 1, "num_attention_heads": 2}
    (folder / "config.json").write_text(
        json.dumps({"model_type": "llama", "architectures": ["LlamaForCausalLM"], "vocab_size": 257, "eos_token_id": 256, **shape})
    )
    return folder


def inspect(base, folder, chats, code=0, max_length=64, **file):
    """What `bitrain data inspect` says of an sft stage on these rows."""
    (folder / "chats.jsonl").write_text("".join(json.dumps(row) + "\n" for row in chats))
    stage = {
        "recipe": "sft",
        "lora": {"target_modules": ["q_proj"]},
        "files": [{"path": str(folder / "chats.jsonl"), **file}],
        "loader": {"sequence_length": 64, "rows_per_step": 1},
        "objective": {"max_length": max_length, "bos": False},
        "train": {"max_steps": 1},
    }
    recipe = {"schema": 1, "name": "chats", "base": str(base), "held_out": {"last": 1}, "stages": {"tune": stage}}
    (folder / "recipe.yaml").write_text(json.dumps(recipe))
    command = [PROGRAM, "data", "inspect", folder / "recipe.yaml", "tune", "--no-color"]
    done = subprocess.run(list(map(str, command)), capture_output=True, text=True, timeout=60)
    assert done.returncode == code, f"exit {done.returncode}\n{done.stdout}\n{done.stderr}"
    return done.stdout if code == 0 else done.stderr


GOOD = {"prompt": "q", "response": "a"}


def test_inspect_says_what_would_stop_a_run(base, tmp_path):
    assert "supervised" in inspect(base, tmp_path, [GOOD] * 4)
    empty = [GOOD, GOOD, GOOD, {"prompt": "q", "response": " "}]
    assert "chats.jsonl:4: ends with an empty reply ('response')" in inspect(base, tmp_path, empty, code=3)
    assert "supervised" in inspect(base, tmp_path, empty, skip_invalid=True)
    long = inspect(base, tmp_path, [{"prompt": "q" * 200, "response": "a"}] * 4, code=3)
    assert "chats.jsonl:" in long and "max_length 64" in long and "data inspect" not in long


def test_rows_that_would_lose_text_are_left_out_and_counted(base, tmp_path):
    lost = [{**GOOD, "context": "c"}, {**GOOD, "history": ["x"]}, {**GOOD, "label": False}, {**GOOD, "tools": [{"name": "f"}]}]
    for row in lost:
        assert "chats.jsonl:2: " in inspect(base, tmp_path, [GOOD, row, GOOD], code=3)
    assert "supervised" in inspect(base, tmp_path, [GOOD, *lost, GOOD], skip_invalid=True)
    # Whose turns are learnt, the recipe says: marks on others change nothing.
    turns = [{"from": "human", "value": "q", "weight": 0}, {"from": "gpt", "value": "a", "weight": 1}]
    assert "supervised" in inspect(base, tmp_path, [{"conversations": turns}] * 3)
    chosen = [{"role": "user", "content": "q"}, {"role": "assistant", "content": "a"}]
    rows_ = [{"prompt": "q", "chosen": chosen, "rejected": chosen}] * 3
    plain = inspect(base, tmp_path, [GOOD] * 3)
    assert inspect(base, tmp_path, rows_, prompt_field="prompt", response_field="chosen") == plain


def test_parquet_and_arrow_of_their_own_writers(tokenizer, tmp_path):
    table = pyarrow.table({"text": LINES})
    pyarrow.parquet.write_table(table, tmp_path / "x.parquet")
    with pyarrow.OSFile(str(tmp_path / "x.arrow"), "wb") as file, pyarrow.ipc.new_stream(file, table.schema) as writer:
        writer.write_table(table)
    assert "is a Parquet file" in report(tokenizer, tmp_path / "x.parquet", code=3)
    assert "is an Arrow stream" in report(tokenizer, tmp_path / "x.arrow", code=3)


def test_skip_invalid_and_text_field(tokenizer, tmp_path):
    path = tmp_path / "x.jsonl"
    path.write_text('{"body": "four"}\n{"body": null}\n{"body": "more", "n": NaN}\n{"body": "last"}\n')
    assert "x.jsonl:1: has no key 'text'" in report(tokenizer, path, code=3)
    assert "x.jsonl:2: 'body' is not a text but null" in report(tokenizer, path, "--text-field", "body", code=3)
    assert report(tokenizer, path, "--text-field", "body", "--skip-invalid") == 8
