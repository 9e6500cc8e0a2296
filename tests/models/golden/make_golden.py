"""Writes the golden files of this folder with transformers 5.23: tiny random models of the Llama family, their
logits and their greedy continuations. Run: HF_HUB_OFFLINE=1 python make_golden.py"""

import json
import pathlib

import torch
import transformers
from safetensors.torch import save_file

HERE = pathlib.Path(__file__).parent
SHAPE = dict(
    vocab_size=40,
    hidden_size=16,
    intermediate_size=24,
    num_hidden_layers=2,
    num_attention_heads=4,
    num_key_value_heads=2,
    head_dim=8,
    max_position_embeddings=32,
    bos_token_id=1,
    eos_token_id=None,
)
LENGTHS = [5, 1, 13, 30]


def llama(**changes):
    return transformers.LlamaConfig(**{**SHAPE, **changes})


def rope(kind, **changes):
    return {"rope_type": kind, "rope_theta": 500.0, **changes}


CASES = {
    "llama2": llama(num_key_value_heads=4, head_dim=4),
    "llama3": llama(
        rope_parameters=rope(
            "llama3", factor=8.0, low_freq_factor=1.0, high_freq_factor=4.0, original_max_position_embeddings=16
        )
    ),
    "linear_tied": llama(rope_parameters=rope("linear", factor=2.5), tie_word_embeddings=True),
    "yarn": llama(
        rope_parameters=rope("yarn", factor=4.0, original_max_position_embeddings=16, beta_fast=4.0, beta_slow=0.5)
    ),
    "biased": llama(attention_bias=True, mlp_bias=True),
    "mistral": transformers.MistralConfig(**{**SHAPE, "sliding_window": 64}),
    "qwen2": transformers.Qwen2Config(**{k: v for k, v in SHAPE.items() if k != "head_dim"}),
}


def make(name, config):
    torch.manual_seed(len(name))
    config._attn_implementation = "eager"
    model = transformers.AutoModelForCausalLM.from_config(config).eval().float()
    with torch.no_grad():
        for key, parameter in model.named_parameters():
            norm = "norm" in key
            parameter.copy_(torch.randn_like(parameter) * (0.2 if norm else 0.35) + (1.0 if norm else 0.0))
        tensors = {key: value.clone().contiguous() for key, value in model.named_parameters()}
        ids = [torch.randint(0, config.vocab_size, (length,)) for length in LENGTHS]
        tensors["golden.input_ids"] = torch.cat(ids)
        tensors["golden.logits"] = torch.cat([model(row[None]).logits[0] for row in ids])
        out = model.model(ids[-1][None], output_hidden_states=True)
        tensors["golden.layer_1"] = out.hidden_states[1][0].contiguous()
        prompt = ids[0][None]
        mask = torch.ones_like(prompt)
        greedy = dict(do_sample=False, max_new_tokens=12, attention_mask=mask, pad_token_id=0)
        tensors["golden.greedy"] = model.generate(prompt, **greedy)[0, prompt.shape[1] :]
        penalised = model.generate(prompt, repetition_penalty=1.7, **greedy)
        tensors["golden.penalised"] = penalised[0, prompt.shape[1] :]
    metadata = {"config": json.dumps(config.to_dict()), "lengths": json.dumps(LENGTHS)}
    save_file(tensors, HERE / f"{name}.safetensors", metadata)
    print(name, [round(float(value), 3) for value in tensors["golden.logits"][0, :3]], tensors["golden.greedy"].tolist())


if __name__ == "__main__":
    for case, case_config in CASES.items():
        make(case, case_config)
