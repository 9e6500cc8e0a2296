"""`bitrain launch`: several processes on one machine, with torchrun's environment."""

import os
import signal
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
PROGRAM = Path(os.environ.get("BITRAIN_BUILD_DIR", ROOT / "build" / "release")) / "bin" / "bitrain"


def launch(*arguments, code=0):
    done = subprocess.run(
        [PROGRAM, "launch", *map(str, arguments)], capture_output=True, text=True, cwd=ROOT, timeout=120
    )
    assert done.returncode == code, f"{arguments}: exit {done.returncode}\n{done.stdout}\n{done.stderr}"
    return done


def test_every_rank_runs_the_program():
    done = launch("--nproc", 2, "--", "sh", "-c", "echo $RANK of $WORLD_SIZE")
    assert sorted(done.stdout.splitlines()) == ["[0] 0 of 2", "[1] 1 of 2"]
    assert done.stderr == ""


def test_the_first_failure_ends_all_and_is_explained(tmp_path):
    script = """
import json, os, sys, time
if os.environ["RANK"] == "0":
    time.sleep(600)
error = {"message": {"message": "ValueError: no such thing", "extraInfo": {"timestamp": str(int(time.time()))}}}
with open(os.environ["TORCHELASTIC_ERROR_FILE"], "w") as file:
    json.dump(error, file)
print("leaving", flush=True)
sys.exit(6)
"""
    done = launch("--nproc", 2, "--log-dir", tmp_path / "logs", "--", sys.executable, "-c", script, code=6)
    assert done.stdout == "[1] leaving\n"
    assert done.stderr.splitlines() == [
        "error: launch: rank 1 of 2 failed first: exit code 6: ValueError: no such thing",
        f"its output is in {tmp_path}/logs/rank-1.log",
    ]
    assert (tmp_path / "logs" / "rank-1.log").read_text() == "leaving\n"


def test_torch_meets_its_peers_and_its_error_files_are_read(tmp_path):
    script = tmp_path / "script.py"
    script.write_text("""
import time

import torch
import torch.distributed as dist
from torch.distributed.elastic.multiprocessing.errors import record

@record
def main():
    dist.init_process_group("gloo")
    total = torch.tensor([dist.get_rank() + 1.0])
    dist.all_reduce(total)
    print("total", total.item(), flush=True)
    if dist.get_rank() == 1:
        raise ValueError("of rank 1")
    time.sleep(600)

main()
""")
    done = launch("--nproc", 2, "--", sys.executable, script, code=1)
    assert sorted(done.stdout.splitlines()) == ["[0] total 3.0", "[1] total 3.0"]
    assert "error: launch: rank 1 of 2 failed first: exit code 1: ValueError: of rank 1\n" in done.stderr


def test_a_verb_is_run_by_this_program():
    done = launch("--nproc", 2, "recipes", "ls")
    both = [[line[4:] for line in done.stdout.splitlines() if line.startswith(f"[{rank}] ")] for rank in (0, 1)]
    assert both[0] == both[1] and any("quickstart/en_es.yaml" in line for line in both[0])


def test_options_after_the_program_are_its_own(tmp_path):
    # Of a verb, with and without "--"; a wrong command line is not tried again.
    for mark in ([], ["--"]):
        done = launch("--nproc", 1, "--max-restarts", 3, *mark, "run", "--nproc", "[a,b]", code=2)
        assert "--nproc" in done.stderr and done.stderr.count("failed") == 1
    shown = launch("--nproc", 1, "--", "printf", "%s|", "--nproc", "[a,b]", "--", "-q", "--help").stdout
    assert shown == "--nproc|[a,b]|--|-q|--help|\n"
    assert "key=value" in launch("--nproc", 1, "run", "--help").stdout


def test_wrong_command_lines_are_explained():
    assert "--nproc is required" in launch("run", "x.yaml", code=2).stderr
    assert "at least 1 and at most 4096, not 0" in launch("--nproc", 0, "run", "x.yaml", code=2).stderr
    assert "no program to run" in launch("--nproc", 2, code=2).stderr
    assert "did you mean '--nproc'" in launch("--nproc", 2, "--nprocs", 3, "run", code=2).stderr
    assert "is in no folder of PATH" in launch("--nproc", 2, "--", "no-such-program", code=5).stderr
    assert "torchrun" in launch("--help").stdout


def test_ctrl_c_lets_the_ranks_end():
    script = "trap 'echo saved; exit 143' TERM; echo ready; while :; do sleep 0.02; done"
    with subprocess.Popen(
        [PROGRAM, "launch", "--nproc", "2", "--", "sh", "-c", script], stdout=subprocess.PIPE, text=True,
        # Tests that run in the background may have inherited that it is ignored.
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    ) as started:
        for _ in range(2):
            assert "ready" in started.stdout.readline()
        started.send_signal(signal.SIGINT)
        rest = started.stdout.read()
        assert started.wait(timeout=60) == 143
    assert sorted(rest.splitlines()) == ["[0] saved", "[1] saved"]


def test_ranks_that_never_come_are_explained(tmp_path):
    """An interactive shell of Slurm has its variables, as has a shell where somebody exported them."""
    (tmp_path / "text.tsv").write_text("".join(f"{i}\tthe cat {i}\tel gato {i}\n" for i in range(50)))
    (tmp_path / "recipe.yaml").write_text(f"""
schema: 1
name: alone
held_out: {{every: 10}}
dir: {tmp_path / "run"}
source: {{path: {tmp_path / "text.tsv"}, format: tsv, column: 2, language: en}}
target: {{path: {tmp_path / "text.tsv"}, format: tsv, column: 3, language: es}}
stages:
  tok: {{recipe: tokenizer, tokenizer: {{vocab_size: 300, exact_vocab_size: false}}}}
""")
    slurm = {"SLURM_STEP_NUM_TASKS": "4", "SLURM_PROCID": "0", "SLURM_LOCALID": "0", "SLURM_STEP_TASKS_PER_NODE": "4",
             "SLURM_STEP_NODELIST": "localhost", "SLURM_JOB_ID": "77"}
    command = [PROGRAM, "run", tmp_path / "recipe.yaml", "parallel.timeout_seconds=2"]
    done = subprocess.run(command, capture_output=True, text=True, env={**os.environ, **slurm}, timeout=120)
    assert done.returncode == 9, done.stderr
    for part in ["of 4 ranks 1 came within 2 s; missing: 1, 2, 3", "SLURM_STEP_NUM_TASKS=4 and SLURM_PROCID=0 asked for 4",
                 "run alone by: env -u SLURM_STEP_NUM_TASKS -u SLURM_PROCID"]:
        assert part in done.stderr
    alone = ["env", "-u", "SLURM_STEP_NUM_TASKS", "-u", "SLURM_PROCID", *command]  # What it says works.
    subprocess.run(alone, capture_output=True, env={**os.environ, **slurm}, timeout=120, check=True)


def test_threads_follow_the_affinity_unless_they_are_given():
    cpu = min(os.sched_getaffinity(0))
    command = ["taskset", "-c", str(cpu), PROGRAM, "launch", "--nproc", "2", "--", "sh", "-c", "echo $OMP_NUM_THREADS"]
    environment = {key: value for key, value in os.environ.items() if key != "OMP_NUM_THREADS"}
    done = subprocess.run(command, capture_output=True, text=True, env=environment, timeout=120, check=True)
    assert sorted(done.stdout.splitlines()) == ["[0] 1", "[1] 1"]
    done = subprocess.run(command, capture_output=True, text=True, env={**environment, "OMP_NUM_THREADS": "3"}, timeout=120)
    assert sorted(done.stdout.splitlines()) == ["[0] 3", "[1] 3"]


def test_killed_launches_leave_nothing_for_long(tmp_path):
    """The error folder of a launch that SIGKILL ended is removed by the next one."""
    environment = {**os.environ, "TMPDIR": str(tmp_path)}
    command = [PROGRAM, "launch", "--nproc", "2", "--", "sh", "-c", "echo ready; sleep 600"]
    killed = subprocess.Popen(command, stdout=subprocess.PIPE, env=environment)
    killed.stdout.readline()
    folders = list(tmp_path.iterdir())
    assert len(folders) == 1 and folders[0].stat().st_mode & 0o777 == 0o700
    running = subprocess.Popen(command, stdout=subprocess.PIPE, env=environment)
    running.stdout.readline()
    assert folders[0].exists(), "a launch took the folder of another that runs"
    killed.kill()
    killed.wait()
    killed.stdout.close()
    running.send_signal(signal.SIGTERM)
    running.wait()
    running.stdout.close()
    subprocess.run(
        [PROGRAM, "launch", "--nproc", "1", "--", "true"], env=environment, check=True, timeout=60
    )
    assert not list(tmp_path.iterdir())
