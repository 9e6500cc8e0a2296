"""Writes nf4.safetensors: what bitsandbytes' CPU back end makes of hard little weights.

    python tests/quant/golden/make_golden.py

Each case CASE has CASE.x (the dense weight), and for every scheme in SCHEMES the parts bitsandbytes saves
(CASE/SCHEME.weight, CASE/SCHEME.weight.absmax, ...) and CASE/SCHEME.y, its decoded form in x's dtype (float32
for odd widths, which bitsandbytes decodes by another path).
"""

import pathlib

import bitsandbytes
import bitsandbytes.functional as F
import torch
from safetensors.torch import save_file

SCHEMES = {
    "nf4": dict(quant_type="nf4", blocksize=64),
    "nf4_double": dict(quant_type="nf4", blocksize=64, compress_statistics=True),
    "fp4_double_32": dict(quant_type="fp4", blocksize=32, compress_statistics=True),
}


def near_midpoints(generator, shape):
    """Values on every threshold, and one step to either side of it."""
    code = F.get_4bit_type("nf4", device="cpu")
    middle = (code[1:] + code[:-1]) / 2
    x = middle[torch.randint(0, 15, shape, generator=generator)]
    side = torch.randint(-1, 2, shape, generator=generator)
    x = torch.where(side > 0, torch.nextafter(x, torch.tensor(2.0)), x)
    x = torch.where(side < 0, torch.nextafter(x, torch.tensor(-2.0)), x)
    x.view(-1)[::64] = 1.0
    return x


def main():
    assert bitsandbytes.__version__ == "0.50.2", bitsandbytes.__version__
    generator = torch.Generator().manual_seed(20)
    normal = lambda *shape: torch.randn(*shape, generator=generator)  # noqa: E731
    spread = normal(9, 130) * torch.exp(10 * normal(9, 130)).clamp(1e-30, 1e30)
    # No width of 32 more than a multiple of 64: bitsandbytes' CPU kernel decodes those with the wrong maxima.
    zeros = normal(6, 128)
    zeros[2:5] = 0
    cases = {
        "normal": normal(10, 150),
        "bfloat16": normal(10, 150).bfloat16(),
        "float16": normal(10, 150).half(),
        "odd": normal(7, 13),
        "one": normal(1, 1),
        "spread": spread,
        "zeros": zeros,
        "all_zero": torch.zeros(3, 64),
        "subnormal": normal(4, 64) * 1e-40,
        "huge": normal(4, 64) * 1e37,
        "midpoints": near_midpoints(generator, (9, 64)),
    }
    tensors = {}
    for case, x in cases.items():
        tensors[f"{case}.x"] = x
        for scheme, options in SCHEMES.items():
            packed, state = F.quantize_4bit(x, **options)
            name = f"{case}/{scheme}.weight"
            tensors[name] = packed
            for key, value in state.as_dict(packed=True).items():
                tensors[f"{name}.{key}"] = value.clone()
            y = F.dequantize_4bit(packed, state)
            tensors[f"{case}/{scheme}.y"] = y.reshape(x.shape).contiguous()
    path = pathlib.Path(__file__).with_name("nf4.safetensors")
    save_file(tensors, path, metadata={"format": "pt"})
    print(path, path.stat().st_size, "bytes")


if __name__ == "__main__":
    main()
