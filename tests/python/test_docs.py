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
