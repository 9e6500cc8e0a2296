"""The module lives beside torch, sentencepiece and bitsandbytes, imported in any order."""

import itertools
import subprocess
import sys

import pytest

USE = {
    "torch": "import torch; torch.mm(torch.ones(8, 8), torch.ones(8, 8))",
    "sentencepiece": "import sentencepiece; sentencepiece.SentencePieceProcessor()",
    "bitsandbytes": "import torch, bitsandbytes.functional as F; F.quantize_4bit(torch.randn(64, 64), quant_type='nf4')",
    "bitrain": "import bitrain, torch; bitrain.quantize_nf4(torch.randn(64, 64)); "
    "bitrain.train_tokenizer(['uno dos tres cuatro cinco'] * 50, __import__('tempfile').mkdtemp(), vocab_size=300)",
}
ORDERS = [order for order in itertools.permutations(USE) if order[0] != "torch"][::3]


@pytest.mark.parametrize("order", ORDERS, ids="-".join)
def test_any_order(order):
    program = "\n".join(USE[name] for name in order) + "\nprint('fine')"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=120)
    assert done.returncode == 0 and done.stdout.endswith("fine\n"), done.stderr[-2000:]


@pytest.mark.parametrize("order", ["import torch, bitrain", "import bitrain, torch"])
def test_short_memory_is_an_error_and_no_abort(order):
    """libsentencepiece and libc10 both have a variable of one name; see text/sentencepiece_flag.cpp."""
    program = f"{order}\ntry:\n    torch.empty(1 << 60, dtype=torch.uint8)\nexcept RuntimeError:\n    print('fine')"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=120)
    assert done.stdout.endswith("fine\n"), done.stderr[-2000:]
