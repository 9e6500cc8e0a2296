"""Writes document_encoder.safetensors with transformers 5.23: a tiny random BERT over sentence vectors (inputs_embeds)
behind a vector of the document itself, as HMDE has it, and its hidden states for documents of several lengths that are
padded to one. Run: HF_HUB_OFFLINE=1 python make_documents.py"""

import json
import pathlib

import torch
import transformers
from safetensors.torch import save_file

HERE = pathlib.Path(__file__).parent
LENGTHS = [3, 1, 7]

torch.manual_seed(25)
config = transformers.BertConfig(
    vocab_size=1,
    hidden_size=16,
    intermediate_size=24,
    num_hidden_layers=2,
    num_attention_heads=4,
    max_position_embeddings=max(LENGTHS) + 1,
    type_vocab_size=1,
    pad_token_id=0,
)
config._attn_implementation = "eager"
model = transformers.BertModel(config, add_pooling_layer=False).eval().float()
with torch.no_grad():
    for key, parameter in model.named_parameters():
        norm = "norm" in key.lower() and key.endswith("weight")
        parameter.copy_(torch.randn_like(parameter) * (0.2 if norm else 0.35) + (1.0 if norm else 0.0))
    sentences = [torch.randn(length, config.hidden_size) for length in LENGTHS]
    dcls = model.embeddings.word_embeddings.weight
    rows = [torch.cat([dcls, document]) for document in sentences]
    inputs = torch.nn.utils.rnn.pad_sequence(rows, batch_first=True, padding_value=9.0)
    mask = torch.arange(inputs.shape[1])[None] <= torch.tensor(LENGTHS)[:, None]
    hidden = model(inputs_embeds=inputs, attention_mask=mask.long()).last_hidden_state
    tensors = {key: value.clone().contiguous() for key, value in model.named_parameters()}
    tensors["golden.sentences"] = torch.cat(sentences)
    tensors["golden.hidden"] = hidden[mask]
    tensors["golden.mean"] = torch.stack([row[keep].mean(0) for row, keep in zip(hidden, mask, strict=True)])
metadata = {"config": json.dumps(config.to_dict(), default=str), "lengths": json.dumps(LENGTHS)}
save_file(tensors, HERE / "document_encoder.safetensors", metadata=metadata)
