#!/usr/bin/env python3
"""Kills runs of every stage type at random moments, lets them go on, and compares what they end with.

  python3 tests/kill_runs.py --kills 200 --seed 1 --program build/release/bin/bitrain --report kills.json

A run is killed (SIGKILL, SIGTERM, SIGHUP) as one process, as two ranks of `bitrain launch` (the launcher or a rank), and in a pid
namespace of its own, as a container has it, where the kernel allows one. Half of the kills fall anywhere, half just after a name
appeared in the run's folder or went: around checkpoints and ends of stages. After each, no process may be left and no lock held,
nothing that was finished or saved may be gone, and the exit code must say what happened. In the end the run must be that of a
process that nobody touched: every file (tests/same_run.py says which fields tell times), and no file besides.
"""

import argparse
import collections
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import every_stage
import same_run

SIGNALS = [signal.SIGKILL, signal.SIGTERM, signal.SIGHUP]
LAUNCHERS = ("RANK", "WORLD_SIZE", "LOCAL_RANK", "MASTER_", "TORCHELASTIC", "SLURM", "OMPI", "PMI", "PET_")
# What a container's runtime waits for the first process of a namespace before it kills it.
GRACE_SECONDS = 5
NAMESPACE = ["unshare", *([] if os.geteuid() == 0 else ["--user", "--map-root-user"]), "--pid", "--fork", "--kill-child",
             "--mount-proc"]
MODES = {  # Ranks, and whether in a namespace.
    "process": (1, False), "launch": (2, False), "namespace": (1, True), "launch in namespace": (2, True)}


def namespaces_work():
    try:
        return subprocess.run([*NAMESPACE, "true"], capture_output=True, timeout=20).returncode == 0
    except (OSError, subprocess.TimeoutExpired):
        return False


def children_of(pid):
    try:
        return [int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]
    except OSError:
        return []


def is_alive(pid):
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except (OSError, IndexError):
        return False


def ranks_of(launcher):
    """Its children, but for the one that kills them should the launcher be killed."""
    names = {child: Path(f"/proc/{child}/comm") for child in children_of(launcher)}
    return [child for child, name in names.items() if name.exists() and name.read_text().strip() != "bitrain-guard"]


def descendants_of(pid):
    found = children_of(pid)
    for child in list(found):
        found += descendants_of(child)
    return found


def send(pid, number):
    try:
        os.kill(pid, number)
    except ProcessLookupError:
        pass


def names_in(run):
    """Names in the run's folder and in those where stages work."""
    try:
        names = os.listdir(run)
        return frozenset(names + [f"{name}/{inner}" for name in names if name.endswith(".work") for inner in os.listdir(run / name)])
    except OSError:
        return frozenset()


class Runs:
    """Runs of the recipes of every_stage.py, in one folder after the other."""

    def __init__(self, program, world):
        self.program, self.world = str(Path(program).resolve()), world
        self.recipes = every_stage.write_recipes(world)
        self.stages = {name: list(json.loads(path.read_text())["stages"]) for name, path in self.recipes.items()}
        self.run = world / "run"  # The recipes' dir; summaries name it.
        self.temporary, self.log = world / "tmp", world / "tmp-output"
        self.temporary.mkdir()
        self.environment = {key: value for key, value in os.environ.items() if not key.startswith(LAUNCHERS)} | {
            "TMPDIR": str(self.temporary)}
        self.inputs = self.content_of_inputs()
        self.references = {}
        begin = time.monotonic()
        subprocess.run([self.program, "--version"], capture_output=True, check=True)
        self.start_seconds = time.monotonic() - begin

    def content_of_inputs(self):
        ours = ("run", "tmp", "reference")
        return {path: path.read_bytes() for path in sorted(self.world.rglob("*"))
                if path.is_file() and not path.relative_to(self.world).parts[0].startswith(ours)}

    def start(self, recipe, mode):
        ranks, contained = MODES[mode]
        command = [self.program, *(["launch", "--nproc", str(ranks)] if ranks > 1 else []), "run", str(self.recipes[recipe])]

        def as_from_a_shell():  # Under nohup, or in the background, signals are ignored, and children inherit that.
            for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
                signal.signal(number, signal.SIG_DFL)

        with open(self.log, "wb") as output:
            return subprocess.Popen([*(NAMESPACE if contained else []), *command], env=self.environment, cwd=self.world,
                                    stdout=output, stderr=subprocess.STDOUT, preexec_fn=as_from_a_shell)

    def output(self):
        return self.log.read_text(errors="replace")[-3000:]

    def reference(self, recipe, ranks):
        """The folder of a run that nobody touched, its seconds, and how often names came and went."""
        if (recipe, ranks) not in self.references:
            process, begin = self.start(recipe, "process" if ranks == 1 else "launch"), time.monotonic()
            events, before = 0, frozenset()
            while process.poll() is None:
                now = names_in(self.run)
                events, before = events + (now != before), now
                time.sleep(0.0005)
            if process.returncode != 0:
                sys.exit(f"the run without kills ended with {process.returncode}:\n{self.output()}")
            kept = self.world / f"reference-{recipe}-{ranks}"
            self.run.rename(kept)
            self.references[recipe, ranks] = kept, time.monotonic() - begin, events
        return self.references[recipe, ranks]

    def left_running(self):
        """Processes that have this folder on their command line or in their environment."""
        mark, found = str(self.world).encode(), []
        for entry in Path("/proc").iterdir():
            if not entry.name.isdigit() or int(entry.name) == os.getpid():
                continue
            try:
                if mark in (entry / "environ").read_bytes() and is_alive(int(entry.name)):
                    found.append(int(entry.name))
            except OSError:
                continue
        return found


class Trial:
    """One run that is killed again and again and then goes on to its end."""

    def __init__(self, runs, stream, recipe, mode):
        self.runs, self.stream, self.recipe, self.mode = runs, stream, recipe, mode
        self.ranks, self.contained = MODES[mode]
        self.reference, self.seconds, self.events = runs.reference(recipe, self.ranks)
        self.kills, self.problems = [], []

    def await_moment(self, process, aim):
        """Waits for a random moment; whether the process lives then."""
        stages = len(self.runs.stages[self.recipe])
        left_to_do = max(1 / stages, 1 - same_run.progress(self.runs.run, self.runs.stages[self.recipe])[0] / stages)
        if aim == "anywhere":
            begin = self.runs.start_seconds
            until = time.monotonic() + self.stream.uniform(0, begin + max(0, self.seconds - begin) * left_to_do)
            while process.poll() is None and time.monotonic() < until:
                time.sleep(0.001)
            return process.poll() is None
        left = self.stream.randint(1, max(1, int(self.events * left_to_do)))
        delay = self.stream.uniform(0, 0.004)
        before = names_in(self.runs.run)
        while process.poll() is None and left > 0:
            now = names_in(self.runs.run)
            left, before = left - (now != before), now
            time.sleep(0.0002)
        time.sleep(delay)
        return process.poll() is None

    def target(self, process):
        """The process that is killed, and what it is."""
        pid = process.pid
        if self.contained:
            pid = (children_of(pid) or [pid])[0]
        if self.ranks > 1 and self.stream.random() < 0.5 and (ranks := ranks_of(pid)):
            return self.stream.choice(ranks), "rank"
        return pid, "first process" if self.contained else "process"

    def kill(self):
        """Starts the run and kills it. Whether it has come to its end before."""
        process, begin = self.runs.start(self.recipe, self.mode), time.monotonic()
        aim, number = self.stream.choice(["anywhere", "names"]), self.stream.choice(SIGNALS)
        alive = self.await_moment(process, aim)
        stages = self.runs.stages[self.recipe]
        before = same_run.progress(self.runs.run, stages)
        if not alive:
            if process.returncode != 0:
                self.problems.append(f"ended with {process.returncode} before it was killed:\n{self.runs.output()}")
            return True
        pid, what = self.target(process)
        all_pids = descendants_of(process.pid)
        send(pid, number)
        one = {"signal": number.name, "aim": aim, "mode": self.mode, "target": what, "before": before,
               "type": self.type_at(before[0])}
        # The kernel drops what the first process of a namespace has no handler for, as it has none before it begins.
        one["beginning"] = what == "first process" and time.monotonic() - begin < 2 * self.runs.start_seconds + 0.2
        try:
            process.wait(GRACE_SECONDS if what == "first process" and number != signal.SIGKILL else 60)
        except subprocess.TimeoutExpired:
            one["ignored"] = True
            for one_pid in (pid, process.pid):
                send(one_pid, signal.SIGKILL)
            process.wait()
        one["code"] = process.returncode
        self.kills.append(one)
        self.look_after(one, number, all_pids)
        return process.returncode == 0

    def type_at(self, finished):
        stages = json.loads(self.runs.recipes[self.recipe].read_text())["stages"]
        return list(stages.values())[finished]["recipe"] if finished < len(stages) else "after the last"

    def look_after(self, one, number, all_pids):
        """What must hold after every kill."""
        def problem(text):
            self.problems.append(f"{one}: {text}")

        until = time.monotonic() + 10
        while (left := [pid for pid in all_pids if is_alive(pid)] + self.runs.left_running()) and time.monotonic() < until:
            time.sleep(0.01)
        if left:
            problem(f"processes {left} are left running")
            for pid in left:
                send(pid, signal.SIGKILL)
        # A process whose other threads still end holds its lock a little longer than its first one.
        while (locked := same_run.is_locked(self.runs.run)) and time.monotonic() < until:
            time.sleep(0.01)
        if locked:
            problem("the run's folder is still locked")
        after = same_run.progress(self.runs.run, self.runs.stages[self.recipe])
        if after < one["before"]:
            problem(f"work is lost: {after} now")
        if one.get("ignored") and not one["beginning"]:
            problem("the signal was ignored")
        if not one["beginning"] and not one.get("ignored") and number != signal.SIGKILL and after[0] > one["before"][0] + 1:
            problem(f"the signal was not obeyed: went on to {after}")
        if one["code"] not in ({0, -number, 128 + number, -signal.SIGKILL} if one.get("ignored") else self.codes(one, number)):
            problem(f"exit code {one['code']}\n{self.runs.output()}")

    def codes(self, one, number):
        """Exit codes that say what happened: killed by the signal, by it with a checkpoint, or the run was over by then."""
        codes = {0, -number, 128 + number}
        if self.ranks > 1 and number == signal.SIGHUP:
            codes |= {128 + signal.SIGTERM}  # What the launcher passes on.
        if one["target"] == "rank" and number == signal.SIGKILL:
            codes -= {-number}
        if self.contained and number == signal.SIGKILL:
            codes |= {1}  # Of unshare, which cannot tell of a SIGKILL.
        return codes

    def run(self, most_kills):
        while len(self.kills) < most_kills and not self.kill():
            pass
        last = self.runs.start(self.recipe, self.mode)
        try:
            code = last.wait(120)
        except subprocess.TimeoutExpired:
            code = "nothing within 120 s"
            for pid in [last.pid, *descendants_of(last.pid)]:
                send(pid, signal.SIGKILL)
        if code != 0:
            self.problems.append(f"did not go on: {code}\n{self.runs.output()}")
        else:
            self.problems += same_run.differences(self.runs.run, self.reference)
            self.check_report()
        if left := self.runs.left_running():
            self.problems.append(f"processes {left} are left running")
        if self.runs.content_of_inputs() != self.runs.inputs:
            self.problems.append("the run changed what it reads")

    def check_report(self):
        was = (self.runs.run / "report.html").read_bytes()
        subprocess.run([self.runs.program, "report", str(self.runs.run)], capture_output=True, check=True)
        if (self.runs.run / "report.html").read_bytes() != was:
            self.problems.append("report.html is not that of summary.json")


def shared_memory():
    return set(os.listdir("/dev/shm")) if os.path.isdir("/dev/shm") else set()


def run_trials(runs, kills, seed, modes, most_kills=4, keep=None):
    """Trials until so many kills hit. Their kills, and problems with the number of the trial."""
    stream = random.Random(seed)
    hit, problems, memory, number = [], [], shared_memory(), 0
    schedule = [(recipe, mode) for mode in modes for recipe in runs.recipes]
    while len(hit) < kills:
        if number % len(schedule) == 0:
            stream.shuffle(schedule)
        trial = Trial(runs, random.Random(stream.random()), *schedule[number % len(schedule)])
        number += 1
        trial.run(min(stream.randint(1, most_kills), kills - len(hit)))
        hit += trial.kills
        problems += [f"trial {number} ({trial.recipe}, {trial.mode}): {problem}" for problem in trial.problems]
        if trial.problems and keep:
            shutil.copytree(runs.run, keep / f"trial-{number}", symlinks=True)
        shutil.rmtree(runs.run, ignore_errors=True)
        print(f"trial {number}: {trial.recipe}, {trial.mode}: {len(trial.kills)} kills, {len(trial.problems)} problems; "
              f"{len(hit)} of {kills}", flush=True)
        for problem in trial.problems:
            print(f"  {problem}", flush=True)
    problems += leftovers(runs, memory)
    return hit, problems, number


def leftovers(runs, memory):
    """What is left behind outside the runs' folders, once a run of each kind has ended as it should: such a run removes what killed
    ones have left in TMPDIR."""
    if any(runs.temporary.iterdir()):
        runs.references.clear()
        for recipe in runs.recipes:
            shutil.rmtree(runs.world / f"reference-{recipe}-2", ignore_errors=True)
            runs.reference(recipe, 2)
    found = [f"left in TMPDIR: {path.name}" for path in runs.temporary.iterdir()]
    return found + [f"left in /dev/shm: {name}" for name in sorted(shared_memory() - memory) if "bitrain" in name or "torch" in name]


def summary(hit, problems, trials, seconds):
    def count(*keys):
        table = collections.Counter(" ".join(str(one[key]) for key in keys) for one in hit)
        return dict(sorted(table.items()))

    return {"kills": len(hit), "trials": trials, "seconds": round(seconds, 1), "by_mode_and_signal": count("mode", "signal"),
            "by_target": count("target"), "by_aim": count("aim"), "by_stage_type": count("type"),
            "by_signal_and_exit_code": count("signal", "code"),
            "ignored_by_first_processes": sum(one.get("ignored", False) for one in hit), "problems": problems}


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("--kills", type=int, default=200)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--program", default=str(Path(__file__).resolve().parents[1] / "build" / "release" / "bin" / "bitrain"))
    parser.add_argument("--report", type=Path, help="JSON file for the figures; folders with problems are kept beside it")
    arguments = parser.parse_args()
    modes = list(MODES)
    if not namespaces_work():
        print("this kernel or user may not make pid namespaces: without them")
        modes = [mode for mode in modes if not MODES[mode][1]]
    begin = time.monotonic()
    keep = arguments.report.with_suffix(".kept") if arguments.report else None
    with tempfile.TemporaryDirectory(prefix="bitrain-kills-") as world:
        runs = Runs(arguments.program, Path(world))
        figures = summary(*run_trials(runs, arguments.kills, arguments.seed, modes, keep=keep), time.monotonic() - begin)
    text = json.dumps(figures, indent=1)
    print(text)
    if arguments.report:
        arguments.report.write_text(text + "\n")
    return 1 if figures["problems"] else 0


if __name__ == "__main__":
    sys.exit(main())
