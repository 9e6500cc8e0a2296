"""What bitrain writes of a folder that others made: every key of every JSON file stays, but for the changes listed here.

Five kinds of folder, each opened and saved, extended, merged, adapted and exported. transformers must see the same
tokenizer and the same settings of generation in what is written.
"""

import json
import os
import subprocess
from pathlib import Path

import pytest
import sentencepiece
import torch
import transformers
from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers

import bitrain

PROGRAM = Path(os.environ["BITRAIN_BUILD_DIR"]) / "bin" / "bitrain"
LINES = [f"the {a} cat number {i} saw the {b} dog and the tree {i % 7}" for i in range(120)
         for a, b in (("old", "green"), ("small", "red"), ("quick", "lazy"))]
SPANISH = [f"el gato número {i} vio al perro pequeño y al árbol" for i in range(200)]
TEXTS = ["", " ", "the cat", " the  cat saw\nthe dog ", "THE Cat Àé", "日本語 हिन्दी 👩🏽‍🚀", "e\u0301 1234567890", "vio al perro"]
TEMPLATE = "{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content }}<|im_end|>\n{% endfor %}"
LLAMA = dict(hidden_size=32, intermediate_size=48, num_hidden_layers=2, num_attention_heads=2, num_key_value_heads=2,
             max_position_embeddings=128)
BERT = dict(hidden_size=32, intermediate_size=48, num_hidden_layers=1, num_attention_heads=2, max_position_embeddings=66)
# transformers 5 has settings in both; a file of version 4 or of another tool has more.
STRANGE = {"pretraining_tp": 1, "transformers_version": "4.44.0", "someone_elses": {"key": [1, 2]}}


def read(path):
    return json.loads(path.read_text(encoding="utf-8"))


def write(path, value):
    path.write_text(json.dumps(value, indent=2, ensure_ascii=False), encoding="utf-8")


def update(path, **keys):
    write(path, {**(read(path) if path.exists() else {}), **keys})


def finish(folder, model, generation=None):
    """Weights and configuration, with keys that bitrain does not know."""
    torch.manual_seed(0)
    model.save_pretrained(folder)
    update(folder / "config.json", **STRANGE)
    if generation:
        write(folder / "generation_config.json", generation)


def byte_level(folder, pattern, specials, normalizer=None):
    tokenizer = Tokenizer(models.BPE())
    if normalizer:
        tokenizer.normalizer = normalizer
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence([
        pre_tokenizers.Split(Regex(pattern), "isolated"), pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)])
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.post_processor = processors.ByteLevel(trim_offsets=False)
    tokenizer.train_from_iterator(LINES, trainers.BpeTrainer(
        vocab_size=400, initial_alphabet=pre_tokenizers.ByteLevel.alphabet(), show_progress=False))
    tokenizer.add_special_tokens([AddedToken(token, special=True, normalized=False) for token in specials])
    tokenizer.save(str(folder / "tokenizer.json"))
    return tokenizer


def added(tokenizer):
    return {str(id): {"content": token.content, "lstrip": token.lstrip, "normalized": token.normalized,
                      "rstrip": token.rstrip, "single_word": token.single_word, "special": token.special}
            for id, token in tokenizer.get_added_tokens_decoder().items()}


PATTERN = (r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+"
           r"|\s+(?!\S)|\s+")


def llama2(folder):
    """tokenizer.model alone, as the slow tokenizers saved it."""
    with open(folder / "tokenizer.model", "wb") as file:
        sentencepiece.SentencePieceTrainer.train(
            sentence_iterator=iter(LINES), model_writer=file, vocab_size=320, model_type="bpe", byte_fallback=True,
            normalization_rule_name="identity", remove_extra_whitespaces=False, hard_vocab_limit=False, minloglevel=2)
    write(folder / "tokenizer_config.json", {
        "add_bos_token": True, "add_eos_token": False, "bos_token": "<s>", "chat_template": TEMPLATE,
        "clean_up_tokenization_spaces": False, "eos_token": "</s>", "legacy": False, "model_max_length": 4096,
        "pad_token": "<unk>", "padding_side": "left", "sp_model_kwargs": {}, "tokenizer_class": "LlamaTokenizer",
        "unk_token": "<unk>", "use_default_system_prompt": False})
    write(folder / "special_tokens_map.json", {
        "bos_token": "<s>", "eos_token": "</s>", "pad_token": "<unk>",
        "unk_token": {"content": "<unk>", "lstrip": False, "normalized": False, "rstrip": False, "single_word": False}})
    finish(folder, transformers.LlamaForCausalLM(transformers.LlamaConfig(**LLAMA, vocab_size=320)),
           {"bos_token_id": 1, "eos_token_id": 2, "pad_token_id": 0, "do_sample": True, "temperature": 0.6, "top_p": 0.9,
            "transformers_version": "4.31.0"})


def llama3(folder):
    """tokenizer.json with reserved tokens, the chat template in a file of its own, EOS as a list."""
    specials = ["<|begin_of_text|>", "<|end_of_text|>", "<|eot_id|>", "<|start_header_id|>", "<|end_header_id|>", "<|finetune_pad|>"]
    tokenizer = byte_level(folder, PATTERN, specials)
    begin, end, eot, *_, pad = (tokenizer.token_to_id(token) for token in specials)
    write(folder / "tokenizer_config.json", {
        "added_tokens_decoder": added(tokenizer), "bos_token": specials[0], "clean_up_tokenization_spaces": True,
        "eos_token": "<|eot_id|>", "model_input_names": ["input_ids", "attention_mask"], "model_max_length": 131072,
        "pad_token": specials[-1], "padding_side": "left", "tokenizer_class": "PreTrainedTokenizerFast"})
    write(folder / "special_tokens_map.json", {"bos_token": specials[0], "eos_token": "<|eot_id|>", "pad_token": specials[-1]})
    (folder / "chat_template.jinja").write_text(TEMPLATE.replace("im_start", "start_header_id"))
    rope = {"rope_type": "llama3", "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0,
            "original_max_position_embeddings": 64}
    config = transformers.LlamaConfig(**LLAMA, vocab_size=tokenizer.get_vocab_size(), rope_parameters={**rope, "rope_theta": 5e5})
    finish(folder, transformers.LlamaForCausalLM(config),
           {"bos_token_id": begin, "eos_token_id": [end, eot], "pad_token_id": pad, "do_sample": True, "temperature": 0.6,
            "top_p": 0.9, "transformers_version": "4.45.0"})
    config = read(folder / "config.json")  # As version 4 wrote it.
    del config["rope_parameters"]
    write(folder / "config.json", {**config, "rope_theta": 5e5, "rope_scaling": rope, "bos_token_id": begin,
                                   "eos_token_id": [end, eot], "torch_dtype": config.pop("dtype")})


def qwen2(folder):
    """tokenizer.json with NFC beside vocab.json and merges.txt, embeddings tied."""
    specials = ["<|endoftext|>", "<|im_start|>", "<|im_end|>"]
    tokenizer = byte_level(folder, PATTERN.replace("{1,3}", ""), specials, normalizers.NFC())
    tokenizer.model.save(str(folder))
    end, _, turn = (tokenizer.token_to_id(token) for token in specials)
    write(folder / "tokenizer_config.json", {
        "add_bos_token": False, "add_prefix_space": False, "added_tokens_decoder": added(tokenizer),
        "additional_special_tokens": ["<|im_start|>", "<|im_end|>"], "bos_token": None, "chat_template": TEMPLATE,
        "clean_up_tokenization_spaces": False, "eos_token": "<|im_end|>", "errors": "replace", "model_max_length": 32768,
        "pad_token": "<|endoftext|>", "split_special_tokens": False, "tokenizer_class": "Qwen2Tokenizer", "unk_token": None})
    config = transformers.Qwen2Config(**LLAMA, vocab_size=tokenizer.get_vocab_size() + 5, tie_word_embeddings=True,
                                      bos_token_id=end, eos_token_id=turn)
    finish(folder, transformers.Qwen2ForCausalLM(config),
           {"bos_token_id": end, "do_sample": True, "eos_token_id": [turn, end], "pad_token_id": end, "repetition_penalty": 1.1,
            "temperature": 0.7, "top_k": 20, "top_p": 0.8, "transformers_version": "4.37.0"})


def bert(folder):
    """vocab.txt and tokenizer.json, a masked language model."""
    words = sorted({word for line in LINES for word in line.split()} | {"vio", "al"})
    letters = list("abcdefghijklmnopqrstuvwxyz0123456789")
    vocabulary = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *letters, *("##" + letter for letter in letters),
                  *(word for word in words if len(word) > 1)]
    (folder / "vocab.txt").write_text("\n".join(vocabulary) + "\n")
    transformers.BertTokenizerFast(str(folder / "vocab.txt")).save_pretrained(folder)
    update(folder / "tokenizer_config.json", never_split=None, tokenize_chinese_chars=True, strip_accents=None,
           do_lower_case=True, model_max_length=64, do_basic_tokenize=True)
    write(folder / "special_tokens_map.json", {"cls_token": "[CLS]", "mask_token": "[MASK]", "pad_token": "[PAD]",
                                               "sep_token": "[SEP]", "unk_token": "[UNK]"})
    finish(folder, transformers.BertForMaskedLM(transformers.BertConfig(**BERT, vocab_size=len(vocabulary))))
    update(folder / "config.json", gradient_checkpointing=False, position_embedding_type="absolute")


def xlm_roberta(folder):
    """A Unigram tokenizer.json with the special tokens and offsets of fairseq."""
    vocabulary = [("<s>", 0.0), ("<pad>", 0.0), ("</s>", 0.0), ("<unk>", 0.0)]
    model = Tokenizer(models.Unigram())
    model.pre_tokenizer = pre_tokenizers.Metaspace()
    model.train_from_iterator(LINES + SPANISH, trainers.UnigramTrainer(vocab_size=200, special_tokens=["<unk>"], unk_token="<unk>",
                                                                       show_progress=False))
    pieces = json.loads(model.to_str())["model"]["vocab"]
    vocabulary += [(piece, score) for piece, score in pieces if piece != "<unk>"] + [("<mask>", 0.0)]
    transformers.XLMRobertaTokenizerFast(vocab=vocabulary).save_pretrained(folder)
    update(folder / "tokenizer_config.json", model_max_length=64, sp_model_kwargs={})
    config = transformers.XLMRobertaConfig(**BERT, vocab_size=len(vocabulary), type_vocab_size=1)
    finish(folder, transformers.XLMRobertaForMaskedLM(config))


FOLDERS = {make.__name__: make for make in (llama2, llama3, qwen2, bert, xlm_roberta)}
DECODERS = ("llama2", "llama3", "qwen2")
ENCODERS = ("bert", "xlm_roberta")


@pytest.fixture(scope="module")
def folder_of(tmp_path_factory):
    made = {}

    def folder(name):
        if name not in made:
            made[name] = tmp_path_factory.mktemp(name)
            FOLDERS[name](made[name])
        return made[name]

    return folder


def changed_keys(before, after):
    """file:key of everything that is not in `after` as it was in `before`, and the JSON files that are gone."""
    changes = set()
    for path in sorted(before.glob("*.json")):
        if path.name.endswith(".index.json"):
            continue
        if not (after / path.name).exists():
            changes.add(path.name)
            continue
        old, new = read(path), read(after / path.name)
        if isinstance(old, list):  # modules.json
            changes |= set() if new == old else {path.name}
            continue
        changes |= {f"{path.name}:{key}" for key in old if key not in new or new[key] != old[key]}
    return changes


def same_in_transformers(before, after, texts=TEXTS):
    old, new = (transformers.AutoTokenizer.from_pretrained(folder) for folder in (before, after))
    ours = bitrain.Tokenizer.open(str(after))
    for text in [*texts, *old.all_special_tokens, "the " + (old.eos_token or old.sep_token) + " cat"]:
        expected = old(text, add_special_tokens=False)["input_ids"]
        assert new(text, add_special_tokens=False)["input_ids"] == expected, text
        assert ours.encode(text) == expected, text
        assert new(text)["input_ids"] == old(text)["input_ids"], text
    for key in ("bos_token", "eos_token", "pad_token", "unk_token", "cls_token", "sep_token", "mask_token", "padding_side",
                "model_max_length", "chat_template", "clean_up_tokenization_spaces"):
        assert getattr(new, key, None) == getattr(old, key, None), key
    if (before / "generation_config.json").exists():
        assert read(after / "generation_config.json") == read(before / "generation_config.json")


def run(*arguments):
    result = subprocess.run([str(PROGRAM), *map(str, arguments)], capture_output=True, text=True,
                            env={**os.environ, "OMP_NUM_THREADS": "1"})
    assert result.returncode == 0, result.stdout + result.stderr


# What is changed on purpose, and why.
TOKENIZER = {
    "llama2": set(),
    "llama3": set(),
    # tokenizer.json holds the same vocabulary.
    "qwen2": {"vocab.json"},
    "bert": set(),
    "xlm_roberta": set(),
}


@pytest.mark.parametrize("name", FOLDERS)
def test_open_and_save(name, folder_of, tmp_path):
    folder = folder_of(name)
    if name in DECODERS:
        bitrain.save_model(bitrain.open_model(folder, tokenizer=True), tmp_path / "out")
    else:
        bitrain.save_masked_lm(bitrain.open_masked_lm(folder, tokenizer=True), tmp_path / "out")
    assert changed_keys(folder, tmp_path / "out") == TOKENIZER[name]
    same_in_transformers(folder, tmp_path / "out")
    if (folder / "chat_template.jinja").exists():
        assert (tmp_path / "out" / "chat_template.jinja").read_bytes() == (folder / "chat_template.jinja").read_bytes()


def test_extend_a_tokenizer_model(folder_of, tmp_path):
    folder = folder_of("llama2")
    run("vocab", "extend", folder, "--data", write_lines(tmp_path / "es.txt", SPANISH), "--pieces", 10, "--out", tmp_path / "out")
    assert changed_keys(folder, tmp_path / "out") == TOKENIZER["llama2"] | {"config.json:vocab_size"}
    same_in_transformers(folder, tmp_path / "out", ["", " ", "the cat", "THE"])  # Of the language it knew.
    assert len(transformers.AutoTokenizer.from_pretrained(tmp_path / "out")) == read(tmp_path / "out" / "config.json")["vocab_size"]


def write_lines(path, lines):
    path.write_text("".join(line + "\n" for line in lines), encoding="utf-8")
    return path


@pytest.mark.parametrize("name", ["llama3", "qwen2", "xlm_roberta"])
def test_extending_another_tokenizer_is_refused_by_name(name, folder_of, tmp_path):
    with pytest.raises(bitrain.Error, match="tokenizer|model_type 'xlm-roberta'"):
        bitrain.extend_vocabulary(folder_of(name), SPANISH, tmp_path / "out", pieces=10)
    assert not (tmp_path / "out").exists()


def test_extend_wordpiece(folder_of, tmp_path):
    folder = folder_of("bert")
    report = bitrain.extend_wordpiece(folder, SPANISH, tmp_path / "out", pieces=10)
    changes = changed_keys(folder, tmp_path / "out") - {"config.json", "generation_config.json"}  # No model is written.
    assert changes == TOKENIZER["bert"] | {"tokenizer.json:model"}
    assert len(transformers.AutoTokenizer.from_pretrained(tmp_path / "out")) == report["vocab_size"]


LORA = {"r": 2, "target_modules": ["q_proj", "v_proj"]}


@pytest.mark.parametrize("name", DECODERS)
def test_merge(name, folder_of, tmp_path):
    folder = folder_of(name)
    model = bitrain.open_model(folder)
    model.attach_lora(LORA)
    bitrain.save_adapter(model, tmp_path / "adapter", str(folder))
    run("merge", folder, "--adapter", tmp_path / "adapter", "--out", tmp_path / "out")
    assert changed_keys(folder, tmp_path / "out") == TOKENIZER[name]
    same_in_transformers(folder, tmp_path / "out")


@pytest.mark.parametrize("name", DECODERS)
def test_train_adapters(name, folder_of, tmp_path):
    folder = folder_of(name)
    pairs = [f"{a}\t{b}" for a, b in zip(LINES, SPANISH, strict=False)]
    side = {"path": str(write_lines(tmp_path / "pairs.tsv", pairs)), "format": "tsv"}
    write(tmp_path / "recipe.yaml", {
        "schema": 1, "name": "adapt", "base": str(folder), "dir": str(tmp_path / "run"), "dtype": "float32",
        "source": {**side, "column": 1, "language": "en"}, "target": {**side, "column": 2, "language": "es"},
        "held_out": {"every": 20, "max_documents": 4},
        "stages": {"adapt": {"recipe": "cpt", "from": "base", "quantize": {"enabled": False}, "lora": LORA,
                             "data": {"loader": {"sequence_length": 64, "rows_per_step": 2}}, "train": {"max_steps": 1}}}})
    run("run", tmp_path / "recipe.yaml")
    out = tmp_path / "run" / "adapt"
    # An adapter's folder has the tokenizer, and of the model only the name.
    assert changed_keys(folder, out) - {"config.json", "generation_config.json"} == TOKENIZER[name]
    assert read(out / "adapter_config.json")["base_model_name_or_path"] == str(folder)


@pytest.mark.parametrize("name", ENCODERS)
def test_export_to_sentence_transformers(name, folder_of, tmp_path):
    folder = folder_of(name)
    bitrain.save_encoder(bitrain.open_encoder(folder, tokenizer=True), tmp_path / "once")
    # The head of masked language modelling is left behind.
    assert changed_keys(folder, tmp_path / "once") == TOKENIZER[name] | {"config.json:architectures"}
    same_in_transformers(folder, tmp_path / "once")
    update(tmp_path / "once" / "config_sentence_transformers.json", prompts={"query": "q: "}, __version__={"pytorch": "2.1"})
    update(tmp_path / "once" / "sentence_bert_config.json", max_seq_length=40, strange=True)
    update(tmp_path / "once" / "1_Pooling" / "config.json", strange=[1])
    encoder = bitrain.open_encoder(tmp_path / "once", tokenizer=True)
    encoder.attach_lora({"r": 2, "target_modules": ["query"]})
    encoder.merge()
    bitrain.save_encoder(encoder, tmp_path / "twice")
    assert changed_keys(tmp_path / "once", tmp_path / "twice") == set()
    assert read(tmp_path / "twice" / "1_Pooling" / "config.json") == read(tmp_path / "once" / "1_Pooling" / "config.json")
