#!/usr/bin/env python3
"""Interrupts a run behind a checkpoint and goes on with one option changed, for every option: what becomes of the checkpoint.

  python3 tests/resume_options.py --program build/release/bin/bitrain            says what is not as docs/resuming.md says
  python3 tests/resume_options.py --program build/release/bin/bitrain --write    writes the tables of docs/resuming.md

A run either goes on from the checkpoint, or refuses with a message that names the option and keeps the checkpoint as it is, or works
elsewhere and leaves it alone. It never begins anew over a checkpoint. The options are those that `bitrain config schema` lists.
"""

import argparse
import concurrent.futures
import itertools
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import every_stage

PAGE = Path(__file__).resolve().parents[1] / "docs" / "resuming.md"
BEGIN = "<!-- Below: written by tests/resume_options.py -->\n"
SAVED = 4  # The step of the checkpoint that is gone on from.
OTHERS = "What is no option"
GOES_ON, REFUSES, ELSEWHERE, LOST = "goes on", "refuses, keeps", "left alone", "BEGINS ANEW"

# What an option is changed to, where the schema's type and default do not tell of a value that means something.
VALUES = {
    "recipe": {
        "name": "other", "dtype": "bfloat16", "base": "{folder}/base", "source.path": "{folder}/copy.tsv",
        "target.path": "{folder}/copy.tsv", "source.format": "auto", "target.format": "auto", "source.text_field": "words",
        "target.text_field": "words", "source.language": "fr", "target.language": "fr", "source.column": 1, "held_out.every": 20,
        "claims": '[{says: "It learns.", that: chosen/train_loss, above: 0}]'},
    "train": {
        "train.max_steps": 14, "train.max_tokens": 5000, "train.best_metric": "es/loss_per_token", "train.seed": 7,
        "train.schedule.type": "constant", "train.progress": "lines"},
    "pretrain": {
        "model.model_type": "mistral", "model.num_key_value_heads": 1, "model.head_dim": 8, "model.sliding_window": 16,
        "model.rope_parameters.rope_type": "linear", "model.rope_parameters.factor": 2, "model.rope_parameters.attention_factor": 2, "model.rope_parameters.mscale": 2,
        "model.rope_parameters.mscale_all_dim": 2, "model.bos_token_id": 2, "model.eos_token_id": "[1]", "model.pad_token_id": 0,
        "model.hidden_size": 64, "model.num_attention_heads": 4, "data.loader.mixture.weights": "{source: 3, target: 1}",
        "data.loader.mixture.stages": "[{weights: {source: 1, target: 2}}]", "data.loader.packing": "cut"},
    "cpt": {
        "lora.target_modules": "[q_proj]", "lora.exclude_modules": "[down_proj]", "lora.rank_pattern": "{q_proj: 4}",
        "lora.alpha_pattern": "{q_proj: 4}", "lora.layers_to_transform": "[0]", "lora.modules_to_save": "[lm_head]",
        "lora.trainable_token_indices": "{lm_head: [5]}", "quantize.block_size": 32, "quantize.enabled": "true"},
    "contrastive": {
        "teacher": "more", "files": "[{path: {folder}/pairs.jsonl}]", "pairs": "false", "objective.matryoshka.dims": "[8]",
        "objective.matryoshka.weights": "[2]", "objective.text_prompt": "query", "objective.pair_prompt": "passage",
        "freeze": "[word_embeddings]", "dropout": 0, "retrieval.text_prompt": "query",
        "retrieval.pair_prompt": "passage"},
}


def leaves(schema, at=""):
    """Options of a schema with what it says of them."""
    for key, value in schema.get("properties", {}).items():
        if "properties" in value:
            yield from leaves(value, f"{at}{key}.")
        else:
            yield at + key, value


def another(key, schema, now):
    """A value that is neither the default nor what the recipe has."""
    taken = (schema.get("default"), now)
    if "enum" in schema:
        return next(value for value in schema["enum"] if value not in taken)
    if schema.get("type") == "boolean":
        return str(not taken[0] if now is None else not now).lower()
    if schema.get("type") == "integer":
        return (taken[0] if now is None else now) + 1
    if schema.get("type") == "number":
        return (schema["default"] if now is None else now) / 2 or 0.25
    raise SystemExit(f"{key}: a new option; tests/resume_options.py must say what it is to be changed to")


def value_in(recipe, key):
    for part in key.split("."):
        recipe = recipe.get(part) if isinstance(recipe, dict) else None
    return recipe


class Interrupted:
    """A run of a recipe that was killed once `stage` had saved SAVED steps, and what lies there."""

    def __init__(self, program, folder, recipe, stage):
        self.program, self.folder, self.stage, self.recipe = program, folder, stage, recipe
        self.file = folder / f"{recipe['name']}.yaml"
        self.file.write_text(json.dumps(recipe))
        self.dir = folder / f"{recipe['name']}-interrupted"
        self.copies = itertools.count()
        work = self.work(self.dir)
        with open(folder / "output", "wb") as output:
            process = subprocess.Popen(self.command(self.dir), stdout=output, stderr=output)
            while process.poll() is None and not (work / f"checkpoint-{SAVED}" / "manifest.json").exists():
                time.sleep(0.001)
            process.send_signal(signal.SIGKILL)
            process.wait()
        if process.returncode != -signal.SIGKILL:
            raise SystemExit(f"the run ended before it could be killed:\n{(folder / 'output').read_text()}")
        for path in work.glob("checkpoint-*"):  # As if the kill had come at once.
            if path.name not in (f"checkpoint-{SAVED}", f"checkpoint-{SAVED - 2}"):
                shutil.rmtree(path)
        self.checkpoints, self.lines = self.checkpoints_of(work), self.lines_of(work)

    def command(self, directory, *overrides):
        return [self.program, "run", str(self.file), f"dir={directory}", *overrides]

    def work(self, directory):
        return directory / f"{self.stage}.work"

    def checkpoints_of(self, work):
        return {path.relative_to(work): path.read_bytes() for path in work.glob("checkpoint-*/*")}

    def lines_of(self, folder):
        """Lines of metrics.jsonl up to the checkpoint: that their times are the same says that no step was taken again."""
        path = folder / "metrics.jsonl"
        lines = path.read_text().splitlines() if path.exists() else []
        return [line for line in lines if line.endswith("}") and json.loads(line)["step"] <= SAVED]

    def go_on(self, *overrides, prepare=None, stage=None, launch=()):
        """What becomes of the checkpoint, and what the program says."""
        directory = self.folder / f"{self.recipe['name']}-{next(self.copies)}"
        shutil.copytree(self.dir, directory)
        command = prepare(directory) if prepare else self.command(directory)
        command = [command[0], *launch, *command[1:], *(one.replace("{folder}", str(self.folder)) for one in overrides)]
        done = subprocess.run(command, capture_output=True, text=True, timeout=120)
        finished = directory / (stage or self.stage)
        kept = self.checkpoints_of(self.work(directory)) == self.checkpoints
        if done.returncode == 0 and (finished / "stage.json").exists():
            went_on = self.lines_of(finished)[:len(self.lines)] == self.lines
            verdict = GOES_ON if went_on and not self.work(directory).exists() else LOST
        else:
            verdict = LOST if not kept else ELSEWHERE if done.returncode == 0 else REFUSES
        shutil.rmtree(directory)
        return verdict, done.stderr


def interrupted_runs(program, folder):
    every_stage.write_texts(folder)
    shutil.copy(folder / "lines.tsv", folder / "copy.tsv")
    decoders, encoders = every_stage.decoders(folder), every_stage.encoders(folder)
    stages = decoders["stages"]
    steps = {"max_steps": 12, "learning_rate": 1e-3, "eval_every": 4, "save_every": 2, "keep_last": 100}
    first = stages["first"] | {"train": steps}
    short = stages["first"] | {"train": {"max_steps": 2}}
    adapt = stages["adapt"] | {"from": "first", "train": steps, "quantize": {"enabled": False}}
    align = {"recipe": "contrastive", "from": "base", "teacher": "base", "objective": {"distill_text": 1.0},
             "loader": {"rows_per_step": 6}, "train": steps}
    more = {"more": encoders["stages"]["extend"]}

    def make(name, head, stage, before=None):
        recipe = head | {"name": name, "stages": (before or {}) | {"chosen": stage}}
        return Interrupted(program, folder, recipe, "chosen")

    tok = {"tok": stages["tok"]}
    flat = first | {"train": steps | {"schedule": {"type": "constant"}}}
    return {"pretrain": make("pretrain", decoders, first, tok), "cpt": make("cpt", decoders, adapt, tok | {"first": short}),
            "contrastive": make("contrastive", encoders, align, more), "flat": make("flat", decoders, flat, tok)}


def rows_of(run, schema, prefix, values, chosen=lambda key: True):
    """One row an option: its key, what it is changed to, what is done for it."""
    at = run.recipe if not prefix else run.recipe["stages"][run.stage]
    for key, option in leaves(schema):
        if key in ("schema", "stages", "recipe", "from", "dir") or not chosen(key):
            continue
        value = values[key] if key in values else another(key, option, value_in(at, key))
        yield key, str(value), lambda key=key, value=value: run.go_on(f"{prefix}{key}={value}")


def other_cases(runs):
    """What is no option: names, order, texts, processes."""
    run, flat = runs["pretrain"], runs["flat"]
    serial = itertools.count()

    def with_recipe(change):
        def prepare(directory):
            recipe = json.loads(run.file.read_text())
            change(recipe)
            file = run.folder / f"changed-{next(serial)}.yaml"
            file.write_text(json.dumps(recipe))
            return [run.program, "run", str(file), f"dir={directory}"]
        return prepare

    def rename(recipe):
        recipe["stages"]["another"] = recipe["stages"].pop("chosen")

    def put_before(recipe):
        stages = recipe["stages"]
        chosen = stages.pop("chosen")
        stages |= {"more": {"recipe": "tokenizer", "tokenizer": {"vocab_size": 310}}, "chosen": chosen | {"from": "tok"}}

    def put_behind(recipe):
        recipe["stages"]["score"] = {"recipe": "evaluate"}

    def other_tokenizer(recipe):
        recipe["stages"]["tok"]["tokenizer"]["vocab_size"] = 310

    def remove(recipe):
        recipe["stages"] = {"tok": recipe["stages"]["tok"]}

    def other_text(recipe):
        path = run.folder / "changed.tsv"
        path.write_text((run.folder / "lines.tsv").read_text().replace("dog", "cow"))
        recipe["source"]["path"] = recipe["target"]["path"] = str(path)

    def elsewhere(directory):
        return run.command(run.folder / f"elsewhere-{next(serial)}")

    return [
        ("the stage's name", "another", lambda: run.go_on(prepare=with_recipe(rename), stage="another")),
        ("the stage's number", "a stage is put before it", lambda: run.go_on(prepare=with_recipe(put_before))),
        ("later stages", "one is put behind it", lambda: run.go_on(prepare=with_recipe(put_behind))),
        ("the stage", "is taken out of the recipe", lambda: run.go_on(prepare=with_recipe(remove))),
        ("the stage before", "is made otherwise", lambda: run.go_on(prepare=with_recipe(other_tokenizer))),
        ("the text", "a word in it is another", lambda: run.go_on(prepare=with_recipe(other_text))),
        ("`dir`", "another folder", lambda: run.go_on(prepare=elsewhere)),
        ("processes", "two in place of one", lambda: run.go_on(launch=("launch", "--nproc", "2"))),
        ("`train.max_steps`, schedule constant", "14", lambda: flat.go_on("stages.chosen.train.max_steps=14")),
        ("`train.max_steps`, schedule constant", "2, fewer than taken", lambda: flat.go_on("stages.chosen.train.max_steps=2")),
        ("`train.resume`", "must", lambda: run.go_on("stages.chosen.train.resume=must")),
    ]


def tables(program, folder):
    """The tables by title, each a list of key, change and what is done for it."""
    schema = json.loads(subprocess.run([program, "config", "schema"], capture_output=True, text=True, check=True).stdout)
    types = {one["properties"]["recipe"]["const"]: one for one in schema["properties"]["stages"]["additionalProperties"]["oneOf"]}
    runs = interrupted_runs(program, folder)

    def of(type_name, chosen):
        run = runs[type_name]
        return list(rows_of(run, types[type_name], "stages.chosen.", VALUES[type_name] | VALUES["train"], chosen))

    def is_train(key):
        return key.startswith("train.")

    def is_own_of_contrastive(key):
        return not key.startswith(("train.", "loader.", "lora."))

    return {
        "What all stages share": list(rows_of(runs["pretrain"], schema, "", VALUES["recipe"])),
        "`train`": of("pretrain", is_train),
        "Model, data and objective of pretrain": of("pretrain", lambda key: not is_train(key)),
        "`quantize` and `lora` of cpt": of("cpt", lambda key: key.startswith(("quantize.", "lora."))),
        "contrastive": of("contrastive", is_own_of_contrastive),
        OTHERS: other_cases(runs),
    }


def row_text(title, key, value, verdict):
    value = value.replace("{folder}/", "")
    return f"| {key} | {value} | {verdict} |\n" if title == OTHERS else f"| `{key}` | `{value}` | {verdict} |\n"


def table_of(title, rows, pool, problems):
    """The rows as text, and what is wrong with them."""
    text = f"## {title}\n\n| what | changed to | the checkpoint |\n| --- | --- | --- |\n"
    results = list(pool.map(lambda row: row[2](), rows))
    for (key, value, _), (verdict, said) in zip(rows, results, strict=True):
        text += row_text(title, key, value, verdict)
        if verdict == LOST:
            problems.append(f"{key}={value}: the checkpoint was not gone on from and not kept:\n{said}")
        elif verdict == REFUSES and title != OTHERS and not re.search(rf"\b{key.rpartition('.')[2]}\b", said):
            problems.append(f"{key}={value}: the message does not name it:\n{said}")
    return text + "\n"


def make_tables(program, titles=None):
    """The tables as text by title, and problems. Of titles that are not asked for there is no text, and only the rows are compared
    with those of the page: that takes no runs."""
    problems, texts = [], {}
    page = PAGE.read_text()
    with tempfile.TemporaryDirectory(prefix="bitrain-resume-") as folder, \
            concurrent.futures.ThreadPoolExecutor(os.cpu_count()) as pool:
        for title, rows in tables(str(Path(program).resolve()), Path(folder)).items():
            if titles is None or title in titles:
                texts[title] = table_of(title, rows, pool, problems)
                continue
            problems += [f"{PAGE} has no row for {key}, changed to {value}: run tests/resume_options.py --write"
                         for key, value, _ in rows if row_text(title, key, value, "|").split("| |")[0] not in page]
    return texts, problems


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("--program", default=str(Path(__file__).resolve().parents[1] / "build" / "release" / "bin" / "bitrain"))
    parser.add_argument("--write", action="store_true", help="write the tables of docs/resuming.md")
    arguments = parser.parse_args()
    texts, problems = make_tables(arguments.program)
    text = "\n" + "".join(texts.values()).rstrip() + "\n"
    head, mark, now = PAGE.read_text().partition(BEGIN)
    if arguments.write:
        PAGE.write_text(head + mark + text)
    elif now != text:
        problems.append(f"{PAGE} is not up to date: run this with --write")
    for problem in problems:
        print(problem)
    return 1 if problems else 0


if __name__ == "__main__":
    sys.exit(main())
