"""What users of transformers, PEFT and bitsandbytes run today, timed: one JSON line a case.

    python benchmarks/peers.py train --form autocast        full training of a 26 M Llama
    python benchmarks/peers.py qlora --form usual           QLoRA of a 136 M Llama
    python benchmarks/peers.py extend --rows 52000          vocabulary extension by a Python loop over piece means
    python benchmarks/peers.py nf4                          quantise and dequantise a 4096 x 4096 weight
    python benchmarks/peers.py contrastive --form usual     MiniLM on verse pairs, MultipleNegativesRankingLoss
    python benchmarks/peers.py info_nce                     the loss alone, from the full matrix
    python benchmarks/peers.py encode                       SentenceTransformer.encode
    python benchmarks/peers.py search                       exact search by faiss-cpu
    python benchmarks/peers.py merge                        merge a rank-16 adapter into an NF4 base and save it

Two threads everywhere. "Kept pages" (glibc keeping freed memory) is set from outside by the environment:
MALLOC_MMAP_MAX_=0 MALLOC_TRIM_THRESHOLD_=17179869184 MALLOC_TOP_PAD_=67108864.
"""

import argparse
import json
import resource
import statistics
import tempfile
import time

START = time.perf_counter()

import torch  # noqa: E402

torch.set_num_threads(2)


def peak_gib():
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20


def report(name, **figures):
    print(json.dumps({"case": name, "peak_rss_gib": round(peak_gib(), 2), **figures}), flush=True)


def llama(hidden, layers, heads, ffn, vocab, dtype):
    from transformers import LlamaConfig, LlamaForCausalLM

    torch.manual_seed(0)
    config = LlamaConfig(
        hidden_size=hidden, num_hidden_layers=layers, num_attention_heads=heads, num_key_value_heads=heads,
        intermediate_size=ffn, vocab_size=vocab, tie_word_embeddings=False, max_position_embeddings=2048,
    )
    return LlamaForCausalLM(config).to(dtype)


def timed_steps(step, steps, tokens):
    step()
    seconds = []
    for _ in range(steps):
        begin = time.perf_counter()
        step()
        seconds.append(time.perf_counter() - begin)
    return {
        "tokens_per_second": round(tokens / min(seconds), 1),
        "median_tokens_per_second": round(tokens / statistics.median(seconds), 1),
    }


def train(form, steps):
    """8 x 512 tokens a step, fused AdamW."""
    dtype = torch.bfloat16 if form in ("bf16", "compile") else torch.float32
    model = llama(384, 8, 6, 1024, 16000, dtype)
    forward = torch.compile(model) if form == "compile" else model
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-4, fused=True)
    ids = torch.randint(0, 16000, (8, 512))

    def step():
        with torch.autocast("cpu", dtype=torch.bfloat16, enabled=form == "autocast"):
            loss = forward(input_ids=ids, labels=ids).loss
        loss.backward()
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)

    report(f"train/{form}", **timed_steps(step, steps, ids.numel()))


def qlora_model(form):
    import bitsandbytes as bnb
    from peft import LoraConfig, get_peft_model, prepare_model_for_kbit_training

    model = llama(1024, 8, 16, 2816, 16000, torch.bfloat16)
    for name, module in list(model.named_modules()):
        for child_name, child in list(module.named_children()):
            if isinstance(child, torch.nn.Linear) and child_name != "lm_head":
                quantized = bnb.nn.Linear4bit(
                    child.in_features, child.out_features, bias=False, compute_dtype=torch.bfloat16,
                    compress_statistics=True, quant_type="nf4",
                )
                quantized.weight = bnb.nn.Params4bit(
                    child.weight.data, requires_grad=False, quant_type="nf4", compress_statistics=True
                )
                setattr(module, child_name, quantized.to("cpu"))
    model.is_loaded_in_4bit = True
    if form == "usual":
        model = prepare_model_for_kbit_training(model, use_gradient_checkpointing=False)
    targets = ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]
    model = get_peft_model(model, LoraConfig(r=16, lora_alpha=32, target_modules=targets, task_type="CAUSAL_LM"),
                           autocast_adapter_dtype=form == "usual")
    return model


def qlora(form, steps):
    """4 x 512 tokens a step, rank 16 on all linear maps."""
    model = qlora_model(form)
    optimizer = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=1e-4, fused=True)
    ids = torch.randint(0, 16000, (4, 512))
    first = None

    def step():
        nonlocal first
        with torch.autocast("cpu", dtype=torch.bfloat16, enabled=form == "usual"):
            loss = model(input_ids=ids, labels=ids).loss
        loss.backward()
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        if first is None:
            first = time.perf_counter() - START

    figures = timed_steps(step, steps, ids.numel())
    report(f"qlora/{form}", first_step_seconds=round(first, 2), **figures)


def extend(rows, width, old):
    """Plain resize plus a loop over piece means, embedding and head, bfloat16."""
    from transformers import LlamaConfig, LlamaForCausalLM

    config = LlamaConfig(hidden_size=width, num_hidden_layers=1, num_attention_heads=32, intermediate_size=64,
                         vocab_size=old, tie_word_embeddings=False)
    with torch.no_grad():
        model = LlamaForCausalLM(config).to(torch.bfloat16)
        generator = torch.Generator().manual_seed(0)
        pieces = [torch.randint(0, old, (3,), generator=generator) for _ in range(rows - old)]
        begin = time.perf_counter()
        model.resize_token_embeddings(rows, mean_resizing=False)
        for table in (model.get_input_embeddings().weight, model.get_output_embeddings().weight):
            for row, ids in enumerate(pieces, old):
                table[row] = table[ids].mean(0)
        seconds = time.perf_counter() - begin
    report("extend/python_loop", seconds=round(seconds, 3))


def nf4(repeats):
    import bitsandbytes.functional as F

    for dtype in (torch.float32, torch.bfloat16):
        weight = torch.randn(4096, 4096).to(dtype)
        quantise, dequantise = [], []
        for _ in range(repeats):
            begin = time.perf_counter()
            codes, state = F.quantize_4bit(weight, blocksize=64, compress_statistics=True, quant_type="nf4")
            quantise.append(time.perf_counter() - begin)
            begin = time.perf_counter()
            F.dequantize_4bit(codes, state)
            dequantise.append(time.perf_counter() - begin)
        report(
            f"nf4/{str(dtype).removeprefix('torch.')}",
            quantise_mweights_per_second=round(weight.numel() / min(quantise) / 1e6, 1),
            dequantise_gb_per_second=round(weight.numel() * weight.element_size() / min(dequantise) / 1e9, 2),
        )


def merge():
    """Load to saved folder is the work of a user; here the merge and the saving are timed."""
    with torch.no_grad(), tempfile.TemporaryDirectory() as folder:
        model = qlora_model("lean")
        begin = time.perf_counter()
        merged = model.merge_and_unload()
        merge_seconds = time.perf_counter() - begin
        merged.save_pretrained(folder)
        report("merge/nf4", merge_seconds=round(merge_seconds, 3), seconds=round(time.perf_counter() - begin, 3))


def verse_pairs(count):
    """English and Spanish verses from the file that bitrain_bench reads."""
    import os
    import subprocess

    text = subprocess.run(["zstd", "-dcq", os.environ["BITRAIN_PAIRS"]], capture_output=True, check=True).stdout
    rows = [line.split("\t") for line in text.decode().splitlines()]
    pairs = [(row[1], row[2]) for row in rows if len(row) > 2 and row[1] and row[2]]
    import random

    random.Random(0).shuffle(pairs)
    return pairs[:count]


def minilm():
    import os

    from sentence_transformers import SentenceTransformer

    return SentenceTransformer(os.environ["BITRAIN_MINILM"], device="cpu")


def contrastive(form, batch, steps):
    """Steps of `batch` verse pairs, 64 tokens at most, fused AdamW. usual: bf16 autocast, the whole batch at once (padded);
    cached: the same in GradCache's chunks of 32; tuned: the weights in bf16 too."""
    from sentence_transformers.sentence_transformer import losses

    model = minilm()
    model.max_seq_length = 64
    pairs = verse_pairs(batch * (steps + 1))
    if form == "cached":
        loss = losses.CachedMultipleNegativesRankingLoss(model, mini_batch_size=32)
    else:
        loss = losses.MultipleNegativesRankingLoss(model)
    if form == "tuned":
        model.to(torch.bfloat16)
    optimizer = torch.optim.AdamW(model.parameters(), lr=2e-5, fused=True)
    model.train()
    next_pair = iter(range(0, len(pairs), batch))

    def step():
        begin = next(next_pair)
        chosen = pairs[begin:begin + batch]
        features = [model.tokenize([pair[side] for pair in chosen]) for side in (0, 1)]
        with torch.autocast("cpu", torch.bfloat16, enabled=form != "tuned"):
            value = loss(features, None)
        value.backward()
        optimizer.step()
        optimizer.zero_grad()

    timed = timed_steps(step, steps, batch)
    report(f"contrastive_{batch}/{form}", pairs_per_second=timed["tokens_per_second"],
           median_pairs_per_second=timed["median_tokens_per_second"])


def info_nce(rows, width):
    """The full matrix of similarities and cross-entropy, forward and backward."""
    queries = torch.randn(rows, width, requires_grad=True)
    candidates = torch.randn(rows, width, requires_grad=True)
    before = peak_gib()
    seconds = []
    for _ in range(2):
        queries.grad = candidates.grad = None
        begin = time.perf_counter()
        scores = 20 * torch.nn.functional.normalize(queries) @ torch.nn.functional.normalize(candidates).T
        torch.nn.functional.cross_entropy(scores, torch.arange(rows), reduction="sum").backward()
        del scores
        seconds.append(time.perf_counter() - begin)
    report("info_nce/full", seconds=round(min(seconds), 3), added_gib=round(peak_gib() - before, 3))


def encode(count):
    model = minilm()
    texts = [pair[0] for pair in verse_pairs(count)]
    model.encode(texts[:64])
    begin = time.perf_counter()
    model.encode(texts)
    report("encode/usual", texts_per_second=round(count / (time.perf_counter() - begin), 1))


def search(rows, width, queries, k):
    """faiss-cpu's exact index of inner products."""
    import faiss

    faiss.omp_set_num_threads(torch.get_num_threads())
    corpus = torch.nn.functional.normalize(torch.randn(rows, width)).numpy()
    wanted = torch.nn.functional.normalize(torch.randn(queries, width)).numpy()
    index = faiss.IndexFlatIP(width)
    index.add(corpus)
    index.search(wanted[:100], k)
    seconds = []
    for _ in range(3):
        begin = time.perf_counter()
        index.search(wanted, k)
        seconds.append(time.perf_counter() - begin)
    report("search/faiss", queries_per_second=round(queries / min(seconds), 1))


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("case", choices=["train", "qlora", "extend", "nf4", "merge", "contrastive", "info_nce", "encode",
                                         "search"])
    parser.add_argument("--form", default="", help="train: autocast, fp32, bf16, compile; qlora: usual, lean; "
                        "contrastive: usual, cached, tuned")
    parser.add_argument("--batch", type=int, default=256)
    parser.add_argument("--steps", type=int, default=4)
    parser.add_argument("--rows", type=int, default=52000)
    parser.add_argument("--width", type=int, default=4096)
    parser.add_argument("--old", type=int, default=32000)
    arguments = parser.parse_args()
    if arguments.case == "train":
        train(arguments.form or "autocast", arguments.steps)
    elif arguments.case == "qlora":
        qlora(arguments.form or "usual", arguments.steps)
    elif arguments.case == "extend":
        extend(arguments.rows, arguments.width, arguments.old)
    elif arguments.case == "nf4":
        nf4(arguments.steps)
    elif arguments.case == "contrastive":
        contrastive(arguments.form or "usual", arguments.batch, arguments.steps)
    elif arguments.case == "info_nce":
        info_nce(16384, 384)
    elif arguments.case == "encode":
        encode(2000)
    elif arguments.case == "search":
        search(100_000, 384, 5000, 10)
    else:
        merge()


if __name__ == "__main__":
    main()
