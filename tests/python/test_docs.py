"""Pages that are generated must be what the program says now."""

import os
import re
import subprocess
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
PROGRAM = Path(os.environ.get("BITRAIN_BUILD_DIR", ROOT / "build" / "release")) / "bin" / "bitrain"


def test_recipe_reference_is_up_to_date():
    explained = subprocess.run(
        [PROGRAM, "config", "explain", "--markdown"], check=True, capture_output=True, text=True
    ).stdout
    page = (ROOT / "docs" / "recipe.md").read_text()
    assert page.endswith(explained), "run: bash tools/docs.sh"


def test_links_between_pages_lead_somewhere():
    broken = []
    for page in [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *(ROOT / "docs").glob("*.md")]:
        for target in re.findall(r"\]\(([^)#]+)(?:#[^)]*)?\)", page.read_text()):
            if "://" not in target and not (page.parent / target).exists():
                broken.append(f"{page.name}: {target}")
    assert not broken, broken


def test_recipes_are_valid():
    """What a recipe reads from runs/ (other runs, fetched models and data) need not be there; all else must be right."""
    absent = re.compile(r": base: |there is no (file|folder) runs/")
    for recipe in (ROOT / "recipes").rglob("*.yaml"):
        done = subprocess.run([PROGRAM, "validate", recipe], capture_output=True, text=True, cwd=ROOT)
        problems = [line for line in done.stderr.splitlines() if re.search(r"\.yaml:\d+:\d+: ", line)]
        assert done.returncode == 0 or problems, done.stderr
        assert all(absent.search(line) for line in problems), done.stderr


#: Endings of files, and of names in C++ and of systems, which read like keys.
OTHER_NAMES = re.compile(r"\.(json|jsonl|txt|tsv|model|safetensors|jinja|html|bin|h|cpp|sh|py|yaml|md|partial|index|weight|out|result)$"
                         r"|^(bitrain|kernel|torch)\.")
#: Keys of rows of chat sets (docs/data.md) and of other libraries' files (docs/formats.md); what docs/recipe.md says of all.
FOREIGN_KEYS = {"weight", "masked", "label", "kto_tag", "is_causal", "attend", "split_special_tokens", "schema", "a.b.c"}


def keys_named_in(text):
    """Keys of recipes in backticks: `a.b`, `a.b: value`, `a.b=value`."""
    for span in re.findall(r"`([^`\n]+)`", re.sub(r"```.*?```", "", text, flags=re.S)):
        found = re.fullmatch(r"([a-z_0-9]+(?:\.[a-z_0-9]+)*)(?:: .+|=.*)", span) or re.fullmatch(r"([a-z_]+(?:\.[a-z_0-9]+)+)", span)
        if found and not OTHER_NAMES.search(found.group(1)) and found.group(1) not in FOREIGN_KEYS:
            yield found.group(1)


def known_keys():
    explained = subprocess.run(
        [PROGRAM, "config", "explain", "--markdown"], check=True, capture_output=True, text=True).stdout
    return [f".{key.replace('[]', '')}." for key in re.findall(r"^\| `([^`]+)` \|", explained, re.M)]


def test_keys_that_pages_name_exist():
    """A key may be written from any map that holds it: `train.recompute`, `recompute: true`."""
    known = known_keys()
    unknown = [f"{page.name}: {key}" for page in [ROOT / "README.md", *(ROOT / "docs").glob("*.md")]
               for key in keys_named_in(page.read_text()) if not any(f".{key}." in path for path in known)]
    assert not unknown, unknown


def test_keys_that_do_not_exist_are_found():
    text = "`train.recompute` `parallel.check_every` `chek_every: 0` `a.json` `recompute=true`\n```yaml\nx.y: `z.w`\n```\n"
    assert list(keys_named_in(text)) == ["train.recompute", "parallel.check_every", "chek_every", "recompute"]
    known = known_keys()
    assert not any(".check_every." in path for path in known) and any(".train.recompute." in path for path in known)


def test_names_in_pages_exist_in_the_sources():
    """`names_like_this` in backticks are names of something: an option, a figure, a function, a file."""
    words = set()
    for folder in ("libbitrain", "python_bindings", "tools", "benchmarks", "cmake", "examples", "recipes", "tests"):
        for file in (ROOT / folder).rglob("*"):
            if file.suffix in {".cpp", ".h", ".cu", ".py", ".pyi", ".sh", ".cmake", ".yaml", ".txt"}:
                words.update(re.findall(r"\w+", file.read_text(errors="replace")))
    unknown = [f"{page.name}: {name}" for page in [ROOT / "README.md", *(ROOT / "docs").glob("*.md")]
               for name in re.findall(r"`([a-z]+(?:_[a-z0-9]+)+)`", page.read_text()) if name not in words]
    assert not unknown, unknown
