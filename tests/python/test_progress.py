"""The progress bar on terminals of several widths, and on one that is resized while it runs."""

import fcntl
import json
import os
import pty
import re
import struct
import subprocess
import termios
import threading
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
PROGRAM = Path(os.environ.get("BITRAIN_BUILD_DIR", ROOT / "build" / "release")) / "bin" / "bitrain"


def recipe(folder, steps):
    rows = "".join(f"the cat number {i} saw the dog\tel gato número {i} vio al perro\n" for i in range(300))
    (folder / "pairs.tsv").write_text(rows)
    side = {"path": str(folder / "pairs.tsv"), "format": "tsv"}
    model = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 32}
    stages = {
        "tok": {"recipe": "tokenizer", "tokenizer": {"vocab_size": 320, "exact_vocab_size": False}},
        "pretraining-of-a-base": {
            "recipe": "pretrain", "model": model, "data": {"loader": {"sequence_length": 32, "rows_per_step": 2}},
            "train": {"max_steps": steps, "eval_at_end": False, "progress": "auto", "tensorboard": False}}}
    path = folder / "recipe.yaml"
    path.write_text(json.dumps({
        "schema": 1, "name": "bar", "threads": 1, "held_out": {"every": 10}, "source": {**side, "column": 1, "language": "en"},
        "target": {**side, "column": 2, "language": "es"}, "stages": stages}))
    return path


def set_width(terminal, columns):
    fcntl.ioctl(terminal, termios.TIOCSWINSZ, struct.pack("HHHH", 24, columns, 0, 0))


def on_terminal(columns, *arguments, environment=None, on_text=lambda terminal, text: None):
    """What the program writes to stderr where that is a terminal of so many columns; 0: it does not say."""
    own, its = pty.openpty()
    attributes = termios.tcgetattr(its)
    attributes[1] &= ~termios.OPOST  # "\n" stays "\n".
    termios.tcsetattr(its, termios.TCSANOW, attributes)
    set_width(own, columns)
    text = bytearray()

    def read():
        while True:
            try:
                part = os.read(own, 65536)
            except OSError:  # The other end is closed.
                return
            text.extend(part)
            on_text(own, bytes(text))

    reader = threading.Thread(target=read)
    reader.start()
    variables = {**os.environ, "TERM": "xterm", **(environment or {})}
    done = subprocess.run([PROGRAM, *map(str, arguments)], stdout=subprocess.DEVNULL, stderr=its, env=variables, timeout=300)
    os.close(its)
    reader.join()
    os.close(own)
    assert done.returncode == 0, text.decode()
    return text.decode()


def bars(text):
    """Each drawing of the bar, from where it begins to what ends it."""
    return [drawn for drawn in re.findall(r"\r\x1b\[K([^\r\n]*)", text) if re.search(r"\d+/\d+", drawn)]


@pytest.mark.parametrize("columns", [200, 80, 40, 20])
def test_a_bar_is_shorter_than_its_terminal(columns, tmp_path):
    text = on_terminal(columns, "run", recipe(tmp_path, 60), f"dir={tmp_path / 'run'}")
    drawn = bars(text)
    assert drawn and max(map(len, drawn)) < columns, drawn
    assert ("[" in drawn[-1]) == (columns > 100) or columns == 80, drawn[-1]
    # No line a step: what ends in a new line are messages, and none of them is a bar.
    lines = [line for line in text.split("\n") if re.search(r"\d+/60", line.rpartition("\x1b[K")[2])]
    assert not lines, lines


@pytest.mark.parametrize("columns, environment, bound", [(0, {"COLUMNS": "50"}, 50), (0, {}, 80), (0, {"COLUMNS": "-3"}, 80),
                                                         (0, {"COLUMNS": "wide"}, 80)])
def test_a_terminal_that_does_not_say_its_width(columns, environment, bound, tmp_path):
    environment = {"COLUMNS": "", **environment}
    drawn = bars(on_terminal(columns, "run", recipe(tmp_path, 20), f"dir={tmp_path / 'run'}", environment=environment))
    assert drawn and max(map(len, drawn)) < bound, drawn


def test_a_terminal_that_is_resized(tmp_path):
    """The drawings after the change fit, but for one that may have been under way."""
    resized = []

    def narrow(terminal, text):
        if not resized and text.count(b"\r\x1b[K") >= 3:
            set_width(terminal, 30)
            resized.append(len(text))

    text = on_terminal(120, "run", recipe(tmp_path, 3000), f"dir={tmp_path / 'run'}", on_text=narrow)
    assert resized
    assert max(map(len, bars(text[:resized[0]]))) > 60
    after = bars(text[resized[0]:])[1:]
    assert after and max(map(len, after)) < 30, after
