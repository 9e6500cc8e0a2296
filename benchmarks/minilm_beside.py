"""The MiniLM recipe beside sentence-transformers: the same pairs once, in batches of the same size, the same losses and
rates, from the same extended model; then both find held-out verses by their translations.

    python benchmarks/minilm_beside.py [--steps 30] [--batch 256] [--device cpu]      about 10 minutes on two cores

Needs `bash tools/data/minilm.sh` and a release build. The peer runs under bf16 autocast with float32 weights, as its
users do.
"""

import argparse
import json
import os
import random
import subprocess
import sys
import time
from pathlib import Path

os.environ.setdefault("HF_HUB_OFFLINE", "1")

import torch  # noqa: E402

torch.set_num_threads(2)

ROOT = Path(__file__).resolve().parent.parent
HELD_OUT = 1000


def write_pairs(path, train):
    """`train` random pairs, then the held-out ones of the recipe (every 30th verse)."""
    text = subprocess.run(["zstdcat", ROOT / "examples/data/en-es.tsv.zst"], capture_output=True, check=True).stdout
    rows = [line.split("\t") for line in text.decode().splitlines()]
    held_out = rows[29::30][:HELD_OUT]
    rest = [row for i, row in enumerate(rows) if i % 30 != 29]
    random.Random(1).shuffle(rest)
    chosen = rest[:train]
    path.write_text("".join("\t".join(row) + "\n" for row in chosen + held_out))
    return chosen, held_out


def ours(folder, tsv, arguments):
    program = ROOT / "build/release/bin/bitrain"
    overrides = [f"dir={folder}", f"device={arguments.device}", f"source.path={tsv}", f"target.path={tsv}",
                 "held_out.every=0", f"held_out.last={HELD_OUT}", f"stages.align.train.max_steps={arguments.steps}",
                 f"stages.align.loader.rows_per_step={arguments.batch}",
                 f"stages.align.train.schedule.warmup_steps={arguments.steps // 10}", "stages.align.train.eval_every=0"]
    subprocess.run([program, "run", ROOT / "recipes/encoders/minilm_en_es.yaml", *overrides], check=True, cwd=ROOT)
    return json.loads((folder / "summary.json").read_text())["stages"]


def theirs(folder, pairs, arguments):
    """MultipleNegativesRankingLoss both ways, and the squared distances to the teacher, weighted as in the recipe."""
    from sentence_transformers import SentenceTransformer
    from sentence_transformers.sentence_transformer import losses

    device = arguments.device
    model = SentenceTransformer(str(folder / "extend"), device=device).float()
    teacher = SentenceTransformer(str(ROOT / "runs/models/all-MiniLM-L6-v2"), device=device).float().eval()

    def embed(encoder, texts):
        features = {key: value.to(device) if isinstance(value, torch.Tensor) else value
                    for key, value in encoder.preprocess(texts).items()}
        return encoder(features)["sentence_embedding"]

    model.max_seq_length = teacher.max_seq_length = 64
    ranking = losses.MultipleNegativesRankingLoss(model)
    optimizer = torch.optim.AdamW(model.parameters(), lr=arguments.rate, fused=True, weight_decay=0.0)
    warmup = arguments.steps // 10
    random.Random(2).shuffle(pairs)
    model.train()
    begin = time.perf_counter()
    for step in range(arguments.steps):
        factor = (step + 1) / warmup if step < warmup else (arguments.steps - step) / (arguments.steps - warmup)
        for group in optimizer.param_groups:
            group["lr"] = arguments.rate * factor
        chosen = pairs[step * arguments.batch:(step + 1) * arguments.batch]
        with torch.autocast(device, torch.bfloat16):
            texts, translations = (embed(model, [row[side] for row in chosen]) for side in (1, 2))
            with torch.no_grad():
                targets = embed(teacher, [row[1] for row in chosen])
        texts, translations, targets = texts.float(), translations.float(), targets.float()
        contrast = (ranking.compute_loss_from_embeddings([texts, translations], None)
                    + ranking.compute_loss_from_embeddings([translations, texts], None)) / 2
        distill = (30 * (texts - targets).square().sum(1) + 10 * (translations - targets).square().sum(1)).mean()
        (contrast + distill).backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad()
        if (step + 1) % 5 == 0:
            print(f"sentence-transformers: step {step + 1}/{arguments.steps}", file=sys.stderr)
    if device == "cuda":
        torch.cuda.synchronize()
    return model.eval(), time.perf_counter() - begin


def accuracy(model, held_out):
    left, right = (torch.nn.functional.normalize(torch.from_numpy(model.encode([row[side] for row in held_out])))
                   for side in (1, 2))
    scores = left @ right.T
    index = torch.arange(len(held_out))
    return [(found.argmax(1) == index).float().mean().item() for found in (scores, scores.T)]


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, default=30)
    parser.add_argument("--batch", type=int, default=256)
    parser.add_argument("--rate", type=float, default=5e-4)
    parser.add_argument("--device", choices=["cpu", "cuda"], default="cpu")
    arguments = parser.parse_args()
    folder = ROOT / "runs" / "minilm_beside"
    folder.mkdir(parents=True, exist_ok=True)
    pairs, held_out = write_pairs(folder / "pairs.tsv", arguments.steps * arguments.batch)
    stages = ours(folder, folder / "pairs.tsv", arguments)
    mine = [stages["align"]["retrieval"][way]["accuracy_at_1"] for way in ("en-es", "es-en")]
    model, seconds = theirs(folder, pairs, arguments)
    other = accuracy(model, held_out)
    count = arguments.steps * arguments.batch
    print(f"{'':24}{'en-es':>8}{'es-en':>8}{'pairs/s':>9}")
    print(f"{'bitrain':24}{mine[0]:8.3f}{mine[1]:8.3f}{stages['align']['pairs_per_second']:9.1f}")
    print(f"{'sentence-transformers':24}{other[0]:8.3f}{other[1]:8.3f}{count / seconds:9.1f}")


if __name__ == "__main__":
    main()
