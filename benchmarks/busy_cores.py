"""Tokens per second of full training beside 0, 1 and 2 processes that compute, as a table with the peers.

    python benchmarks/busy_cores.py [--bench build/release/bin/bitrain_bench] [--rounds 1]

The case is that of `bitrain_bench train` and `peers.py train`: a 26 M Llama, 8 x 512 tokens a step, two threads. Programs run in
turns; a figure is the median of a run's steps, of several rounds the median again. `always spinning` is what OpenMP does by itself,
and what bitrain did before it watched the CPUs.
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
PEERS = [sys.executable, str(ROOT / "benchmarks" / "peers.py"), "train", "--steps", "3", "--form"]
BUSY = [sys.executable, "-c", "while True: pass"]
SECONDS = 150  # A program that does not end in this time has no figure.


def arms(bench):
    ours = [str(bench), "train"]
    return {
        "bitrain": (ours, {}),
        "bitrain, always spinning": (ours, {"GOMP_SPINCOUNT": "300000"}),
        "bitrain, always sleeping": (ours, {"OMP_WAIT_POLICY": "passive"}),
        "transformers, float32": ([*PEERS, "fp32"], {}),
    }


def measure(command, settings):
    free = {key: value for key, value in os.environ.items() if key not in ("GOMP_SPINCOUNT", "OMP_WAIT_POLICY")}
    try:
        done = subprocess.run(command, env=free | settings, capture_output=True, text=True, timeout=SECONDS, check=True)
    except subprocess.TimeoutExpired:
        return None
    return json.loads(done.stdout.splitlines()[-1])["median_tokens_per_second"]


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--bench", type=Path, default=ROOT / "build" / "release" / "bin" / "bitrain_bench")
    parser.add_argument("--rounds", type=int, default=1)
    parser.add_argument("--busy", type=int, nargs="+", default=[0, 1, 2])
    arguments = parser.parse_args()
    programs = arms(arguments.bench)
    figures = {name: [] for name in programs}
    for count in arguments.busy:
        others = [subprocess.Popen(BUSY) for _ in range(count)]
        try:
            rounds = [{name: measure(*program) for name, program in programs.items()} for _ in range(arguments.rounds)]
        finally:
            for other in others:
                other.kill()
                other.wait()
        for name in programs:
            values = [one[name] for one in rounds if one[name] is not None]
            figures[name].append(f"{statistics.median(values):,.0f}" if values else f"none in {SECONDS} s")
            print(f"beside {count}: {name}: {figures[name][-1]}", file=sys.stderr, flush=True)
    print("| Program | " + " | ".join(f"beside {count}" for count in arguments.busy) + " |")
    print("|---|" + "---:|" * len(arguments.busy))
    for name, row in figures.items():
        print(f"| {name} | " + " | ".join(row) + " |")


if __name__ == "__main__":
    main()
