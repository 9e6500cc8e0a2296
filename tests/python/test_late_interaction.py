"""Late interaction, both ways, with sentence-transformers' MultiVectorEncoder as the oracle."""

import json
import os
import string
import subprocess
from pathlib import Path

import numpy as np
import pytest
import torch
import transformers
from sentence_transformers import MultiVectorEncoder
from sentence_transformers.base.modules import Dense, Normalize, Transformer
from sentence_transformers.multi_vector_encoder.modules import MultiVectorMask

ROOT = Path(__file__).resolve().parents[2]
PROGRAM = Path(os.environ.get("BITRAIN_BUILD_DIR", ROOT / "build" / "release")) / "bin" / "bitrain"
WORDS = ["cat", "dog", "bird", "sees", "the", "a", "red", "house", "runs", "gato", "ve", "casa", "roja"]
DOCUMENTS = ["the cat sees a dog.", "a red house!", "the bird runs, the dog runs", "?!", "gato ve casa roja",
             "the " * 40, "dog", "a bird sees the red house."]
QUERIES = ["who sees the dog", "red house", "bird", "the cat runs " * 20, "casa"]


def tokenizer(folder):
    vocabulary = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *WORDS, ".", ",", "!", "?"]
    (folder / "vocab.txt").write_text("".join(f"{piece}\n" for piece in vocabulary))
    return transformers.BertTokenizer(str(folder / "vocab.txt")), len(vocabulary)


def encoder(folder, kind):
    """A random encoder with its tokenizer."""
    folder.mkdir()
    tokens, size = tokenizer(folder)
    shape = dict(vocab_size=size, hidden_size=32, intermediate_size=48, num_hidden_layers=2, num_attention_heads=4,
                 max_position_embeddings=70)
    torch.manual_seed(0)
    if kind == "xmod":
        config = transformers.XmodConfig(**shape, pad_token_id=0, languages=["en", "es"], default_language="en")
        model = transformers.XmodModel(config)
    else:
        model = transformers.BertModel(transformers.BertConfig(**shape))
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
    model.save_pretrained(folder)
    tokens.save_pretrained(folder)
    return folder


def late(folder, query_length=16, prompts=None, expansion=True):
    expanded = {"strategy": "fixed", "attend": True, "length": query_length} if expansion else None
    transformer = Transformer(str(folder), document_length=24, query_expansion=expanded,
                              query_length=None if expansion else query_length)
    projection = Dense(32, 12, bias=False, activation_function=torch.nn.Identity(),
                       module_input_name="token_embeddings")
    return MultiVectorEncoder(modules=[transformer, projection, MultiVectorMask(list(string.punctuation)),
                                       Normalize("token_embeddings")], prompts=prompts, device="cpu")


def write_set(folder):
    (folder / "qrels").mkdir(parents=True)
    rows = lambda prefix, texts: "".join(
        json.dumps({"_id": f"{prefix}{i}", "title": "", "text": text}) + "\n" for i, text in enumerate(texts))
    (folder / "corpus.jsonl").write_text(rows("d", DOCUMENTS))
    (folder / "queries.jsonl").write_text(rows("q", QUERIES))
    judged = "".join(f"q{i}\td{i}\t1\n" for i in range(len(QUERIES)))
    (folder / "qrels" / "test.tsv").write_text("query-id\tcorpus-id\tscore\n" + judged)


def bitrain_scores(tmp_path, stages, last, language="en"):
    """Scores [queries, documents] that a recipe's last stage wrote."""
    collection = tmp_path / "set"
    if not collection.exists():
        write_set(collection)
    lines = tmp_path / "lines.tsv"
    lines.write_text("".join(f"the cat\tel gato\n" for _ in range(20)))
    stages[last]["collections"] = [{"path": str(collection), "query_language": language, "language": language}]
    recipe = {"schema": 1, "name": "late", "dir": str(tmp_path / "run"), "dtype": "float32", "threads": 1,
              "base": str(tmp_path / "base"), "held_out": {"every": 5},
              "source": {"path": str(lines), "format": "tsv", "column": 1, "language": "en"},
              "target": {"path": str(lines), "format": "tsv", "column": 2, "language": "es"}, "stages": stages}
    (tmp_path / "recipe.yaml").write_text(json.dumps(recipe))
    done = subprocess.run([PROGRAM, "run", tmp_path / "recipe.yaml"], capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    scores = np.full((len(QUERIES), len(DOCUMENTS)), np.nan)
    for line in (tmp_path / "run" / last / "set.late_interaction.trec").read_text().splitlines():
        query, _, document, _, score, _ = line.split()
        scores[int(query[1:]), int(document[1:])] = float(score)
    return scores


def their_scores(model):
    """MaxSim by numpy over their vectors, documents rounded to bfloat16 as the index keeps them."""
    queries = [q.float().numpy() for q in model.encode_query(QUERIES)]
    documents = [d.bfloat16().float().numpy() for d in model.encode_document(DOCUMENTS)]
    assert [len(d) for d in documents][3] == 2, "a document of punctuation has its special tokens"
    by_numpy = np.array([[(q @ d.T).max(axis=1).sum() for d in documents] for q in queries])
    theirs = model.similarity([torch.tensor(q) for q in queries], [torch.tensor(d) for d in documents])
    np.testing.assert_allclose(by_numpy, theirs.numpy(), atol=1e-4)
    return by_numpy


def close(ours, theirs):
    """Equal but for vectors that the last bit of float32 sent to the other side of bfloat16's rounding."""
    difference = np.abs(ours - theirs)
    assert np.median(difference) < 2e-5 and difference.max() < 2e-2, difference
    assert theirs.std() > 0.1, "scores that are all alike compare nothing"


SEARCH = {"recipe": "evaluate_retrieval", "bm25": False, "depth": 100}


@pytest.mark.parametrize("kind", ["bert", "xmod"])
@pytest.mark.parametrize("expansion", [True, False])
def test_their_folder_searches_the_same_in_ours(kind, expansion, tmp_path):
    model = late(encoder(tmp_path / "plain", kind), prompts={"query": "the ", "document": ""}, expansion=expansion)
    model.save(str(tmp_path / "base"), create_model_card=False)
    for language in ("en", "es") if kind == "xmod" else ("en",):
        if kind == "xmod":
            model[0].auto_model.set_default_language(language)
        ours = bitrain_scores(tmp_path, {f"search_{language}": {**SEARCH, "from": "base"}}, f"search_{language}",
                              language)
        close(ours, their_scores(model))


def test_our_folder_searches_the_same_in_theirs(tmp_path):
    """language_adapters, then training, then search: what is left opens in sentence-transformers."""
    encoder(tmp_path / "base", "bert")
    rows = [{"query": f"{a} {b}", "positive": f"the {a} sees {b}.", "negatives": [f"the {b} runs"]}
            for a in WORDS[:6] for b in WORDS[6:10]]
    (tmp_path / "pairs.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    stages = {
        "xmod": {"recipe": "language_adapters", "from": "base"},
        "train": {"recipe": "late_interaction", "dimension": 12,
                  "files": [{"path": str(tmp_path / "pairs.jsonl"), "language": "en", "pair_language": "en"}],
                  "model": {"query_length": 16, "document_length": 24, "query_prompt": "the "},
                  "loader": {"rows_per_step": 4}, "freeze": ["word_embeddings", "adapter_modules"],
                  "train": {"max_steps": 5, "learning_rate": 1e-3}},
        "search": {**SEARCH},
    }
    ours = bitrain_scores(tmp_path, stages, "search", "es")
    model = MultiVectorEncoder(str(tmp_path / "run" / "train"), device="cpu")
    assert model.prompts["query"] == "the "
    assert model[0].query_expansion["length"] == 16 and model[0].document_length == 24
    model[0].auto_model.set_default_language("es")
    close(ours, their_scores(model))
