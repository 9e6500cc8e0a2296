"""How a run scales from one process to two, beside torch's DDP over Gloo; and what each way to share it moves and holds.

    python benchmarks/scaling.py [--steps 12] [--rows 8] [--rounds 3] [--only speed|modes|saving]    a round of speeds is 3 minutes, the rest 4

A Llama of about 14 M weights in float32, steps of --rows rows of 512 tokens, the same for any number of processes, one
thread each. Efficiency is tokens a second of two processes over twice those of one, by the median step; "of two alone" is
over two processes that take half a step each at the same time and exchange nothing, which is what sharing costs. Both sides
train all weights with AdamW; the peer is transformers' model in DistributedDataParallel, fused AdamW, the logits of all
tokens. Needs a release build.
"""

import argparse
import json
import os
import socket
import statistics
import subprocess
import sys
import tempfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
PROGRAM = ROOT / "build/release/bin/bitrain"
SHAPE = {"hidden_size": 384, "num_hidden_layers": 6, "num_attention_heads": 6, "intermediate_size": 1024}
VOCABULARY = 4000
LENGTH = 512

PEER = """
import json, sys, time
import torch
import torch.distributed as dist
import transformers

shape, vocabulary, length, rows, steps = json.loads(sys.argv[1])
dist.init_process_group("gloo")
rank, world = dist.get_rank(), dist.get_world_size()
torch.set_num_threads(1)
torch.manual_seed(0)
config = transformers.LlamaConfig(vocab_size=vocabulary, max_position_embeddings=1024, attn_implementation="sdpa", **shape)
model = transformers.LlamaForCausalLM(config)
if world > 1:
    model = torch.nn.parallel.DistributedDataParallel(model)
optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3, fused=True)
seconds = []
for step in range(steps):
    ids = torch.randint(0, vocabulary, (rows // world, length))
    start = time.perf_counter()
    optimizer.zero_grad(set_to_none=True)
    model(ids, labels=ids).loss.backward()
    torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
    optimizer.step()
    seconds.append(time.perf_counter() - start)
if rank == 0:
    print("seconds", json.dumps(seconds))
dist.barrier()
dist.destroy_process_group()
"""


def recipe(folder, arguments):
    data = ROOT / "examples/data/en-es.tsv.zst"
    path = folder / "recipe.yaml"
    path.write_text(json.dumps({
        "schema": 1, "name": "scaling", "dtype": "float32", "threads": 1, "dir": str(folder / "tok"),
        "source": {"path": str(data), "format": "tsv", "column": 2, "language": "en"},
        "target": {"path": str(data), "format": "tsv", "column": 3, "language": "es"},
        "held_out": {"every": 1000},
        "stages": {
            "tok": {"recipe": "tokenizer", "tokenizer": {"vocab_size": VOCABULARY, "model_type": "bpe"}},
            "train": {
                "recipe": "pretrain", "from": "tok", "model": SHAPE | {"max_position_embeddings": 1024},
                "data": {"lines_per_document": 8,
                         "loader": {"sequence_length": LENGTH, "rows_per_step": arguments.rows, "packing": "cut"}},
                "train": {"max_steps": arguments.steps, "learning_rate": 1e-3, "eval_at_end": False, "log_every": 1,
                          "progress": "none", "tensorboard": False, "schedule": {"warmup_steps": 1}}}}}))
    return path


def train(path, folder, name, ranks, *overrides):
    """Of the stage that trains: its figures."""
    directory = folder / name
    done = subprocess.run([PROGRAM, "launch", "--nproc", str(ranks), "run", path, f"dir={directory}", *overrides],
                          capture_output=True, text=True, cwd=ROOT)
    if done.returncode:
        sys.exit(done.stderr)
    return json.loads((directory / "summary.json").read_text())["stages"]["train"]


def ours(path, folder, name, ranks, rows):
    """Tokens a second."""
    curve = train(path, folder, name, ranks, f"stages.train.data.loader.rows_per_step={rows}")["curve"]["tokens_per_second"]
    return statistics.median(curve[2:])


def theirs(folder, name, ranks, rows, steps):
    script = folder / f"{name}.py"
    script.write_text(PEER)
    what = json.dumps([SHAPE, VOCABULARY, LENGTH, rows, steps])
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        port = one.getsockname()[1]
    done = subprocess.run([Path(sys.executable).parent / "torchrun", "--nproc-per-node", str(ranks), "--master-port", str(port),
                           script, what], capture_output=True, text=True, env=os.environ | {"HF_HUB_OFFLINE": "1"})
    if done.returncode:
        sys.exit(done.stderr)
    line = next(line for line in done.stdout.splitlines() if line.startswith("seconds "))
    return rows * LENGTH / statistics.median(json.loads(line[8:])[2:])


def speed(path, folder, arguments):
    sides = {"bitrain": lambda name, ranks, rows: ours(path, folder, name, ranks, rows),
             "DDP": lambda name, ranks, rows: theirs(folder, name, ranks, rows, arguments.steps)}
    figures = {}
    for turn in range(arguments.rounds):
        for side, run in sides.items():
            for ranks in (1, 2):
                figures.setdefault((side, ranks), []).append(run(f"{side}-{turn}-{ranks}", ranks, arguments.rows))
            with ThreadPoolExecutor() as both:
                halves = both.map(lambda half: run(f"{side}-{turn}-half-{half}", 1, arguments.rows // 2), (1, 2))
                figures.setdefault((side, "alone"), []).append(sum(halves))
    print(f"{'tokens/s':12}{'1 process':>12}{'2 processes':>14}{'two alone':>12}{'efficiency':>12}{'of two alone':>14}")
    efficiency = {}
    for side in sides:
        one, two, alone = (statistics.median(figures[side, what]) for what in (1, 2, "alone"))
        efficiency[side] = two / (2 * one)
        print(f"{side:12}{one:12,.0f}{two:14,.0f}{alone:12,.0f}{efficiency[side]:12.2f}{two / alone:14.2f}")
        rounds = [f"{two / (2 * one):.2f}" for one, two in zip(figures[side, 1], figures[side, 2])]
        print(f"{'':12}efficiency by rounds: {', '.join(rounds)}")
    print(f"ratio of efficiencies {efficiency['bitrain'] / efficiency['DDP']:.2f}, of speeds with two processes "
          f"{statistics.median(figures['bitrain', 2]) / statistics.median(figures['DDP', 2]):.2f}")


def modes(path, folder, arguments):
    print(f"\n{'':28}{'all_reduce':>14}{'reduce_scatter':>16}{'all_gather':>14}{'all_to_all':>14}{'waited':>10}"
          f"{'peak of a rank':>18}")
    for ranks in (1, 2, 4):
        for overrides in ([], ["parallel.shard=optimizer"], ["parallel.shard=gradients"], ["parallel.shard=parameters"],
                          ["parallel.context=2"]):
            if ranks == 1 and overrides:
                continue
            steps = 4
            name = f"{ranks} " + (overrides[0].removeprefix("parallel.") if overrides else "shard=none")
            figures = train(path, folder, f"mode-{name}".replace("=", "-").replace(" ", "-"), ranks, *overrides,
                            f"stages.train.train.max_steps={steps}", f"stages.train.data.loader.micro_batch_rows=1")
            traffic = figures.get("traffic", {})
            megabytes = [traffic.get(kind, {}).get("bytes", 0) / steps / 1e6
                         for kind in ("all_reduce", "reduce_scatter", "all_gather", "all_to_all")]
            waited = sum(kind["seconds"] for kind in traffic.values()) / steps
            peak = max(figures.get("peak_memory_bytes_of_ranks", [figures["peak_memory_bytes"]]))
            print(f"{name:28}" + "".join(f"{mb:{w},.1f} MB" for mb, w in zip(megabytes, (11, 13, 11, 11)))
                  + f"{waited:8.2f} s{peak / 2**20:13,.0f} MiB")
    weights = figures["parameters"]
    print(f"a step; {weights:,} weights, so float32 gradients are {4 * weights / 1e6:.1f} MB. The figures of a step, which all "
          "ranks gather, are in all_gather.")


def saving(path, folder, arguments):
    """How long training stands still for a checkpoint."""
    print(f"\n{'checkpoint, stall of each':28}{'at once':>12}{'in background':>16}")
    for overrides in ([], ["parallel.shard=optimizer"], ["parallel.shard=parameters"]):
        for ranks in (1, 2):
            if ranks == 1 and overrides:
                continue
            stalls = []
            for background in ("false", "true"):
                name = f"save-{ranks}-{''.join(overrides)}-{background}".replace("=", "-")
                saves = train(path, folder, name, ranks, *overrides, "stages.train.train.save_every=3",
                              f"stages.train.train.max_steps={arguments.steps}",
                              f"stages.train.train.save_in_background={background}")["saves"]
                stalls.append(saves["seconds"] / saves["count"])
            label = f"{ranks} " + (overrides[0].removeprefix("parallel.") if overrides else "shard=none")
            print(f"{label:28}{stalls[0]:10.2f} s{stalls[1]:14.2f} s")


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--steps", type=int, default=12)
    parser.add_argument("--rows", type=int, default=8)
    parser.add_argument("--rounds", type=int, default=1)
    parser.add_argument("--only", choices=("speed", "modes", "saving"))
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        path = recipe(folder, arguments)
        for part in (speed, modes, saving):
            if arguments.only in (None, part.__name__):
                part(path, folder, arguments)


if __name__ == "__main__":
    main()
