"""MEXA (Kargaran et al. 2024), with transformers and the paper's formula in numpy as the oracle."""

import json
import os
import subprocess
from pathlib import Path

import numpy as np
import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

ROOT = Path(__file__).resolve().parents[2]
PROGRAM = Path(os.environ.get("BITRAIN_BUILD_DIR", ROOT / "build" / "release")) / "bin" / "bitrain"
ROWS = [(f"the cat number {i} saw the dog", f"el gato número {i} vio al perro") for i in range(200)]


@pytest.fixture(scope="module")
def base(tmp_path_factory):
    """A tiny decoder with a tokenizer, and the rows it was trained on."""
    folder = tmp_path_factory.mktemp("mexa")
    data = folder / "pairs.tsv"
    data.write_text("".join(f"{i}\t{a}\t{b}\n" for i, (a, b) in enumerate(ROWS)))
    recipe = {
        "schema": 1, "name": "tiny", "dir": str(folder / "run"), "dtype": "float32",
        "source": {"path": str(data), "format": "tsv", "column": 2, "language": "en"},
        "target": {"path": str(data), "format": "tsv", "column": 3, "language": "es"},
        "held_out": {"every": 5},
        "stages": {
            "tok": {"recipe": "tokenizer", "tokenizer": {"vocab_size": 320}},
            "first": {
                "recipe": "pretrain",
                "model": {"hidden_size": 32, "num_hidden_layers": 3, "num_attention_heads": 2, "intermediate_size": 64},
                "data": {"loader": {"sequence_length": 64, "rows_per_step": 2}},
                "train": {"max_steps": 6},
            },
            "weighted": {"recipe": "evaluate_mexa", "from": "first", "sentences": 25},
            "last": {"recipe": "evaluate_mexa", "from": "first", "sentences": 25, "mexa": {"tokens": "last"}},
        },
    }
    path = folder / "recipe.yaml"
    path.write_text(json.dumps(recipe))
    subprocess.run([PROGRAM, "run", path], check=True, timeout=300)
    return folder / "run" / "first", json.loads((folder / "run" / "summary.json").read_text())["stages"]


def hidden_states(model, tokenizer, sentence):
    ids = [tokenizer.bos_token_id] + tokenizer.encode(sentence, add_special_tokens=False)
    with torch.no_grad():
        return [h[0].double().numpy() for h in model(torch.tensor([ids]), output_hidden_states=True).hidden_states]


def reference(model, tokenizer, pairs, pool):
    sides = [[[pool(h) for h in hidden_states(model, tokenizer, pair[side])] for pair in pairs] for side in (0, 1)]
    scores = []
    for layer in range(len(sides[0][0])):
        left, right = (np.array([row[layer] for row in side]) for side in sides)
        left, right = (x / np.linalg.norm(x, axis=1, keepdims=True) for x in (left, right))
        cosine = left @ right.T
        hits = 0
        for i in range(len(pairs)):
            others = [cosine[i, j] for j in range(len(pairs)) if j != i] + \
                     [cosine[j, i] for j in range(len(pairs)) if j != i]
            hits += cosine[i, i] > max(others)
        scores.append(hits / len(pairs))
    return scores


def weighted(hidden):
    weights = np.arange(1, len(hidden) + 1)
    return weights @ hidden / weights.sum()


@pytest.mark.parametrize(("stage", "pool"), [("weighted", weighted), ("last", lambda hidden: hidden[-1])])
def test_stage_is_the_reference(base, stage, pool):
    folder, stages = base
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()
    tokenizer = AutoTokenizer.from_pretrained(folder)
    pairs = [ROWS[i] for i in range(4, 200, 5)][:25]
    expected = reference(model, tokenizer, pairs, pool)
    figures = stages[stage]["mexa"]["es"]
    assert figures["sentences"] == 25 and len(figures["layers"]) == 4
    # A cosine that float32 cannot tell from another may fall either way.
    np.testing.assert_allclose(figures["layers"][1:], expected[1:], atol=1 / 25 + 1e-9)
    if stage == "weighted":
        assert figures["layers"][0] == pytest.approx(expected[0], abs=1 / 25 + 1e-9)
        assert max(expected) > 0
    else:
        assert figures["layers"][0] <= 1 / 25  # Sentences end in equal pieces.
    assert figures["mean"] == pytest.approx(np.mean(figures["layers"]))
    assert figures["max"] == max(figures["layers"])
