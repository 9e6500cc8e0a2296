"""Writes the golden files of this folder with PEFT 0.21 and transformers 5.23: tiny adapted models, what PEFT saves of
them, and their logits. Run: HF_HUB_OFFLINE=1 python make_golden.py"""

import json
import pathlib

import peft
import torch
import transformers
from safetensors.torch import save_file

HERE = pathlib.Path(__file__).parent
CONFIG = dict(
    vocab_size=23,
    hidden_size=16,
    intermediate_size=24,
    num_hidden_layers=2,
    num_attention_heads=4,
    num_key_value_heads=2,
    max_position_embeddings=64,
    eos_token_id=2,
)
COMMON = dict(r=4, lora_alpha=6, init_lora_weights=False)
CASES = {
    "everywhere": dict(
        target_modules=["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj", "embed_tokens", "lm_head"]
    ),
    "all_linear_rslora": dict(target_modules="all-linear", use_rslora=True, exclude_modules=["gate_proj"]),
    "patterns": dict(
        target_modules=r".*\.(q_proj|up_proj)",
        rank_pattern={"q_proj": 2, r".*layers\.1\.mlp\.up_proj": 3},
        alpha_pattern={"up_proj": 9.0},
    ),
    "rows": dict(target_modules=["v_proj"], layers_to_transform=[1], trainable_token_indices={"embed_tokens": [3, 7, 11]}),
    "saved": dict(target_modules=["v_proj"], modules_to_save=["lm_head"]),
}


def make(name, options):
    torch.manual_seed(len(name))
    config = transformers.LlamaConfig(**CONFIG)
    config._attn_implementation = "eager"
    model = transformers.LlamaForCausalLM(config).eval().float()
    with torch.no_grad():
        for key, parameter in model.named_parameters():
            norm = "norm" in key
            parameter.copy_(torch.randn_like(parameter) * (0.2 if norm else 0.35) + (1.0 if norm else 0.0))
        tensors = {f"base.{key}": value.clone() for key, value in model.named_parameters()}
        adapted = peft.get_peft_model(model, peft.LoraConfig(**COMMON, **options))
        for key, parameter in adapted.named_parameters():
            if parameter.requires_grad:
                parameter.add_(torch.randn_like(parameter) * 0.1)
        trainable = sum(p.numel() for p in adapted.parameters() if p.requires_grad)
        saved = peft.get_peft_model_state_dict(adapted, save_embedding_layers=False)
        tensors |= {f"peft.{key}": value.clone().contiguous() for key, value in saved.items()}
        ids = torch.randint(0, config.vocab_size, (1, 20))
        tensors["input_ids"] = ids[0]
        tensors["logits"] = adapted(ids).logits[0].contiguous()
    metadata = {"options": json.dumps({**COMMON, **options}), "trainable": str(trainable)}
    save_file(tensors, HERE / f"{name}.safetensors", metadata)
    print(name, trainable, sorted(saved)[:2])


if __name__ == "__main__":
    for case, case_options in CASES.items():
        make(case, case_options)
