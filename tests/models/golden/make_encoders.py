"""Writes the encoders' golden files of this folder with transformers 5.23: tiny random models of the BERT family,
their hidden states and pooled outputs. Run: HF_HUB_OFFLINE=1 python make_encoders.py"""

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
    max_position_embeddings=36,
    type_vocab_size=2,
    pad_token_id=1,
)
LENGTHS = [5, 1, 13, 30]
LANGUAGES = ["en_XX", "es_XX", "sw_KE"]
ROW_LANGUAGES = [1, 0, 2, 1]


def xmod(**changes):
    return transformers.XmodConfig(**{**SHAPE, "languages": LANGUAGES, "default_language": "en_XX", **changes})


CASES = {
    "bert": transformers.BertConfig(**{**SHAPE, "pad_token_id": 0}),
    "bert_tanh": transformers.BertConfig(**{**SHAPE, "pad_token_id": 0, "hidden_act": "gelu_new"}),
    "roberta": transformers.RobertaConfig(**{**SHAPE, "type_vocab_size": 1}),
    "xlm_roberta": transformers.XLMRobertaConfig(**{**SHAPE, "type_vocab_size": 1, "layer_norm_eps": 1e-5}),
    "camembert": transformers.CamembertConfig(**{**SHAPE, "hidden_act": "relu"}),
    "xmod": xmod(),
    "xmod_own_norm": xmod(adapter_layer_norm=True, adapter_reduction_factor=4),
    "xmod_no_norm": xmod(adapter_reuse_layer_norm=False),
    "xmod_after": xmod(ln_before_adapter=False),
    "xmod_pre_norm": xmod(pre_norm=True, adapter_layer_norm=True),
}


def make(name, config):
    torch.manual_seed(len(name))
    config._attn_implementation = "eager"
    model = transformers.AutoModel.from_config(config).eval().float()
    with torch.no_grad():
        for key, parameter in model.named_parameters():
            norm = "norm" in key.lower() and key.endswith("weight")
            parameter.copy_(torch.randn_like(parameter) * (0.2 if norm else 0.35) + (1.0 if norm else 0.0))
        tensors = {key: value.clone().contiguous() for key, value in model.named_parameters()}
        # Never the padding id: transformers gives it no position of its own.
        ids = [torch.randint(2, config.vocab_size, (length,)) for length in LENGTHS]
        types = [(torch.arange(length) * 2 >= length).long() * (config.type_vocab_size - 1) for length in LENGTHS]
        extra = [{"lang_ids": torch.tensor([i])} if config.model_type == "xmod" else {} for i in ROW_LANGUAGES]
        outputs = [
            model(row[None], output_hidden_states=True, **more) for row, more in zip(ids, extra, strict=True)
        ]
        tensors["golden.input_ids"] = torch.cat(ids)
        tensors["golden.token_type_ids"] = torch.cat(types)
        tensors["golden.hidden"] = torch.cat([out.last_hidden_state[0] for out in outputs])
        tensors["golden.layer_1"] = torch.cat([out.hidden_states[1][0] for out in outputs])
        tensors["golden.pooled"] = torch.cat([out.pooler_output for out in outputs])
        typed = [
            model(row[None], token_type_ids=kind[None], **more).last_hidden_state[0]
            for row, kind, more in zip(ids, types, extra, strict=True)
        ]
        tensors["golden.hidden_of_pairs"] = torch.cat(typed)
    metadata = {
        "config": json.dumps(config.to_dict(), default=str),
        "lengths": json.dumps(LENGTHS),
        "languages": json.dumps(LANGUAGES),
        "row_languages": json.dumps(ROW_LANGUAGES),
    }
    save_file(tensors, HERE / f"{name}.safetensors", metadata=metadata)


for name, config in CASES.items():
    make(name, config)
