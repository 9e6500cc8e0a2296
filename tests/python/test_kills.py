"""Runs of every stage type that are killed at random moments end as if nobody had touched them (tests/kill_runs.py)."""

import json
import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
PROGRAM = Path(os.environ.get("BITRAIN_BUILD_DIR", ROOT / "build" / "release")) / "bin" / "bitrain"
sys.path.insert(0, str(ROOT / "tests"))

import every_stage  # noqa: E402
import kill_runs  # noqa: E402
import same_run  # noqa: E402


def test_the_recipes_hold_every_stage_type(tmp_path):
    schema = json.loads(subprocess.run([PROGRAM, "config", "schema"], capture_output=True, text=True, check=True).stdout)
    types = {one["properties"]["recipe"]["const"] for one in schema["properties"]["stages"]["additionalProperties"]["oneOf"]}
    assert every_stage.stage_types(every_stage.write_recipes(tmp_path)) == types


def test_twenty_kills_lose_nothing(tmp_path):
    modes = [mode for mode, (_, contained) in kill_runs.MODES.items() if not contained or kill_runs.namespaces_work()]
    hit, problems, trials = kill_runs.run_trials(kill_runs.Runs(PROGRAM, tmp_path), 20, seed=5, modes=modes, most_kills=5)
    assert not problems, "\n".join(problems)
    assert len(hit) == 20


def test_differences_are_found(tmp_path):
    """What compares the runs sees what differs, and only times may."""
    for name, seconds, loss in (("a", 1.0, 2.0), ("b", 3.0, 2.0), ("c", 1.0, 2.5)):
        stage = tmp_path / name / "tok"
        (stage / "tensorboard").mkdir(parents=True)
        (stage / "stage.json").write_text(json.dumps({"result": {"seconds": seconds, "loss": loss}}))
        (stage / "model.safetensors").write_bytes(b"x")
        (stage / "tensorboard" / f"events.{name}").write_text(name)
    assert not same_run.differences(tmp_path / "b", tmp_path / "a")
    assert same_run.differences(tmp_path / "c", tmp_path / "a") == ["tok/stage.json: differs"]
    (tmp_path / "b" / "tok" / "model.safetensors").write_bytes(b"y")
    (tmp_path / "b" / ".tmp-x").write_text("")
    (tmp_path / "b" / "first.work").mkdir()
    assert same_run.differences(tmp_path / "b", tmp_path / "a") == [
        ".tmp-x: is left over", "first.work/: is left over", "tok/model.safetensors: differs"]


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGHUP])
def test_the_first_process_of_a_container_hears_signals(tmp_path, number):
    """The kernel gives it no default actions. It waits here for a rank that never comes, and does not train."""
    if not kill_runs.namespaces_work():
        pytest.skip("this kernel or user may not make pid namespaces")
    recipe = every_stage.write_recipes(tmp_path)["decoders"]
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        port = one.getsockname()[1]
    ranks = {"RANK": "0", "WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    process = subprocess.Popen([*kill_runs.NAMESPACE, PROGRAM, "run", recipe, "parallel.timeout_seconds=60"],
                               env={**os.environ, **ranks}, stderr=subprocess.PIPE, text=True,
                               # A job of a script ignores SIGINT, and so would what it starts.
                               preexec_fn=lambda: signal.signal(number, signal.SIG_DFL))
    try:
        assert "rank 0 of 2" in process.stderr.readline()  # It has begun.
        first = kill_runs.children_of(process.pid)[0]
        begin = time.monotonic()
        os.kill(first, number)
        assert process.wait(20) == 128 + number
        assert time.monotonic() - begin < 10
    finally:
        process.kill()
        process.wait()
        process.stderr.close()
