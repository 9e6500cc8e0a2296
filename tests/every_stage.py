"""Recipes that together hold every stage type, on made-up texts and models that are made here too: no network, no torch."""

import json
import random
import struct
from pathlib import Path

LETTERS = "abcdefghijklmnopqrstuvwxyz"
HIDDEN, INNER, HEADS, LAYERS, POSITIONS = 16, 24, 4, 1, 40


def word(number):
    """A made-up word of letters, another for each number below 26 * 26 * 26."""
    return "".join(LETTERS[number // base % 26] for base in (1, 26, 676))


def write_lines(path, rows):
    path.write_text("".join(
        f"{i}\tthe cat {word(i * 7 % 17576)} saw dog {word(i)}\tel gato {word(i * 7 % 17576)} vio perro {word(i)}\n"
        for i in range(rows)))


def write_safetensors(path, shapes, seed):
    """Random float32 weights, norms about 1."""
    stream = random.Random(seed)
    header, data = {}, bytearray()
    for name, shape in shapes.items():
        count = 1
        for length in shape:
            count *= length
        middle = 1.0 if name.endswith("LayerNorm.weight") else 0.0
        begin = len(data)
        data += struct.pack(f"<{count}f", *(stream.gauss(middle, 0.3) for _ in range(count)))
        header[name] = {"dtype": "F32", "shape": shape, "data_offsets": [begin, len(data)]}
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    path.write_bytes(struct.pack("<Q", len(text)) + text + data)


def write_encoder(folder):
    """A random BERT of one layer, whose WordPiece vocabulary is the letters."""
    folder.mkdir()
    pieces = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *(mark + letter for letter in LETTERS for mark in ("", "##"))]
    (folder / "vocab.txt").write_text("".join(f"{piece}\n" for piece in pieces))
    (folder / "tokenizer_config.json").write_text('{"tokenizer_class": "BertTokenizer"}')
    (folder / "config.json").write_text(json.dumps({
        "model_type": "bert", "architectures": ["BertModel"], "vocab_size": len(pieces), "hidden_size": HIDDEN,
        "intermediate_size": INNER, "num_hidden_layers": LAYERS, "num_attention_heads": HEADS, "hidden_act": "gelu",
        "hidden_dropout_prob": 0.1, "attention_probs_dropout_prob": 0.0, "max_position_embeddings": POSITIONS,
        "type_vocab_size": 2, "layer_norm_eps": 1e-12, "pad_token_id": 0, "initializer_range": 0.3}))
    shapes = {f"embeddings.{kind}_embeddings.weight": [rows, HIDDEN]
              for kind, rows in (("word", len(pieces)), ("position", POSITIONS), ("token_type", 2))}

    def add(name, outputs, inputs):
        shapes[f"{name}.weight"], shapes[f"{name}.bias"] = [outputs, inputs], [outputs]

    def add_norm(name):
        shapes[f"{name}.LayerNorm.weight"], shapes[f"{name}.LayerNorm.bias"] = [HIDDEN], [HIDDEN]

    add_norm("embeddings")
    for layer in range(LAYERS):
        at = f"encoder.layer.{layer}"
        for part in ("self.query", "self.key", "self.value", "output.dense"):
            add(f"{at}.attention.{part}", HIDDEN, HIDDEN)
        add_norm(f"{at}.attention.output")
        add(f"{at}.intermediate.dense", INNER, HIDDEN)
        add(f"{at}.output.dense", HIDDEN, INNER)
        add_norm(f"{at}.output")
    write_safetensors(folder / "model.safetensors", shapes, seed=1)


def write_retrieval_set(folder):
    (folder / "qrels").mkdir(parents=True)
    (folder / "corpus.jsonl").write_text("".join(
        json.dumps({"_id": f"d{i}", "title": "", "text": f"has {word(i)}"}) + "\n" for i in range(20)))
    (folder / "queries.jsonl").write_text("".join(
        json.dumps({"_id": f"q{i}", "text": f"gato {word(i)}"}) + "\n" for i in range(20)))
    (folder / "qrels" / "test.tsv").write_text(
        "query-id\tcorpus-id\tscore\n" + "".join(f"q{i}\td{i}\t1\n" for i in range(20)))


def write_vectors(path, mark, seed):
    stream = random.Random(seed)
    rows = [f"{mark}{i} " + " ".join(f"{stream.gauss(0, 1):.6f}" for _ in range(8)) for i in range(60)]
    path.write_text("60 8\n" + "".join(f"{row}\n" for row in rows))


def write_texts(folder):
    """All that the recipes read."""
    write_lines(folder / "lines.tsv", 200)
    write_encoder(folder / "base")
    write_retrieval_set(folder / "set")
    (folder / "pairs.jsonl").write_text("".join(
        json.dumps({"query": f"gato {word(i)}", "positive": f"has {word(i)}"}) + "\n" for i in range(40)))
    (folder / "scored.jsonl").write_text("".join(
        json.dumps({"text": f"cat {word(i)}", "pair": f"cat {word(i + i % 3)}", "score": i % 3}) + "\n" for i in range(30)))
    (folder / "chat.jsonl").write_text("".join(json.dumps({"messages": [
        {"role": "user", "content": f"what saw {word(i)}"}, {"role": "assistant", "content": f"the cat {word(i)}"}]}) + "\n"
        for i in range(40)))
    (folder / "words.tsv").write_text("".join(f"{word(i)}\t{word(i + 200)}\n" for i in range(20)))
    for mark, seed in (("s", 2), ("t", 3)):
        write_vectors(folder / f"{mark}.vec", mark, seed)
    for name, span in (("train", range(30)), ("test", range(30, 60))):
        (folder / f"{name}.txt").write_text("".join(f"s{i} t{i}\n" for i in span))


def training(steps=6, **more):
    return {"max_steps": steps, "learning_rate": 1e-3, "save_every": 2, "eval_every": 3, "schedule": {"warmup_steps": 2}} | more


def head(folder, name, **more):
    lines = str(folder / "lines.tsv")
    return {"schema": 1, "name": name, "dir": str(folder / "run"), "threads": 1, "dtype": "float32",
            "source": {"path": lines, "format": "tsv", "column": 2, "language": "en"},
            "target": {"path": lines, "format": "tsv", "column": 3, "language": "es"},
            "held_out": {"last": 24, "max_documents": 8}} | more


def decoders(folder):
    data = {"loader": {"sequence_length": 64, "rows_per_step": 4}}
    lora = {"r": 2, "lora_dropout": 0.1, "target_modules": ["q_proj", "down_proj", "embed_tokens"]}
    return head(folder, "decoders") | {"stages": {
        "tok": {"recipe": "tokenizer", "tokenizer": {"vocab_size": 320}},
        "first": {"recipe": "pretrain", "data": data, "train": training(keep_best=True),
                  "model": {"hidden_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 48}},
        "score": {"recipe": "evaluate"},
        "extend": {"recipe": "extend_vocab", "from": "first", "vocab": {"pieces": 10}},
        "adapt": {"recipe": "cpt", "data": data, "lora": lora, "train": training(save_in_background=True)},
        "merged": {"recipe": "merge", "prompts": ["the cat"], "generation": {"max_new_tokens": 4}},
        "chat": {"recipe": "sft", "from": "merged", "quantize": {"enabled": False}, "lora": lora,
                 "files": [str(folder / "chat.jsonl")], "loader": {"sequence_length": 64, "rows_per_step": 4},
                 "objective": {"max_length": 64}, "accuracy_cases": 4, "train": training()},
        "mexa": {"recipe": "evaluate_mexa", "from": "merged", "sentences": 10},
    }}


def encoders(folder):
    def file(name):
        return str(folder / name)

    loader = {"rows_per_step": 6, "micro_batch_rows": 2}
    search = [{"path": file("set"), "query_language": "es", "language": "en"}]
    return head(folder, "encoders", base=file("base")) | {"stages": {
        "judge": {"recipe": "evaluate_encoder", "from": "base", "calibrate": ["procrustes"], "calibration_lines": 60},
        "extend": {"recipe": "extend_encoder", "from": "base", "vocab": {"pieces": 8}},
        "align": {"recipe": "contrastive", "teacher": "base", "objective": {"distill_text": 1.0}, "loader": loader,
                  "train": training(save_in_background=True)},
        "read": {"recipe": "masked_lm", "loader": loader, "train": training()},
        "context": {"recipe": "context_prediction", "from": "align", "lines_per_document": 4, "window": 2,
                    "objective": {"bank_size": 40}, "loader": loader, "train": training()},
        "documents": {"recipe": "document_encoder", "lines_per_document": 4, "neighbourhood": 2, "loader": loader,
                      "model": {"layers": 1, "heads": 2, "intermediate_size": 24, "max_sentences": 5}, "train": training()},
        "likeness": {"recipe": "similarity", "from": "align", "files": [{"path": file("scored.jsonl")}], "loader": loader,
                     "train": training(eval_every=0)},
        "likenesses": {"recipe": "evaluate_similarity", "files": [{"path": file("scored.jsonl")}]},
        "xmod": {"recipe": "language_adapters", "from": "base", "reduction_factor": 4},
        "mine": {"recipe": "mine_negatives", "pairs": {"path": file("pairs.jsonl")},
                 "mining": {"negatives": 2, "fill": True}},
        "late": {"recipe": "late_interaction", "from": "xmod", "dimension": 8, "files": [{"stage": "mine"}],
                 "model": {"query_length": 16, "document_length": 20}, "loader": loader, "train": training(eval_every=0)},
        "found": {"recipe": "evaluate_retrieval", "depth": 5, "collections": search},
        "cross": {"recipe": "cross_encoder", "from": "align", "files": [{"stage": "mine"}], "objective": {"max_length": 24},
                  "loader": loader, "train": training(eval_every=0)},
        "ordered": {"recipe": "evaluate_retrieval", "from": "align", "rerank": "cross", "rerank_depth": 3, "depth": 5,
                    "collections": search},
        "lexicon": {"recipe": "evaluate_lexicon", "from": "align", "dictionaries": [{"path": file("words.tsv")}]},
        "vectors": {"recipe": "align_words", "source_vectors": file("s.vec"), "target_vectors": file("t.vec"),
                    "train_dictionary": file("train.txt"), "test_dictionary": file("test.txt")},
    }}


def write_recipes(folder: Path):
    """Texts, a model and the recipes: the recipes' files by name."""
    write_texts(folder)
    paths = {}
    for make in (decoders, encoders):
        recipe = make(folder)
        paths[recipe["name"]] = folder / f"{recipe['name']}.yaml"
        paths[recipe["name"]].write_text(json.dumps(recipe, indent=1))
    return paths


def stage_types(paths):
    return {stage["recipe"] for path in paths.values() for stage in json.loads(path.read_text())["stages"].values()}
