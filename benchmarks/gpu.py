"""bitrain on one GPU beside its peers on the same GPU, in one run: a line a case, with the ratio.

    python benchmarks/gpu.py [--only nf4 info_nce ..]      about two minutes on an H200

Needs a release build with the CUDA library, and torch, transformers, PEFT and bitsandbytes. Peers: bitsandbytes for
NF4; the full matrix of similarities for InfoNCE; a blocked product and topk for search; transformers, PEFT and
bitsandbytes with SDPA, bf16 autocast and fused AdamW for QLoRA of Llama-2-7B's shape. (For training an encoder:
minilm_beside.py --device cuda.)
"""

import argparse
import json
import statistics
import subprocess
import time
from pathlib import Path

import torch

ROOT = Path(__file__).resolve().parent.parent


def ours(case):
    program = ROOT / "build/release/bin/bitrain_bench"
    lines = subprocess.run([program, case], check=True, capture_output=True, text=True).stdout
    return json.loads(lines.splitlines()[-1])


def seconds_of(work, repeats):
    work()
    torch.cuda.synchronize()
    seconds = []
    for _ in range(repeats):
        begin = time.perf_counter()
        work()
        torch.cuda.synchronize()
        seconds.append(time.perf_counter() - begin)
    return statistics.median(seconds)


def nf4():
    import bitsandbytes.functional as functional

    weight = torch.randn(1 << 15, 1 << 15, dtype=torch.bfloat16, device="cuda")

    def quantise():
        return functional.quantize_4bit(weight, blocksize=64, compress_statistics=True, quant_type="nf4")

    codes, state = quantise()
    out = torch.empty_like(weight)
    return {"quantise_gweights_per_second": weight.numel() / seconds_of(quantise, 10) / 1e9,
            "dequantise_gweights_per_second":
                weight.numel() / seconds_of(lambda: functional.dequantize_4bit(codes, state, out=out), 20) / 1e9}


def info_nce():
    rows, width = 65536, 1024
    queries, candidates = (torch.randn(rows, width, device="cuda", requires_grad=True) for _ in range(2))
    labels = torch.arange(rows, device="cuda")
    torch.cuda.empty_cache()
    torch.cuda.reset_peak_memory_stats()
    before = torch.cuda.max_memory_reserved()

    def step():
        queries.grad = candidates.grad = None
        scores = 20 * torch.nn.functional.normalize(queries) @ torch.nn.functional.normalize(candidates).T
        torch.nn.functional.cross_entropy(scores, labels, reduction="sum").backward()

    seconds = seconds_of(step, 3)
    return {"seconds": seconds, "added_device_gib": (torch.cuda.max_memory_reserved() - before) / 2**30}


def search():
    corpus, queries = (torch.nn.functional.normalize(torch.randn(rows, 384, device="cuda")).bfloat16()
                       for rows in (1_000_000, 10_000))

    def step():
        for block in queries.split(1024):
            best = None
            for first in range(0, len(corpus), 65536):
                part = torch.mm(block, corpus[first:first + 65536].T, out_dtype=torch.float32).topk(10)
                rows = part.indices + first
                if best is not None:
                    values, rows = torch.cat([best[0], part.values], 1), torch.cat([best[1], rows], 1)
                    values, order = values.topk(10)
                    best = values, rows.gather(1, order)
                else:
                    best = part.values, rows

    return {"queries_per_second": len(queries) / seconds_of(step, 3)}


def qlora():
    import bitsandbytes as bnb
    from peft import LoraConfig, get_peft_model, prepare_model_for_kbit_training
    from transformers import LlamaConfig, LlamaForCausalLM

    config = LlamaConfig(vocab_size=32000, hidden_size=4096, num_hidden_layers=32, num_attention_heads=32,
                         intermediate_size=11008, tie_word_embeddings=False, max_position_embeddings=4096)
    torch.set_default_dtype(torch.bfloat16)
    with torch.device("cuda"):
        model = LlamaForCausalLM._from_config(config, attn_implementation="sdpa")
    torch.set_default_dtype(torch.float32)
    for module in list(model.modules()):
        for name, child in list(module.named_children()):
            if isinstance(child, torch.nn.Linear) and name != "lm_head":
                quantized = bnb.nn.Linear4bit(child.in_features, child.out_features, bias=False,
                                              compute_dtype=torch.bfloat16, compress_statistics=True, quant_type="nf4")
                quantized.weight = bnb.nn.Params4bit(child.weight.data, requires_grad=False, quant_type="nf4",
                                                     compress_statistics=True)
                setattr(module, name, quantized.to("cuda"))
    model.is_loaded_in_4bit = True
    model = prepare_model_for_kbit_training(model, use_gradient_checkpointing=False)
    targets = ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]
    model = get_peft_model(model, LoraConfig(r=64, lora_alpha=16, target_modules=targets, task_type="CAUSAL_LM"))
    optimizer = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=1e-4, fused=True)
    ids = torch.randint(0, 32000, (4, 2048), device="cuda")
    torch.cuda.empty_cache()
    torch.cuda.reset_peak_memory_stats()

    def step():
        with torch.autocast("cuda", dtype=torch.bfloat16):
            loss = model(input_ids=ids, labels=ids).loss
        loss.backward()
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)

    return {"tokens_per_second": ids.numel() / seconds_of(step, 4),
            "peak_device_gib": torch.cuda.max_memory_reserved() / 2**30}


PEERS = {"limit": dict, "nf4": nf4, "info_nce": info_nce, "search": search, "qlora": qlora}


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", nargs="*", default=list(PEERS), choices=list(PEERS))
    arguments = parser.parse_args()
    print(torch.cuda.get_device_name())
    print(f"{'case':10}{'figure':34}{'bitrain':>12}{'peer':>12}{'bitrain / peer':>16}")
    for case in arguments.only:
        torch.cuda.empty_cache()
        mine = ours("gpu_" + case)
        theirs = PEERS[case]()
        for figure, value in mine.items():
            if figure in ("case", "peak_rss_gib", "large_tensors_gib", "arena_gib"):
                continue
            other = theirs.get(figure)
            print(f"{case:10}{figure:34}{value:12.4g}" + (f"{other:12.4g}{value / other:16.2f}" if other else ""),
                  flush=True)


if __name__ == "__main__":
    main()
