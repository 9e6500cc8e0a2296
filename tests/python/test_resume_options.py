"""What becomes of a checkpoint when a run goes on with another option: docs/resuming.md says it (tests/resume_options.py)."""

import os
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
PROGRAM = Path(os.environ.get("BITRAIN_BUILD_DIR", ROOT / "build" / "release")) / "bin" / "bitrain"
sys.path.insert(0, str(ROOT / "tests"))

import resume_options  # noqa: E402


def test_checkpoints_are_gone_on_from_or_kept():
    """Every option of the recipe and of `train`, and what is no option; of the other options, that the page has a row."""
    texts, problems = resume_options.make_tables(
        PROGRAM, ["What all stages share", "`train`", resume_options.OTHERS])
    assert not problems, "\n".join(problems)
    page = resume_options.PAGE.read_text().splitlines()
    otherwise = [line for text in texts.values() for line in text.splitlines() if line not in page]
    assert not otherwise, "other rows now: run tests/resume_options.py --write\n" + "\n".join(otherwise)
