"""Model and adapter folders, both ways, with transformers and PEFT as oracles."""

import dataclasses
import json

import peft
import pytest
import safetensors.torch
import torch
import transformers

import bitrain

ROWS = [[1, 5, 9, 3, 17, 60, 2], [1, 44, 8], [7]]
SMALL = dict(vocab_size=64, hidden_size=32, intermediate_size=48, num_hidden_layers=2, num_attention_heads=4,
             num_key_value_heads=2, max_position_embeddings=128)
LLAMA3 = {"rope_type": "llama3", "rope_theta": 5000.0, "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0,
          "original_max_position_embeddings": 64}
FAMILIES = {
    "llama": lambda: transformers.LlamaForCausalLM(transformers.LlamaConfig(**SMALL)),
    "llama3": lambda: transformers.LlamaForCausalLM(transformers.LlamaConfig(**SMALL, rope_parameters=LLAMA3)),
    "tied": lambda: transformers.LlamaForCausalLM(transformers.LlamaConfig(**SMALL, tie_word_embeddings=True)),
    "biased": lambda: transformers.LlamaForCausalLM(
        transformers.LlamaConfig(**SMALL, attention_bias=True, mlp_bias=True)),
    "mistral": lambda: transformers.MistralForCausalLM(transformers.MistralConfig(**SMALL, sliding_window=None)),
    "qwen2": lambda: transformers.Qwen2ForCausalLM(transformers.Qwen2Config(**SMALL)),
}


def theirs(model):
    with torch.no_grad():
        return [model(input_ids=torch.tensor([row])).logits[0].float() for row in ROWS]


def close(ours, expected, tolerance=1e-4):
    for a, b in zip(ours, expected, strict=True):
        torch.testing.assert_close(a, b, atol=tolerance, rtol=tolerance)


def make(family):
    torch.manual_seed(0)
    model = FAMILIES[family]().eval()
    with torch.no_grad():  # Biases and norms away from their neutral values.
        for name, parameter in model.named_parameters():
            parameter.add_(0.05 * torch.randn_like(parameter))
    return model


@pytest.mark.parametrize("family", FAMILIES)
def test_transformers_folder_opens_in_ours(family, tmp_path):
    model = make(family)
    model.save_pretrained(tmp_path)
    close(bitrain.open_model(tmp_path, dtype="float32").logits(ROWS), theirs(model))


@pytest.mark.parametrize("family", FAMILIES)
def test_our_folder_opens_in_transformers(family, tmp_path):
    model = make(family)
    model.save_pretrained(tmp_path / "theirs")
    bitrain.save_model(bitrain.open_model(tmp_path / "theirs", dtype="float32"), tmp_path / "ours")
    again, info = transformers.AutoModelForCausalLM.from_pretrained(tmp_path / "ours", output_loading_info=True)
    assert not info["missing_keys"] and not info["unexpected_keys"]
    assert again.dtype == torch.float32
    close(theirs(again.eval()), theirs(model))


LINEAR = {"type": "linear", "factor": 4.0}
YARN = {"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 64}


@pytest.mark.parametrize("keys", [
    {"rope_scaling": LINEAR, "rope_parameters": LLAMA3},
    {"rope_scaling": {}, "rope_parameters": LLAMA3},
    {"rope_scaling": LLAMA3, "original_max_position_embeddings": 32},
    {"rope_scaling": YARN, "original_max_position_embeddings": 16},
    {"rope_scaling": YARN | {"factor": None}},
    {"rope_scaling": YARN | {"factor": None}, "original_max_position_embeddings": 16},
], ids=str)
def test_rotary_keys_in_two_places(keys, tmp_path):
    make("llama").save_pretrained(tmp_path / "theirs")
    config = json.loads((tmp_path / "theirs" / "config.json").read_text())
    config.pop("rope_parameters")
    (tmp_path / "theirs" / "config.json").write_text(json.dumps(config | keys))
    expected = theirs(transformers.AutoModelForCausalLM.from_pretrained(tmp_path / "theirs").eval())
    ours = bitrain.open_model(tmp_path / "theirs", dtype="float32")
    close(ours.logits(ROWS), expected)
    bitrain.save_model(ours, tmp_path / "ours")
    close(theirs(transformers.AutoModelForCausalLM.from_pretrained(tmp_path / "ours").eval()), expected)


def test_sharded_folder_opens(tmp_path):
    model = make("llama")
    model.save_pretrained(tmp_path, max_shard_size="20KB")
    assert (tmp_path / "model.safetensors.index.json").exists()
    close(bitrain.open_model(tmp_path, dtype="float32").logits(ROWS), theirs(model))


def test_bfloat16_is_what_was_stored(tmp_path):
    make("llama").to(torch.bfloat16).save_pretrained(tmp_path)
    model = bitrain.open_model(tmp_path)
    assert all(tensor.dtype == torch.bfloat16 for tensor in model.tensors().values())


LORAS = {
    "linears": dict(r=4, lora_alpha=8, target_modules=["q_proj", "down_proj"]),
    "everywhere": dict(r=4, lora_alpha=8, target_modules=["q_proj", "v_proj", "up_proj", "embed_tokens", "lm_head"]),
    "rslora": dict(r=4, lora_alpha=8, use_rslora=True, target_modules=["o_proj"]),
    "patterns": dict(r=4, lora_alpha=8, target_modules=["q_proj", "k_proj"], rank_pattern={"k_proj": 2},
                     alpha_pattern={"k_proj": 6}),
    "rows": dict(r=2, lora_alpha=2, target_modules=["q_proj"], trainable_token_indices={"embed_tokens": [3, 9]}),
    "rows in any order": dict(r=2, lora_alpha=2, target_modules=["q_proj"],
                              trainable_token_indices={"embed_tokens": [9, 3]}),
    "saved": dict(r=2, lora_alpha=2, target_modules=["q_proj"], modules_to_save=["lm_head"]),
}

# What our recipes may say and a PEFT list may not: the saved folder names the modules instead.
WIDER = {
    "all linears and tables": dict(r=2, lora_alpha=4, target_modules=["all-linear", "embed_tokens", "lm_head"]),
    "names and expressions": dict(r=2, lora_alpha=4, target_modules=[r".*\.0\..*_proj", "down_proj", "lm_head"],
                                  exclude_modules=["k_proj", ".*o_proj"], layers_to_transform=[0, 1]),
}


def stir(parameters):
    """Adapters begin as the identity: move every tensor."""
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for parameter in parameters:
            parameter.add_(0.1 * torch.randn(parameter.shape, generator=generator))


@pytest.mark.parametrize("layout", LORAS)
def test_peft_adapter_loads_in_ours(layout, tmp_path):
    base = make("llama")
    base.save_pretrained(tmp_path / "base")
    model = peft.get_peft_model(base, peft.LoraConfig(task_type="CAUSAL_LM", **LORAS[layout]))
    stir(p for p in model.parameters() if p.requires_grad)
    model.save_pretrained(tmp_path / "adapter", save_embedding_layers=False)
    ours = bitrain.open_model(tmp_path / "base", dtype="float32")
    bitrain.load_adapter(ours, tmp_path / "adapter")
    expected = theirs(model.eval())
    close(ours.logits(ROWS), expected)
    ours.merge()
    close(ours.logits(ROWS), expected)


@pytest.mark.parametrize("layout", LORAS | WIDER)
def test_our_adapter_loads_in_peft(layout, tmp_path):
    make("llama").save_pretrained(tmp_path / "base")
    ours = bitrain.open_model(tmp_path / "base", dtype="float32")
    ours.attach_lora((LORAS | WIDER)[layout])
    stir(ours.trainable_parameters().values())
    bitrain.save_adapter(ours, tmp_path / "adapter", base=str(tmp_path / "base"))
    base = transformers.AutoModelForCausalLM.from_pretrained(tmp_path / "base", dtype=torch.float32)
    model = peft.PeftModel.from_pretrained(base, tmp_path / "adapter").eval()
    close(theirs(model), ours.logits(ROWS))
    ours.merge()
    close(theirs(model.merge_and_unload()), ours.logits(ROWS))


# On a base whose head is the embedding.
TIED_LORAS = {
    "saved": dict(modules_to_save=["embed_tokens"], ensure_weight_tying=True),
    "saved by its path": dict(modules_to_save=["model.embed_tokens"], ensure_weight_tying=True),
    "rows": dict(trainable_token_indices={"embed_tokens": [3, 9]}),
    "rows, ensured": dict(trainable_token_indices={"embed_tokens": [3, 9]}, ensure_weight_tying=True),
    "adapted": dict(target_modules=["q_proj", "embed_tokens"]),
    "ensured in vain": dict(ensure_weight_tying=True),
}


def tied_adapter(folder, **keys):
    base = make("tied")
    base.save_pretrained(folder / "base")
    model = peft.get_peft_model(base, peft.LoraConfig(
        task_type="CAUSAL_LM", **{"r": 2, "lora_alpha": 2, "target_modules": ["q_proj"], **keys}))
    stir(p for p in model.parameters() if p.requires_grad)
    model.save_pretrained(folder / "adapter")
    return model.eval()


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("layout", TIED_LORAS)
def test_adapters_of_a_tied_base(layout, tmp_path):
    """Both ways: a head that is trained with the embedding stays one with it in PEFT too."""
    expected = theirs(tied_adapter(tmp_path, **TIED_LORAS[layout]))
    ours = bitrain.open_model(tmp_path / "base", dtype="float32")
    bitrain.load_adapter(ours, tmp_path / "adapter")
    close(ours.logits(ROWS), expected)
    bitrain.save_adapter(ours, tmp_path / "again", base=str(tmp_path / "base"))
    base = transformers.AutoModelForCausalLM.from_pretrained(tmp_path / "base", dtype=torch.float32)
    close(theirs(peft.PeftModel.from_pretrained(base, tmp_path / "again").eval()), expected)
    ours.merge()
    close(ours.logits(ROWS), expected)


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("keys, what", [
    (dict(modules_to_save=["embed_tokens"]), "ensure_weight_tying is not true"),
    (dict(modules_to_save=["embed_tokens", "lm_head"]), "ensure_weight_tying is not true"),
    (dict(modules_to_save=["lm_head"]), "ensure_weight_tying is not true"),
    (dict(target_modules=["q_proj", "embed_tokens"], ensure_weight_tying=True), "ensure_weight_tying with an adapter on"),
])
def test_adapters_that_part_a_tied_base_are_refused(keys, what, tmp_path):
    tied_adapter(tmp_path, **keys)
    ours = bitrain.open_model(tmp_path / "base", dtype="float32")
    with pytest.raises(bitrain.UnsupportedError, match=what):
        bitrain.load_adapter(ours, tmp_path / "adapter")


def test_a_tied_head_with_other_numbers_is_refused(tmp_path):
    tied_adapter(tmp_path, **TIED_LORAS["saved"])
    path = tmp_path / "adapter" / "adapter_model.safetensors"
    tensors = safetensors.torch.load_file(path)
    tensors["base_model.model.lm_head.weight"] = tensors["base_model.model.lm_head.weight"] + 1
    safetensors.torch.save_file(tensors, path)
    with pytest.raises(bitrain.FormatError, match="have other numbers in the file"):
        bitrain.load_adapter(bitrain.open_model(tmp_path / "base", dtype="float32"), tmp_path / "adapter")


def test_an_adapter_inside_a_model_folder_is_refused(tmp_path):
    tied_adapter(tmp_path)
    (tmp_path / "base" / "adapter_config.json").write_bytes((tmp_path / "adapter" / "adapter_config.json").read_bytes())
    with pytest.raises(bitrain.UnsupportedError, match="adapter_config.json beside config.json"):
        bitrain.open_model(tmp_path / "base")


@pytest.mark.parametrize("block, what", [(None, ""), ({}, "load_in_4bit is not true"), (
    {"quant_method": "bitsandbytes", "load_in_4bit": False, "load_in_8bit": False}, "remove quantization_config")])
def test_quantization_configs_that_ask_for_nothing(block, what, tmp_path):
    model = make("llama")
    model.save_pretrained(tmp_path)
    edited(tmp_path / "config.json", quantization_config=block)
    if not what:
        close(bitrain.open_model(tmp_path, dtype="float32").logits(ROWS), theirs(model))
        return
    with pytest.raises(bitrain.UnsupportedError, match=what):
        bitrain.open_model(tmp_path)


@pytest.mark.parametrize("how", [True, False, "gaussian", "orthogonal", "mica", "pissa", "pissa_niter_4", "olora", "OLoRA"])
def test_initialisations_of_peft(how, tmp_path):
    """Those that take from the base what they give to the adapter are refused, the others compute as in PEFT."""
    make("llama").save_pretrained(tmp_path / "base")
    base = transformers.AutoModelForCausalLM.from_pretrained(tmp_path / "base", dtype=torch.float32)
    before = base.state_dict()["model.layers.0.self_attn.q_proj.weight"].clone()
    model = peft.get_peft_model(base, peft.LoraConfig(
        task_type="CAUSAL_LM", r=4, lora_alpha=8, target_modules=["q_proj"], init_lora_weights=how))
    after = model.state_dict()["base_model.model.model.layers.0.self_attn.q_proj.base_layer.weight"]
    stir(p for p in model.parameters() if p.requires_grad)
    model.save_pretrained(tmp_path / "adapter")
    ours = bitrain.open_model(tmp_path / "base", dtype="float32")
    if torch.equal(before, after):
        bitrain.load_adapter(ours, tmp_path / "adapter")
        close(ours.logits(ROWS), theirs(model.eval()))
    else:
        assert str(how).lower().startswith(("pissa", "olora"))
        with pytest.raises(bitrain.UnsupportedError, match=f'init_lora_weights "{how}" is not supported'):
            bitrain.load_adapter(ours, tmp_path / "adapter")


def test_every_key_of_peft_is_decided(tmp_path):
    """A key that a newer PEFT brings is refused when it asks for something; those of the pinned one are known."""
    make("llama").save_pretrained(tmp_path / "base")
    ours = bitrain.open_model(tmp_path / "base", dtype="float32")
    ours.attach_lora(LORAS["linears"])
    bitrain.save_adapter(ours, tmp_path / "adapter", base="base")
    path = tmp_path / "adapter" / "adapter_config.json"
    saved = path.read_text()
    for field in dataclasses.fields(peft.LoraConfig):
        edited(path, **{field.name: {"something": 1}})
        try:
            bitrain.load_adapter(bitrain.open_model(tmp_path / "base"), tmp_path / "adapter")
        except bitrain.Error as error:
            assert field.name in str(error) and "not known here" not in str(error)
        path.write_text(saved)
    edited(path, brand_new={"something": 1})
    with pytest.raises(bitrain.UnsupportedError, match="'brand_new'.* is not known here"):
        bitrain.load_adapter(bitrain.open_model(tmp_path / "base"), tmp_path / "adapter")


def test_tables_that_peft_saves_beside_an_adapter(tmp_path):
    base = make("llama")
    base.save_pretrained(tmp_path / "base")
    model = peft.get_peft_model(base, peft.LoraConfig(task_type="CAUSAL_LM", **LORAS["everywhere"]))
    stir(model.parameters())  # The tables under the adapter, too.
    model.save_pretrained(tmp_path / "adapter", save_embedding_layers=True)
    ours = bitrain.open_model(tmp_path / "base", dtype="float32")
    bitrain.load_adapter(ours, tmp_path / "adapter")
    tables = {"model.embed_tokens.weight": "model.embed_tokens", "lm_head.weight": "lm_head"}
    for name, path in tables.items():
        assert torch.equal(ours.tensors()[name], model.base_model.model.get_submodule(path).base_layer.weight)


def test_our_adapter_comes_back(tmp_path):
    make("qwen2").save_pretrained(tmp_path / "base")
    first = bitrain.open_model(tmp_path / "base", dtype="float32")
    first.attach_lora(LORAS["everywhere"])
    stir(first.trainable_parameters().values())
    bitrain.save_adapter(first, tmp_path / "adapter")
    second = bitrain.open_model(tmp_path / "base", dtype="float32")
    bitrain.load_adapter(second, tmp_path / "adapter")
    for a, b in zip(first.logits(ROWS), second.logits(ROWS), strict=True):
        assert torch.equal(a, b)


def test_packed_base_opens_in_transformers(tmp_path):
    """Our NF4 folder is a bitsandbytes checkpoint for transformers."""
    torch.manual_seed(0)
    wide = {**SMALL, "hidden_size": 128, "intermediate_size": 256}  # bitsandbytes wants whole blocks in a row.
    transformers.LlamaForCausalLM(transformers.LlamaConfig(**wide)).save_pretrained(tmp_path / "base")
    ours = bitrain.open_model(tmp_path / "base", dtype="float32", quantize=True)
    bitrain.save_model(ours, tmp_path / "packed")
    again = bitrain.open_model(tmp_path / "packed", dtype="float32")
    for a, b in zip(ours.logits(ROWS), again.logits(ROWS), strict=True):
        assert torch.equal(a, b)
    model = transformers.AutoModelForCausalLM.from_pretrained(tmp_path / "packed", device_map="cpu").eval()
    assert any(type(m).__name__ == "Linear4bit" for m in model.modules())
    # In evaluation bitsandbytes multiplies in bfloat16 on the CPU, whatever the weights around it.
    close(theirs(model), ours.logits(ROWS), tolerance=2e-2)


def edited(path, **changes):
    config = json.loads(path.read_text())
    config.update(changes)
    path.write_text(json.dumps(config))


def test_bad_folders_say_what_is_wrong(tmp_path):
    base = tmp_path / "base"
    make("llama").save_pretrained(base)
    with pytest.raises(bitrain.IoError, match="is no folder"):
        bitrain.open_model(tmp_path / "nowhere")
    edited(base / "config.json", hidden_size=64)
    with pytest.raises(bitrain.FormatError, match="the model wants"):
        bitrain.open_model(base)
    edited(base / "config.json", hidden_size=32, num_hidden_layers=3)
    with pytest.raises(bitrain.FormatError, match="missing: model.layers.2"):
        bitrain.open_model(base)
    edited(base / "config.json", num_hidden_layers=1)
    with pytest.raises(bitrain.FormatError, match="unexpected: model.layers.1"):
        bitrain.open_model(base)
    edited(base / "config.json", model_type="gpt_neox")
    with pytest.raises(bitrain.UnsupportedError, match="gpt_neox"):
        bitrain.open_model(base)


def test_adapter_of_another_base_is_refused(tmp_path):
    make("llama").save_pretrained(tmp_path / "base")
    ours = bitrain.open_model(tmp_path / "base", dtype="float32")
    ours.attach_lora(LORAS["everywhere"])
    bitrain.save_adapter(ours, tmp_path / "adapter")
    torch.manual_seed(0)
    config = transformers.LlamaConfig(**{**SMALL, "vocab_size": 80})
    transformers.LlamaForCausalLM(config).save_pretrained(tmp_path / "larger")
    other = bitrain.open_model(tmp_path / "larger", dtype="float32")
    before = other.logits(ROWS)
    with pytest.raises(bitrain.ConfigError, match="another shape or vocabulary"):
        bitrain.load_adapter(other, tmp_path / "adapter")
    close(other.logits(ROWS), before, tolerance=0)
    edited(tmp_path / "adapter" / "adapter_config.json", peft_type="IA3")
    with pytest.raises(bitrain.UnsupportedError, match="IA3"):
        bitrain.load_adapter(ours, tmp_path / "adapter")


def test_patterns_that_match_nothing_list_the_modules(tmp_path):
    make("llama").save_pretrained(tmp_path)
    model = bitrain.open_model(tmp_path)
    with pytest.raises(bitrain.ConfigError, match="q_proj"):
        model.attach_lora({"target_modules": ["qproj"]})
