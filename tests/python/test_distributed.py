"""One recipe on several processes: the same run as on one, by whichever launcher, and beside torch's DDP."""

import json
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

ROOT = Path(__file__).resolve().parents[2]
PROGRAM = Path(os.environ.get("BITRAIN_BUILD_DIR", ROOT / "build" / "release")) / "bin" / "bitrain"
LAUNCHERS = ("RANK", "WORLD_SIZE", "LOCAL_RANK", "MASTER_", "TORCHELASTIC", "SLURM", "OMPI", "PMI", "PET_")
CLEAN = {k: v for k, v in os.environ.items() if not k.startswith(LAUNCHERS)}


def run(*command, code=0, timeout=240, **extra):
    done = subprocess.run([str(part) for part in command], capture_output=True, text=True, cwd=ROOT, timeout=timeout,
                          env=CLEAN | {k: str(v) for k, v in extra.items()})
    assert done.returncode == code, f"{command}: exit {done.returncode}\n{done.stdout}\n{done.stderr}"
    return done


def torchrun(ranks, *options):
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        port = one.getsockname()[1]
    return [Path(sys.executable).parent / "torchrun", "--nproc-per-node", ranks, "--master-port", port, *options, "--no-python"]


@pytest.fixture(scope="module")
def recipe(tmp_path_factory):
    """A dense and a QLoRA stage with dropout, in float32."""
    folder = tmp_path_factory.mktemp("distributed")
    data = folder / "pairs.tsv"
    data.write_text("".join(
        f"{i}\tthe cat number {i} saw the dog and {i % 7} birds\tel gato número {i} vio al perro y {i % 7} aves\n"
        for i in range(400)))
    train = {"learning_rate": 3e-3, "schedule": {"warmup_steps": 2}, "eval_every": 10, "save_every": 10}
    path = folder / "recipe.yaml"
    path.write_text(json.dumps({
        "schema": 1, "name": "ranks", "dir": str(folder / "run"), "dtype": "float32", "threads": 1,
        "source": {"path": str(data), "format": "tsv", "column": 2, "language": "en"},
        "target": {"path": str(data), "format": "tsv", "column": 3, "language": "es"},
        "held_out": {"every": 10},
        "stages": {
            "tok": {"recipe": "tokenizer", "tokenizer": {"vocab_size": 320}},
            "dense": {
                "recipe": "pretrain",
                "model": {"hidden_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4, "num_key_value_heads": 2,
                          "intermediate_size": 96},
                "data": {"loader": {"sequence_length": 64, "rows_per_step": 8, "micro_batch_rows": 2}},
                "train": train | {"max_steps": 20}},
            "qlora": {
                "recipe": "cpt", "quantize": {"type": "nf4"},
                "lora": {"r": 4, "lora_dropout": 0.1, "target_modules": ["q_proj", "down_proj", "embed_tokens"]},
                "data": {"loader": {"sequence_length": 64, "rows_per_step": 7}},
                "train": train | {"max_steps": 12}},
        }}, indent=1))
    return path


def wait_for(what, *processes, seconds=100):
    """Until `what` gives something; fails when a process ends before, or the time does."""
    until = time.time() + seconds
    while not (got := what()):
        ended = [process.returncode for process in processes if process.poll() is not None]
        assert not ended and time.time() < until, f"waited for in vain; exit codes {ended}"
        time.sleep(0.005)
    return got


def steps_logged(folder):
    try:
        return len((folder / "dense.work" / "metrics.jsonl").read_text().splitlines())
    except FileNotFoundError:
        return 0


def summary(folder):
    return json.loads((folder / "summary.json").read_text())["stages"]


@pytest.fixture(scope="module")
def alone(recipe):
    folder = recipe.parent / "alone"
    run(PROGRAM, "run", recipe, f"dir={folder}")
    return summary(folder)


def expect_same(stages, alone):
    for name in ("dense", "qlora"):
        ours, one = stages[name], alone[name]
        assert ours["curve"]["loss"] == pytest.approx(one["curve"]["loss"], abs=1e-5), name
        assert ours["tokens"] == one["tokens"] and ours["supervised_tokens"] == one["supervised_tokens"]
        for at, wanted in zip(ours["evaluations"], one["evaluations"], strict=True):
            assert at["step"] == wanted["step"]
            for language in ("en", "es"):
                assert at["languages"][language]["bits_per_byte"] == pytest.approx(
                    wanted["languages"][language]["bits_per_byte"], abs=1e-4)


@pytest.mark.parametrize("ranks,overrides", [
    (2, []), (3, []), (4, ["parallel.shard=optimizer"]), (2, ["parallel.shard=gradients", "parallel.bucket_mib=1"]),
    (3, ["parallel.shard=parameters"]), (2, ["parallel.shard=parameters", "stages.qlora.train.recompute=true"]),
    (4, ["parallel.context=2", "stages.qlora.train.recompute=true"])])
def test_launch_is_the_run_of_one_process(recipe, alone, tmp_path, ranks, overrides):
    done = run(PROGRAM, "launch", "--nproc", ranks, "run", recipe, f"dir={tmp_path}/run", *overrides)
    assert f"[{ranks - 1}] rank {ranks - 1} of {ranks}" in done.stderr
    stages = summary(tmp_path / "run")
    assert stages["dense"]["ranks"] == ranks
    expect_same(stages, alone)


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_a_micro_batch_a_process_is_the_same_run_bit_for_bit(recipe, tmp_path, dtype):
    """Both add the same two numbers; one process has two threads, each of two has one."""
    loader = {f"stages.{stage}.data.loader.{key}": value for stage in ("dense", "qlora")
              for key, value in (("rows_per_step", 8), ("micro_batch_rows", 4), ("sequence_length", 128))}
    overrides = [f"dtype={dtype}", *(f"{key}={value}" for key, value in loader.items())]
    run(PROGRAM, "run", recipe, f"dir={tmp_path}/one", "threads=2", *overrides)
    run(PROGRAM, "launch", "--nproc", 2, "run", recipe, f"dir={tmp_path}/two", *overrides)
    one, two = summary(tmp_path / "one"), summary(tmp_path / "two")
    assert two["dense"]["ranks"] == 2
    for stage in ("dense", "qlora"):
        assert two[stage]["curve"]["loss"] == one[stage]["curve"]["loss"]
        for ours, wanted in zip(two[stage]["evaluations"], one[stage]["evaluations"], strict=True):
            assert ours["languages"] == wanted["languages"]
    weights = [load_file(next((tmp_path / name).glob("dense/*.safetensors"))) for name in ("one", "two")]
    assert all(torch.equal(weights[0][name], weights[1][name]) for name in weights[0])


def test_torchrun(recipe, alone, tmp_path):
    done = run(*torchrun(2), PROGRAM, "run", recipe, f"dir={tmp_path}/run")
    assert "by torchrun" in done.stderr and "served by the launcher" in done.stderr
    expect_same(summary(tmp_path / "run"), alone)


@pytest.mark.skipif(shutil.which("mpirun") is None, reason="no mpirun")
def test_mpirun(recipe, alone, tmp_path):
    done = run("mpirun", "--allow-run-as-root", "--oversubscribe", "-np", 2, PROGRAM, "run", recipe, f"dir={tmp_path}/run",
               MASTER_PORT=29617)
    assert "by Open MPI" in done.stderr
    expect_same(summary(tmp_path / "run"), alone)


def test_srun(recipe, alone, tmp_path):
    """What srun sets for two tasks of a step on one node."""
    def task(rank):
        variables = {"SLURM_PROCID": rank, "SLURM_STEP_NUM_TASKS": 2, "SLURM_LOCALID": rank, "SLURM_STEP_TASKS_PER_NODE": "2",
                     "SLURM_NODEID": 0, "SLURM_STEP_NODELIST": "localhost", "SLURM_JOB_ID": 4711}
        return subprocess.Popen([PROGRAM, "run", recipe, f"dir={tmp_path}/run"], cwd=ROOT, text=True,
                                env=CLEAN | {k: str(v) for k, v in variables.items()}, stderr=subprocess.PIPE,
                                stdout=subprocess.DEVNULL)
    tasks = [task(0), task(1)]
    errors = [one.communicate(timeout=240)[1] for one in tasks]
    assert [one.returncode for one in tasks] == [0, 0], errors
    assert "by Slurm, store at localhost:19711" in errors[0]
    expect_same(summary(tmp_path / "run"), alone)


def test_flags(recipe, tmp_path):
    assert "--world-size is missing" in run(PROGRAM, "run", recipe, "--rank", 0, code=2).stderr
    assert "rank 2 by flags is not one of 2" in run(
        PROGRAM, "run", recipe, "--rank", 2, "--world-size", 2, code=2).stderr
    run(PROGRAM, "run", recipe, f"dir={tmp_path}/run", "stages.dense.train.max_steps=2", "stages.qlora.train.max_steps=2",
        "--rank", 0, "--world-size", 1)


def test_wrong_numbers_of_ranks(recipe, tmp_path):
    launch = (PROGRAM, "launch", "--nproc", 2, "run", recipe, f"dir={tmp_path}/run")
    assert "a step of 1 rows cannot be shared by 2 ranks" in run(
        *launch, "stages.dense.data.loader.rows_per_step=1", code=2).stderr
    assert "parallel.context is 3, which does not divide 2 ranks" in run(*launch, "parallel.context=3", code=2).stderr
    assert "nccl needs device: cuda" in run(*launch, "parallel.backend=nccl", code=2).stderr


def read_step(text):
    """Ids and labels of each segment, from `data inspect --ids`."""
    segments = []
    for heading, line in re.findall(r"^segment (.*)\n(.*)$", text, re.M):
        ids, labels = [], []
        for word in line.split(" "):
            number = int(re.search(r"\((\d+)\)\]?$", word).group(1))
            if word.startswith("[->"):
                labels[-1] = number
                continue
            if word.startswith("[") and labels:
                labels[-1] = number
            ids.append(number)
            labels.append(-100)
        assert f"{len(ids)} tokens" in heading
        segments.append((ids, labels))
    return segments


ORACLE = """
import json, os, sys
import torch
import torch.distributed as dist
import transformers
from safetensors.torch import save_file

folder, steps, out = sys.argv[1:]
dist.init_process_group("gloo")
rank, world = dist.get_rank(), dist.get_world_size()
torch.set_num_threads(1)
model = transformers.AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
ddp = torch.nn.parallel.DistributedDataParallel(model)
segments = json.load(open(steps))
half = len(segments) // world
count = sum(label != -100 for _, labels in segments for label in labels)
loss = 0
for ids, labels in segments[rank * half:(rank + 1) * half if rank + 1 < world else None]:
    logits = ddp(torch.tensor([ids])).logits[0]
    loss = loss + torch.nn.functional.cross_entropy(logits, torch.tensor(labels), reduction="sum")
(loss * world / count).backward()  # DDP takes means over ranks.
if rank == 0:
    save_file({name: p.grad.contiguous() for name, p in model.named_parameters()}, out)
dist.barrier()
dist.destroy_process_group()
"""


def test_gradients_are_those_of_ddp(recipe, tmp_path):
    """With a huge epsilon AdamW's step is the gradient over epsilon: weights tell the gradients."""
    still = ["stages.dense.train.max_steps=1", "stages.dense.train.schedule.warmup_steps=0",
             "stages.dense.train.schedule.type=constant", "stages.dense.train.max_grad_norm=0",
             "stages.dense.data.loader.micro_batch_rows=0"]
    start, after = tmp_path / "start", tmp_path / "after"
    run(PROGRAM, "run", recipe, f"dir={start}", *still, "stages.dense.train.learning_rate=1e-30")
    run(PROGRAM, "launch", "--nproc", 2, "run", recipe, f"dir={after}", *still,
        "stages.dense.train.learning_rate=1e6", "stages.dense.train.adamw.eps=1e6")
    shown = run(PROGRAM, "data", "inspect", recipe, "dense", f"dir={start}", "--ids", "--segments", 0, "--no-color", *still)
    segments = read_step(shown.stdout)
    assert len(segments) > 8
    (tmp_path / "step.json").write_text(json.dumps(segments))
    (tmp_path / "oracle.py").write_text(ORACLE)
    run(*torchrun(2)[:-1], tmp_path / "oracle.py", start / "dense", tmp_path / "step.json",
        tmp_path / "gradients.safetensors")
    theirs = load_file(tmp_path / "gradients.safetensors")
    before, weights = (load_file(folder / "dense" / "model.safetensors") for folder in (start, after))
    for name, gradient in theirs.items():
        ours = before[name].double() - weights[name].double()
        assert gradient.abs().max() > 1e-4, name
        assert (ours - gradient.double()).abs().max() < 1e-6, name


def test_torchrun_restarts_from_the_last_checkpoint(recipe, alone, tmp_path):
    """A rank is killed in the middle of a stage; torchrun starts all again, and they go on."""
    folder = tmp_path / "run"
    process = subprocess.Popen(
        [str(part) for part in (*torchrun(2, "--max-restarts", 2), PROGRAM, "run", recipe, f"dir={folder}",
                                "stages.dense.train.save_every=3", "parallel.timeout_seconds=10")],
        cwd=ROOT, env=CLEAN, text=True, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)
    try:
        wait_for(lambda: list(folder.glob("dense.work/checkpoint-*")), process)
        children = subprocess.run(["pgrep", "-P", str(process.pid), "-f", "bitrain run"], capture_output=True, text=True)
        os.kill(int(children.stdout.split()[-1]), signal.SIGKILL)
        errors = process.communicate(timeout=200)[1]
    finally:
        process.kill()
    assert process.returncode == 0, errors
    assert "restart 1" in errors
    expect_same(summary(folder), alone)


def test_a_stop_on_four_goes_on_with_three(recipe, alone, tmp_path):
    folder = tmp_path / "run"
    shared = ["run", recipe, f"dir={folder}", "parallel.shard=optimizer"]
    process = subprocess.Popen([str(part) for part in (PROGRAM, "launch", "--nproc", 4, *shared)], cwd=ROOT, env=CLEAN, text=True,
                               stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)
    wait_for(lambda: steps_logged(folder) > 4, process)
    process.send_signal(signal.SIGTERM)
    errors = process.communicate(timeout=100)[1]
    assert process.returncode == 143, errors
    assert list(folder.glob("dense.work/checkpoint-*/optimizer-00003-of-00004.safetensors")), errors
    run(PROGRAM, "launch", "--nproc", 3, *shared)
    expect_same(summary(folder), alone)


@pytest.mark.parametrize("background", [False, True])
def test_a_full_disk_on_one_rank(recipe, tmp_path, background):
    """Rank 1 may not write files of more than a few KiB: its slices do not fit."""
    folder = tmp_path / "run"
    command = f'"{PROGRAM}" run "{recipe}" dir="{folder}" parallel.shard=optimizer parallel.timeout_seconds=10 ' \
        f"stages.dense.train.save_every=5 stages.dense.train.save_in_background={str(background).lower()}"
    done = run(PROGRAM, "launch", "--nproc", 3, "--", "sh", "-c",
               f'if [ "$RANK" = 1 ]; then trap "" XFSZ; ulimit -f 8; fi; exec {command}', code=5)
    assert re.search(r"cannot save .*checkpoint-5: .*File too large", done.stderr), done.stderr
    assert "rank 1" in done.stderr
    assert not [path for path in folder.glob("dense.work/checkpoint-*") if (path / "manifest.json").exists()]


@pytest.fixture
def two_hosts():
    """Two network namespaces joined by a cable, as two machines would be: their names, and how to cut the cable."""
    if os.geteuid() != 0 or shutil.which("ip") is None:
        pytest.skip("needs root and iproute2")
    names = [f"bitrain-{os.getpid()}-{side}" for side in "ab"]
    ends = [f"bt{os.getpid() % 100000}{side}" for side in "ab"]

    def ip(*words, check=True):
        return subprocess.run(["ip", *words], capture_output=True, text=True, check=check)

    if ip("netns", "add", names[0], check=False).returncode:
        pytest.skip("no network namespaces here")
    try:
        ip("netns", "add", names[1])
        ip("link", "add", ends[0], "type", "veth", "peer", "name", ends[1])
        for side in (0, 1):
            ip("link", "set", ends[side], "netns", names[side])
            ip("-n", names[side], "addr", "add", f"10.77.0.{side + 1}/24", "dev", ends[side])
            ip("-n", names[side], "link", "set", "lo", "up")
            ip("-n", names[side], "link", "set", ends[side], "up")
        yield names, lambda: ip("-n", names[0], "link", "set", ends[0], "down")
    finally:
        for name in names:
            ip("netns", "del", name, check=False)


def start_on(host, rank, recipe, *overrides):
    return subprocess.Popen(
        [str(part) for part in ("ip", "netns", "exec", host, PROGRAM, "run", recipe, *overrides, "--rank", rank, "--world-size", 2,
                                "--local-rank", 0, "--local-world-size", 1, "--master-addr", "10.77.0.1", "--master-port", 29701)],
        cwd=ROOT, env=CLEAN, text=True, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)


def test_two_hosts(recipe, alone, tmp_path, two_hosts):
    hosts, _ = two_hosts
    ranks = [start_on(host, rank, recipe, f"dir={tmp_path}/run") for rank, host in enumerate(hosts)]
    errors = [rank.communicate(timeout=240)[1] for rank in ranks]
    assert [rank.returncode for rank in ranks] == [0, 0], errors
    expect_same(summary(tmp_path / "run"), alone)


def test_a_cut_cable_ends_both_sides(recipe, tmp_path, two_hosts):
    hosts, cut = two_hosts
    ranks = [start_on(host, rank, recipe, f"dir={tmp_path}/run", "stages.dense.train.max_steps=100000",
                      "parallel.timeout_seconds=5") for rank, host in enumerate(hosts)]
    try:
        wait_for(lambda: steps_logged(tmp_path / "run") > 4, *ranks)
        cut()
        errors = [rank.communicate(timeout=60)[1] for rank in ranks]
    finally:
        for rank in ranks:
            rank.kill()
    assert [rank.returncode for rank in ranks] == [9, 9], errors
    assert "rank 1 (" in errors[0] and "is silent: killed, stopped or cut off" in errors[0]
    assert "the store at 10.77.0.1:29701 does not answer" in errors[1]
