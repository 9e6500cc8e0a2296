"""4-bit weights: ours in bitsandbytes and theirs in ours, bit for bit."""

import bitsandbytes.functional as F
import pytest
import torch

import bitrain

DTYPES = [torch.float32, torch.bfloat16, torch.float16]


def bits(tensor):
    return tensor.contiguous().view(-1).view(torch.uint8)


def same_bits(a, b):
    return a.dtype == b.dtype and a.numel() == b.numel() and torch.equal(bits(a), bits(b))


def theirs(x, block_size=64, double_quant=True, quant_type="nf4"):
    """What bitsandbytes saves: our dict's keys."""
    packed, state = F.quantize_4bit(x, blocksize=block_size, compress_statistics=double_quant, quant_type=quant_type)
    parts = {"weight": packed}
    parts.update({f"weight.{key}": value for key, value in state.as_dict(packed=True).items()})
    return parts, packed, state


def state_in_bitsandbytes(parts):
    return F.QuantState.from_dict(
        {key.removeprefix("weight."): value for key, value in parts.items() if key != "weight"}, device="cpu"
    )


def hard_weights():
    generator = torch.Generator().manual_seed(7)
    for rows, columns in [(1, 1), (3, 5), (7, 64), (16, 128), (33, 150), (5, 255), (64, 1024)]:
        x = torch.randn(rows, columns, generator=generator)
        yield "normal", x
        yield "subnormal", x * 1e-40
        yield "huge", x * 1e33  # The maxima are summed in fp32.
        yield "spread", x * torch.exp(torch.randn(rows, columns, generator=generator) * 15).clamp(1e-40, 1e30)
        zeros = x.clone()
        zeros.view(-1)[: x.numel() // 2] = 0
        yield "zeros", zeros
        yield "constant", torch.full_like(x, -0.3)


WEIGHTS = [
    pytest.param(torch.nan_to_num(x.to(dtype), posinf=1, neginf=-1), id=f"{name}-{x.shape[0]}x{x.shape[1]}-{dtype}")
    for name, x in hard_weights()
    for dtype in DTYPES
]


@pytest.mark.parametrize("x", WEIGHTS)
@pytest.mark.parametrize(
    "block_size,double_quant,quant_type",
    [(64, True, "nf4"), (64, False, "nf4"), (32, True, "fp4"), (4096, False, "nf4")],
)
def test_the_same_bytes_both_ways(x, block_size, double_quant, quant_type):
    expected, packed, state = theirs(x, block_size, double_quant, quant_type)
    parts = bitrain.quantize_4bit(x, block_size, double_quant, quant_type)
    assert parts.keys() == expected.keys()
    for key in parts:
        if "quant_state" not in key:  # JSON: its facts are compared below.
            assert same_bits(parts[key], expected[key]), key
            assert parts[key].shape == expected[key].shape, key

    # Ours in bitsandbytes.
    loaded = state_in_bitsandbytes(parts)
    assert (loaded.shape, loaded.dtype, loaded.blocksize, loaded.quant_type) == (
        state.shape, state.dtype, state.blocksize, state.quant_type,
    )
    assert loaded.nested == double_quant
    if double_quant:
        assert same_bits(loaded.offset, state.offset)
        assert loaded.state2.blocksize == state.state2.blocksize
    # Theirs in ours.
    assert same_bits(bitrain.dequantize_4bit(expected), bitrain.dequantize_4bit(parts))


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("double_quant", [False, True])
@pytest.mark.parametrize("shape", [(16, 128), (64, 1024), (33, 150), (3, 5), (7, 65)])
def test_decodes_to_the_same_bits(shape, double_quant, dtype):
    x = torch.randn(*shape, dtype=dtype)
    expected, packed, state = theirs(x, 64, double_quant)
    assert same_bits(bitrain.dequantize_nf4(expected, dtype), F.dequantize_4bit(packed, state))
    ours = bitrain.quantize_nf4(x, double_quant=double_quant)
    assert same_bits(bitrain.dequantize_nf4(ours, dtype), F.dequantize_4bit(ours["weight"], state_in_bitsandbytes(ours)))


def test_means_of_many_blocks_are_summed_in_the_same_order():
    x = torch.randn(2048, 1024)  # 32,768 block maxima: LibTorch sums them on several threads.
    expected, _, _ = theirs(x)
    parts = bitrain.quantize_nf4(x)
    for key in parts:
        if "quant_state" not in key:
            assert same_bits(parts[key], expected[key]), key
    assert same_bits(state_in_bitsandbytes(parts).offset, state_in_bitsandbytes(expected).offset)


def test_linear_has_the_dense_gradient():
    parts = bitrain.quantize_nf4(torch.randn(48, 64))
    dense = bitrain.dequantize_nf4(parts, torch.float32).double()
    x = torch.randn(5, 64, dtype=torch.float64, requires_grad=True)
    assert torch.allclose(bitrain.linear_4bit(x, parts), x @ dense.t())
    assert torch.autograd.gradcheck(lambda x: bitrain.linear_4bit(x, parts), [x])
    assert torch.autograd.gradgradcheck(lambda x: bitrain.linear_4bit(x, parts), [x])


def test_bad_weights_are_refused():
    x = torch.randn(4, 64)
    with pytest.raises(Exception, match="power of two"):
        bitrain.quantize_nf4(x, block_size=48)
    with pytest.raises(Exception, match="NaN or infinity"):
        bitrain.quantize_nf4(torch.full((4, 64), float("nan")))
    with pytest.raises(Exception, match="double_quant"):
        bitrain.quantize_nf4(torch.full((64, 64), 3e38))
    with pytest.raises(Exception, match="float32, bfloat16 or float16"):
        bitrain.quantize_nf4(x.double())
    parts = bitrain.quantize_nf4(x)
    for key in parts:
        damaged = {k: v for k, v in parts.items() if k != key}
        with pytest.raises(Exception, match=key.replace(".", r"\.")):
            bitrain.dequantize_nf4(damaged)
