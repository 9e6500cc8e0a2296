"""Compares the folders of two runs of one recipe: every file byte for byte, but for what holds times by nature."""

import fcntl
import json
import os
from pathlib import Path

# Keys of summary.json, stage.json, trainer_state.json and metrics.jsonl, at any depth: times, rates and peaks of memory; and what
# only the last of several processes counts: its checkpoints (saves) and its traffic.
OF_THE_CLOCK = {"seconds", "train_seconds", "tokens_per_second", "pairs_per_second", "eval_runtime", "peak_memory_bytes",
                "peak_memory_bytes_of_ranks", "planned_memory_bytes", "saves", "traffic"}
# A process id; stamps of files, kept so that they are not read again.
OF_THE_PROCESS = {".lock", ".contents.json"}
STRUCTURED = {"summary.json", "stage.json", "trainer_state.json", "manifest.json", "metrics.jsonl"}


def without_times(name, value):
    if isinstance(value, dict):
        if name == "manifest.json" and "trainer_state.json" in value:  # Its size and checksum, with its times.
            value = value | {"trainer_state.json": None}
        return {key: without_times(name, inner) for key, inner in value.items() if key not in OF_THE_CLOCK}
    return [without_times(name, inner) for inner in value] if isinstance(value, list) else value


def read(path):
    """A file as it is compared."""
    if path.name not in STRUCTURED:
        return path.read_bytes()
    text = path.read_text()
    values = [json.loads(line) for line in text.splitlines()] if path.suffix == ".jsonl" else json.loads(text)
    return without_times(path.name, values)


def files_of(folder):
    """Names of all files. Event files have a date, a host and a process in their names, and each process writes one of its own: of
    these the folder stands for all."""
    names = set()
    for path in folder.rglob("*"):
        name = path.relative_to(folder)
        if path.is_dir():
            names.add(f"{name}/")
        elif str(name) not in OF_THE_PROCESS and path.parent.name != "tensorboard":
            names.add(str(name))
    return names


def differences(run, reference):
    """What `run` has otherwise than `reference`, as texts. report.html shows times: that it is of its summary.json is for the
    program to say (`bitrain report`)."""
    here, there = files_of(run), files_of(reference)
    found = [f"{name}: is left over" for name in sorted(here - there)] + [f"{name}: is missing" for name in sorted(there - here)]
    for name in sorted(here & there):
        if not name.endswith("/") and name != "report.html" and read(run / name) != read(reference / name):
            found.append(f"{name}: differs")
    return found


def is_locked(run):
    """Whether a process holds the lock of a run's folder."""
    try:
        descriptor = os.open(run / ".lock", os.O_RDWR)
    except FileNotFoundError:
        return False
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    finally:
        os.close(descriptor)
    return False


def progress(run, stages):
    """How far a run is: stages finished from the first on, and the step of the newest whole checkpoint of the next one."""
    finished = 0
    while finished < len(stages) and (run / stages[finished] / "stage.json").exists():
        finished += 1
    steps = [0]
    if finished < len(stages):
        for manifest in Path(run / f"{stages[finished]}.work").glob("checkpoint-*/manifest.json"):
            number = manifest.parent.name.removeprefix("checkpoint-")
            steps += [int(number)] if number.isdigit() else []
    return finished, max(steps)
