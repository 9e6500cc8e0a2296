"""Every block of the pages can be pasted: recipes are validated, commands run or parsed, Python run, C++ compiled.

A block of a recipe that is not whole is put into a smallest one, where its first key belongs. What a page takes for
granted (files, models, variables) is made here under the page's names. A block without a tag, or with one that nothing
here reads, is an error, and so is a block by indentation.
"""

import ast
import functools
import json
import os
import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

ROOT = Path(__file__).resolve().parents[2]
BUILD = Path(os.environ.get("BITRAIN_BUILD_DIR", ROOT / "build" / "release"))
PROGRAM = BUILD / "bin" / "bitrain"
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md"] + sorted(
    page for folder in ("docs", "examples", "recipes") for page in (ROOT / folder).rglob("*.md"))
#: What validation may miss of a recipe: what other runs and downloads leave.
ABSENT = re.compile(r": base: |there is no (file|folder) runs/")


class Block:
    def __init__(self, page, line, tag, text):
        self.place, self.tag, self.text = f"{page.relative_to(ROOT)}:{line}", tag, text


def blocks_of(page, text):
    """The fenced blocks; lines indented by four behind an empty line, outside of a list, are a block without a tag."""
    found, tag, begin, lines, in_list = [], None, 0, [], False
    previous = ""
    for number, line in enumerate(text.split("\n"), 1):
        fence = re.match(r"\s*(```+|~~~+)(.*)$", line)
        if fence and tag is None:
            tag, begin, lines = fence.group(2).strip(), number, []
        elif fence:
            found.append(Block(page, begin, tag, "\n".join(lines) + "\n"))
            tag = None
        elif tag is not None:
            lines.append(line)
        elif line.startswith("    ") and not previous.strip() and not in_list and line.strip():
            found.append(Block(page, number, "", line))
        if tag is None and line.strip() and not line.startswith(" "):
            in_list = bool(re.match(r"([-*+]|\d+\.)\s", line))
        previous = line
    assert tag is None, f"{page}: the block of line {begin} has no end"
    return found


BLOCKS = [block for page in PAGES for block in blocks_of(page, page.read_text())]


def of(*tags):
    return pytest.mark.parametrize("block", [b for b in BLOCKS if b.tag in tags], ids=lambda block: block.place)


# ---- what pages take for granted

SENTENCES = [(f"the cat number {i} saw the dog", f"el gato número {i} vio al perro") for i in range(300)]


def tiny_recipe(**keys):
    tiny = {"schema": 1, "name": "tiny", "threads": 1, "held_out": {"every": 10},
            "source": {"path": "english.txt", "language": "en"}, "target": {"path": "spanish.txt", "language": "es"}}
    return {**tiny, **keys}


CPT = {"recipe": "cpt", "lora": {"target_modules": ["q_proj"]}, "train": {"max_steps": 2}}


@pytest.fixture(scope="session")
def workplace(tmp_path_factory):
    """A folder with the repository's folders and all files and models that pages name."""
    place = tmp_path_factory.mktemp("pages")
    for folder in ("recipes", "examples", "tools"):
        (place / folder).symlink_to(ROOT / folder)
    english, spanish = zip(*SENTENCES)
    for name, rows in {"english.txt": english, "spanish.txt": spanish, "my.txt": spanish, "other.txt": spanish,
                       "my.tsv": map("\t".join, SENTENCES), "pairs.tsv": map("\t".join, SENTENCES),
                       "verses.tsv": (f"verse\t{a}\t{b}" for a, b in SENTENCES),
                       "pairs.jsonl": (json.dumps({"query": a, "positive": b}) for a, b in SENTENCES),
                       "chats.jsonl": (json.dumps({"prompt": a, "response": b}) for a, b in SENTENCES),
                       "answers.json": (json.dumps({"title": a, "body": b}) for a, b in SENTENCES)}.items():
        (place / name).write_text("\n".join(rows) + "\n")
    model = {"hidden_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 64}
    recipe = tiny_recipe(stages={
        "tok": {"recipe": "tokenizer", "tokenizer": {"vocab_size": 320, "exact_vocab_size": False}},
        "first": {"recipe": "pretrain", "model": model, "train": {"max_steps": 1},
                  "data": {"loader": {"sequence_length": 64, "rows_per_step": 2}}}})
    (place / "recipe.yaml").write_text(yaml.safe_dump(recipe, sort_keys=False))
    subprocess.run([PROGRAM, "run", "recipe.yaml", "dir=base"], cwd=place, check=True, capture_output=True)
    for copy in ("path/to/llama", "path/to/model", "MODEL", "llama", "runs/en_es/merge"):
        shutil.copytree(place / "base" / "first", place / copy)
    (place / "my.yaml").write_text(yaml.safe_dump(tiny_recipe(base="llama", stages={"adapt": {**CPT, "from": "base"}})))
    return place


@pytest.fixture(scope="session")
def encoder(workplace):
    import transformers

    folder = workplace / "all-MiniLM-L6-v2"
    folder.mkdir()
    words = sorted({word for pair in SENTENCES for text in pair for word in text.split()})
    (folder / "vocab.txt").write_text("\n".join(["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *words]) + "\n")
    transformers.BertTokenizer(str(folder / "vocab.txt"), model_max_length=50).save_pretrained(folder)
    config = transformers.BertConfig(vocab_size=5 + len(words), hidden_size=32, num_hidden_layers=1, num_attention_heads=2,
                                     intermediate_size=64, max_position_embeddings=64)
    transformers.BertModel(config).save_pretrained(folder)
    return folder


# ---- no block without a reader


def test_every_block_has_a_reader():
    readers = {"sh", "yaml", "json", "python", "cpp", "cmake", "text"}
    unread = [f"{b.place}: a block tagged '{b.tag}'" for b in BLOCKS if b.tag not in readers]
    assert not unread, unread


def test_blocks_are_found():
    text = "a\n\n    bitrain run x\n\n- item\n\n    more of it\n\n```\nb\n```\n\n```yaml\nc: 1\n```\n"
    assert [(b.tag, b.text) for b in blocks_of(ROOT / "x.md", text)] == [
        ("", "    bitrain run x"), ("", "b\n"), ("yaml", "c: 1\n")]
    with pytest.raises(AssertionError, match="has no end"):
        blocks_of(ROOT / "x.md", "```sh\nls\n")


@of("text")
def test_what_is_shown_is_nothing_to_paste(block):
    commands = [line for line in block.text.split("\n") if re.match(r"\s*(\$ |bitrain (run|eval|launch) )", line)]
    assert not commands, commands


@of("json")
def test_json(block):
    json.loads(block.text)


# ---- recipes


def problems_of(recipe, *overrides, cwd):
    """What `bitrain validate` finds wrong, but for what other runs leave."""
    done = subprocess.run([PROGRAM, "validate", recipe, *overrides], capture_output=True, text=True, cwd=cwd, timeout=120)
    problems = [line for line in done.stderr.splitlines() if re.search(r"(\.yaml:\d+:\d+|on the command line): ", line)]
    if done.returncode != 0 and not problems:
        return [done.stderr]
    return [line for line in problems if not ABSENT.search(line)]


#: Stages that lack only what a block may say.
STAGES = {
    "cpt": CPT,
    "sft": {"recipe": "sft", "lora": {"target_modules": ["q_proj"]}, "train": {"max_steps": 2}, "files": ["chats.jsonl"]},
    "extend_vocab": {"recipe": "extend_vocab"},
    "contrastive": {"recipe": "contrastive", "train": {"max_steps": 2}},
}


def whole_recipes(fragment):
    """The smallest recipes with the fragment in its place: among the recipe's own keys, or in a stage that has them."""
    stage = {"recipe": "evaluate", "from": "base"}
    schema = json.loads(subprocess.run([PROGRAM, "config", "schema"], check=True, capture_output=True, text=True).stdout)
    if all(key in schema["properties"] for key in fragment):
        return [{**tiny_recipe(base="llama", stages={"only": stage}), **fragment}]
    return [tiny_recipe(base="llama", stages={"only": {**one, "from": "base", **fragment}}) for one in STAGES.values()]


def check_recipe(text, place):
    recipe = yaml.safe_load(text)
    assert isinstance(recipe, dict), "no map of keys"
    found = []
    for whole in [recipe] if "schema" in recipe else whole_recipes(recipe):
        file = place / "block.yaml"
        file.write_text(text if whole is recipe else yaml.safe_dump(whole, sort_keys=False))
        problems = problems_of(file.name, cwd=place)
        if not problems:
            return
        found.append(problems)
    raise AssertionError(min(found, key=len))


@of("yaml")
def test_recipe(block, workplace):
    check_recipe(block.text, workplace)


@pytest.mark.parametrize("text", ["parallel: {check_every: 1}\n", "files:\n  - gone.jsonl\n", "files:\n  - {path: chats.jsonl, field: a}\n",
                                  "stages:\n  extend: {recipe: extend_vocab, from: base}\n  b: {recipe: x}\n", "- a\n", "objectives: {eos: false}\n",
                                  "schema: 1\nstages:\n  extend: {recipe: extend_vocab, from: base}\n"])
def test_recipes_that_cannot_be_pasted_are_found(text, workplace):
    with pytest.raises(AssertionError):
        check_recipe(text, workplace)


# ---- commands


@functools.cache
def helped(*verb):
    return subprocess.run([PROGRAM, *verb, "--help"], check=True, capture_output=True, text=True).stdout


def verbs_of(text):
    return re.findall(r"^  ([a-z-]+) ", text.partition("Subcommands:")[2].partition("\n\n")[0], re.M)


def verb_of(words):
    return words[:2] if words[0] in ("vocab", "data", "config") else words[:1]


def check_verb(verb):
    for i, word in enumerate(verb):
        assert word in verbs_of(helped(*verb[:i])), f"there is no verb {' '.join(verb)}"


def check_bitrain(words, place):
    """Verb, flags, keys and values of a command; those that are quick run."""
    verb = verb_of(words)
    check_verb(verb)
    known = set(re.findall(r"(?<![\w-])(--?[a-z][a-z0-9-]*)", helped(*verb)))
    arguments = words[len(verb):]
    if verb == ["launch"]:
        own = arguments.index("--") if "--" in arguments else next(
            i for i in range(0, len(arguments), 2) if not arguments[i].startswith("-"))
        inner = arguments[own:]
        arguments = arguments[:own]
        if inner[0] != "--":
            check_bitrain(inner, place)
    unknown = [word for word in arguments if word.startswith("-") and word.split("=")[0] not in known]
    assert not unknown, f"bitrain {' '.join(verb)} has no {unknown}"
    if verb[0] in ("run", "validate") or verb == ["data", "inspect"]:
        flags = {i + d for i, word in enumerate(arguments) if word.startswith("--") for d in (0, 1)}
        recipe, *rest = (word for i, word in enumerate(arguments) if i not in flags)
        if recipe != "RECIPE":
            assert not (problems := problems_of(recipe, *(word for word in rest if "=" in word), cwd=place)), problems
        return
    if verb == ["launch"] or "RECIPE" in arguments:
        return
    done = subprocess.run([PROGRAM, *words], capture_output=True, text=True, cwd=place, timeout=120)
    assert done.returncode == 0, done.stderr


def check_command(words, place):
    while words and re.match(r"\w+=", words[0]):
        words = words[1:]
    program, *arguments = words
    if program == "bitrain":
        check_bitrain(arguments, place)
    elif program in ("torchrun", "srun", "mpirun", "compute-sanitizer", "env"):
        inner = next(i for i, word in enumerate(arguments) if word == "bitrain" or word.startswith("build/"))
        check_command(arguments[inner:], place)
    elif program == "bash":
        assert (ROOT / arguments[0]).is_file(), f"there is no {arguments[0]}"
    elif program in ("cmake", "ctest"):
        presets = {one["name"] for kind in ("configurePresets", "buildPresets", "testPresets")
                   for one in json.loads((ROOT / "CMakePresets.json").read_text())[kind]}
        for flag, value in zip(arguments, arguments[1:]):
            assert flag != "--preset" or value in presets, f"there is no preset {value}"
            assert flag != "--target" or (ROOT / "tests" / value.removeprefix("test_")).is_dir() or value.startswith("my_"), value
    elif program.startswith("build/release/bin/test_"):
        assert (ROOT / "tests" / program.rpartition("test_")[2]).is_dir(), f"there is no {program}"
    elif program.endswith("/python"):
        assert arguments[:2] != ["-m", "pytest"] or (ROOT / arguments[2]).exists(), arguments
    else:
        raise AssertionError(f"nothing here reads '{program}'")


def commands_of(text):
    """Its lines as words, those that go on joined, `a && b` apart."""
    for line in text.replace("\\\n", " ").split("\n"):
        words = shlex.split(line, comments=True)
        while words:
            end = words.index("&&") if "&&" in words else len(words)
            yield words[:end]
            words = words[end + 1:]


@of("sh")
def test_commands(block, workplace, encoder):
    for words in commands_of(block.text):
        check_command(words, workplace)


def test_commands_within_lines(workplace, encoder):
    """`bitrain ...` in backticks; capitals stand for names, '..' for what is left out."""
    wrong = []
    for page in PAGES:
        for command in re.findall(r"`bitrain ([a-z][^`]*)`", page.read_text().replace("\n", " ")):
            words = shlex.split(command)
            verb = verb_of(words)
            only_named = verb == words or words[0] == "launch" and "run" not in words or re.search(r"\b[A-Z]+\b|\.\.( |$)", command)
            try:
                check_verb(verb) if only_named else check_bitrain(words, workplace)
            except AssertionError as error:
                wrong.append(f"{page.name}: bitrain {command}: {error}")
    assert not wrong, wrong


@pytest.mark.parametrize("line", ["bitrain rum recipe.yaml", "bitrain eval MODEL --data my.txt --lang es", "bitrain run recipe.yaml sed=1",
                                  "bitrain vocab shrink MODEL", "bitrain run gone.yaml", "bash tools/gone.sh", "cmake --preset fast",
                                  "bitrain launch --procs 2 run recipe.yaml", "bitrain launch --nproc 2 run recipe.yaml key=value",
                                  "frobnicate x", "srun bitrain run recipe.yaml thread=1", "bitrain eval gone --data my.txt --language es"])
def test_commands_that_cannot_be_pasted_are_found(line, workplace):
    with pytest.raises(AssertionError):
        for words in commands_of(line):
            check_command(words, workplace)


# ---- Python

#: `bitrain.run` answers with a run that is there, after the recipe has been validated.
PRELUDE = """
import json, subprocess, sys
import torch, bitrain
queries, candidates = torch.randn(4, 8), torch.randn(4, 8)
def run(recipe, overrides=()):
    subprocess.run([sys.argv[1], "validate", recipe, *overrides], check=True)
    return json.load(open("base/summary.json"))
bitrain.run = run
"""


@of("python")
def test_python(block, workplace, encoder):
    ast.parse(block.text)
    done = subprocess.run([sys.executable, "-c", PRELUDE + block.text, PROGRAM], cwd=workplace, capture_output=True, text=True,
                          timeout=300, env={**os.environ, "HF_HUB_OFFLINE": "1"})
    assert done.returncode == 0, done.stderr


# ---- C++

#: What the pages' C++ takes for granted.
CPP = """
#include <bitrain/dist/environment.h>
#include <bitrain/dist/session.h>
#include <bitrain/eval/encode.h>
#include <bitrain/eval/search.h>
#include <bitrain/hub/model_dir.h>
#include <bitrain/hub/sentence_transformers.h>
#include <bitrain/losses/info_nce.h>
#include <bitrain/train/trainer.h>
#include <bitrain/vocab/apply.h>
#include <bitrain/vocab/plan.h>
using namespace bitrain;
struct Given {
  std::vector<std::string> lines, texts;
  at::Tensor queries, candidates;
  dist::ParallelOptions options;
  train::TrainOptions train_options;
  train::TrainParts parts;
"""


def test_cpp_compiles(tmp_path):
    """All blocks in one file, each a function of a class whose members are what the page takes for granted."""
    commands = json.loads((BUILD / "compile_commands.json").read_text())
    example = next(one for one in commands if one["file"].endswith("examples/training_loop.cpp"))
    words = shlex.split(example["command"])
    flags = [w for i, w in enumerate(words) if w.startswith(("-I", "-D", "-std", "-isystem")) or words[i - 1] == "-isystem"]
    flags = [w.replace(example["file"].removesuffix("/examples/training_loop.cpp"), str(ROOT)) for w in flags]
    cpp = [block for block in BLOCKS if block.tag == "cpp"]
    functions = [f'void block_{i}() {{\n#line 1 "{b.place}"\n{b.text}}}\n' for i, b in enumerate(cpp)]
    file = tmp_path / "blocks.cpp"
    file.write_text(CPP + "".join(functions) + "};\n")
    compiler = next(word for word in words if re.search(r"(c|g|clang)\+\+", word.rpartition("/")[2]))
    done = subprocess.run([compiler, *flags, "-fsyntax-only", file], capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr


# ---- CMake


@of("cmake")
def test_the_library_inside_another_project(block, tmp_path):
    (tmp_path / "bitrain").symlink_to(ROOT)
    (tmp_path / "CMakeLists.txt").write_text(block.text)
    (tmp_path / "main.cpp").write_text('#include <bitrain/base/strings.h>\nint main() { return bitrain::trim("").size(); }\n')
    configured = subprocess.run(["cmake", "-S", tmp_path, "-B", tmp_path / "build", "-G", "Ninja", "-DBITRAIN_CUDA=OFF",
                                 "-DCMAKE_EXPORT_COMPILE_COMMANDS=ON"], capture_output=True, text=True, timeout=300)
    assert configured.returncode == 0, configured.stderr
    assert "Warning" not in configured.stderr, configured.stderr
    commands = {one["file"]: one["command"] for one in json.loads((tmp_path / "build/compile_commands.json").read_text())}
    own = commands[str(tmp_path / "main.cpp")]
    # Nothing of ours but what headers need reaches the project: no warnings as errors, no flags, no build type, no tests.
    for flag in ("-Werror", "-Wall", "-O2", "-g1", "-DNDEBUG", "AT_PER_OPERATOR_HEADERS"):
        assert flag not in own, own
    assert "CMAKE_BUILD_TYPE:STRING=\n" in (tmp_path / "build" / "CMakeCache.txt").read_text()
    assert not any("/tests/" in file or "/benchmarks/" in file or "/python_bindings/" in file for file in commands)
    assert not (tmp_path / "build" / "bin").exists() and "-Werror" not in "".join(commands.values())
