"""What bitrain writes for TensorBoard, read with the tensorboard package."""

import os
import subprocess
from pathlib import Path

import pytest

from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

BUILD = Path(os.environ.get("BITRAIN_BUILD_DIR", Path(__file__).parents[2] / "build" / "release"))


@pytest.fixture(scope="module")
def events(tmp_path_factory) -> EventAccumulator:
    """The event files of a run of 5 steps, resumed at step 3 (write_event_files in tests/train/output_test.cpp)."""
    folder = tmp_path_factory.mktemp("tensorboard")
    subprocess.run(
        [BUILD / "bin" / "test_train", "--gtest_filter=TensorBoard.RecordsHaveTheirChecksumsAndTags"],
        env={**os.environ, "BITRAIN_TENSORBOARD_FOLDER": str(folder)}, check=True, capture_output=True,
    )
    accumulator = EventAccumulator(str(folder))
    accumulator.Reload()
    return accumulator


def test_tags(events):
    assert set(events.Tags()["scalars"]) == {
        "train/loss", "train/learning_rate", "train/grad_norm", "train/tokens_per_second", "train/language/es",
        "eval/en/bits_per_byte", "eval/es/bits_per_byte",
    }


def test_values_and_steps_without_what_the_resumed_run_took_back(events):
    loss = events.Scalars("train/loss")
    assert [event.step for event in loss] == [1, 2, 3, 4, 300]
    assert [event.value for event in loss] == pytest.approx([10, 5, 10 / 3, 40, 0.5], rel=1e-6)


def test_the_evaluation_at_a_step_that_was_taken_back_is_gone(events):
    # Its tag stays known, its value (step 5) belongs to the part of the first process that was repeated.
    assert events.Scalars("eval/es/bits_per_byte") == []
