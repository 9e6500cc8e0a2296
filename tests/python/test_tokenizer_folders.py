"""Folders of tokenizers as people have them: every file counts as in AutoTokenizer, or is refused by name; saving changes nothing."""

import io
import json
import shutil
from pathlib import Path

import pytest
import sentencepiece
from tokenizers import AddedToken, Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers
from sentencepiece import sentencepiece_model_pb2 as sentencepiece_proto
from transformers import AutoTokenizer, GPT2Tokenizer

import bitrain

LINES = [f"the {a} cat number {i} saw the {b} dog and the tree {i % 7} = {i}" for i in range(120)
         for a, b in (("old", "green"), ("small", "red"), ("quick", "lazy"))] + ["Déjà vu, ÑANDÚ 中文 and ==== runs"] * 9

TEXTS = [
    "", " ", "  two  spaces  ", "the cat", " the cat", "THE Cat Àé", "\tTab\u2028line\u00a0nbsp\u3000wide", "x\n\ny\r\n z", "it's WE'LL don’t",
    "中文字符 the", "हिन्दी में", "e\u0301 a\u0308\u0323 n\u0303", "각힣", "ﬁ ﬃ ① ½", "👨‍👩‍👧 ☺️", "a\u200bb\u00adc", "1234567890", "=======----- " + "a" * 60,
    "▁under ▁ ▁▁", "<s> </s> <unk> <pad> [MASK] [PAD] <mask> <|im_start|>", "<s>the</s> cat<s>", "[CLS] the cat [SEP]",
    "<|im_start|>user\nthe dog<|im_end|>\n<|im_start|>assistant\n", "<|im_end|>the", "the<|im_end|>  the", "<|user|> the<tool>x <tool> y",
    "<|endoftext|>the <|endoftext|>",
]
ROLES = ("bos_token", "eos_token", "unk_token", "pad_token", "cls_token", "sep_token", "mask_token")


def write(folder, **files):
    folder.mkdir(parents=True, exist_ok=True)
    for name, value in files.items():
        path = folder / name.replace("__", ".")
        if isinstance(value, bytes):
            path.write_bytes(value)
        else:
            path.write_text(value if isinstance(value, str) else json.dumps(value, ensure_ascii=False))
    return folder


def sentencepiece_bytes(**options):
    out = io.BytesIO()
    settings = dict(vocab_size=330, model_type="bpe", byte_fallback=True, normalization_rule_name="identity",
                    remove_extra_whitespaces=False, hard_vocab_limit=False, minloglevel=2)
    sentencepiece.SentencePieceTrainer.train(sentence_iterator=iter(LINES), model_writer=out, **(settings | options))
    return out.getvalue()


@pytest.fixture(scope="session")
def model():
    return sentencepiece_bytes()


def pieces_of(model):
    proto = sentencepiece_proto.ModelProto()
    proto.ParseFromString(model)
    return proto.pieces


def llama_json(model):
    """Llama 2's tokenizer.json: normaliser Prepend and Replace."""
    pieces = pieces_of(model)
    normal = [p.piece for p in sorted((p for p in pieces if p.type == 1), key=lambda p: -p.score)]
    have = set(normal)
    merges = [(s[:c], s[c:]) for s in normal for c in range(len(s) - 1, 0, -1) if s[:c] in have and s[c:] in have]
    t = Tokenizer(models.BPE({p.piece: i for i, p in enumerate(pieces)}, merges, unk_token="<unk>", fuse_unk=True, byte_fallback=True))
    t.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
    t.decoder = decoders.Sequence([decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)])
    t.post_processor = processors.TemplateProcessing(single="<s> $A", pair="<s> $A <s>:1 $B:1", special_tokens=[("<s>", 1)])
    t.add_special_tokens([AddedToken(x, special=True, normalized=False) for x in ("<unk>", "<s>", "</s>")])
    return json.loads(t.to_str())


def byte_level_json():
    t = Tokenizer(models.BPE())
    t.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    t.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(vocab_size=420, initial_alphabet=pre_tokenizers.ByteLevel.alphabet(), show_progress=False,
                                  special_tokens=["<|endoftext|>", "<s>", "</s>", "<unk>", "<pad>", "<mask>"])
    t.train_from_iterator(LINES, trainer)
    return json.loads(t.to_str())


WORDS = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "the", "The", "cat", "THE", "Cat", "##s", "déjà", "deja", "à", "a", "é", "e", "中", "文", "中文字符",
         "字", "符", "=", "-", "dog", "in", "हिन्दी", "x", "y", "z", "it", "'", "s", "1", "##2", "ñandú", "nandu"]


def bert_json(words=WORDS, **normalizer):
    t = Tokenizer(models.WordPiece({w: i for i, w in enumerate(words)}, unk_token="[UNK]"))
    t.normalizer = normalizers.BertNormalizer(**normalizer)
    t.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    t.decoder = decoders.WordPiece()
    t.post_processor = processors.BertProcessing(("[SEP]", 3), ("[CLS]", 2))
    t.add_special_tokens([w for w in words if w.startswith("[")])
    return json.loads(t.to_str())


def unigram_json(scheme="always"):
    proto = sentencepiece_proto.ModelProto()
    proto.ParseFromString(sentencepiece_bytes(model_type="unigram", byte_fallback=False, normalization_rule_name="nmt_nfkc", vocab_size=200))
    vocab = [("<s>", 0.0), ("<pad>", 0.0), ("</s>", 0.0), ("<unk>", 0.0)] + [(p.piece, p.score) for p in proto.pieces[3:]] + [("<mask>", 0.0)]
    t = Tokenizer(models.Unigram(vocab, 3))
    t.normalizer = normalizers.Precompiled(proto.normalizer_spec.precompiled_charsmap)
    t.pre_tokenizer = pre_tokenizers.Sequence([pre_tokenizers.WhitespaceSplit(), pre_tokenizers.Metaspace(prepend_scheme=scheme)])
    t.decoder = decoders.Metaspace(prepend_scheme=scheme)
    t.post_processor = processors.TemplateProcessing(single="<s> $A </s>", pair="<s> $A </s> </s> $B </s>", special_tokens=[("<s>", 0), ("</s>", 2)])
    t.add_special_tokens(["<s>", "<pad>", "</s>", "<unk>"])
    t.add_special_tokens([AddedToken("<mask>", lstrip=True, special=True, normalized=False)])
    return json.loads(t.to_str())


def same(ours, auto, texts=TEXTS):
    wrong = [(text, ours.encode(text), auto(text, add_special_tokens=False)["input_ids"]) for text in texts
             if ours.encode(text) != auto(text, add_special_tokens=False)["input_ids"]]
    assert wrong == []
    framed = [(text, ours.encode(text, add_special_tokens=True), auto(text)["input_ids"]) for text in texts
              if ours.encode(text, add_special_tokens=True) != auto(text)["input_ids"]]
    assert framed == []
    assert [ours.encode(t, split_special_tokens=True) for t in texts] == [
        auto(t, add_special_tokens=False, split_special_tokens=True)["input_ids"] for t in texts]
    assert ours.vocab_size == len(auto)


def kept(before, after):
    for key in (*ROLES, "padding_side", "truncation_side", "model_max_length", "chat_template", "add_bos_token", "add_eos_token", "split_special_tokens"):
        assert getattr(before, key, None) == getattr(after, key, None), key


def check(folder, out, texts=TEXTS):
    """Ids as AutoTokenizer's, and after saving both read the same again."""
    auto = AutoTokenizer.from_pretrained(folder)
    ours = bitrain.Tokenizer.open(str(folder))
    same(ours, auto, texts)
    out.mkdir()
    if (folder / "config.json").exists():
        shutil.copy(folder / "config.json", out)
    ours.save(str(out))
    again, reopened = AutoTokenizer.from_pretrained(out), bitrain.Tokenizer.open(str(out))
    kept(auto, again)
    same(ours, again, texts)
    same(reopened, again, texts)
    return ours


# --- flags of tokenizer_config.json that rule over tokenizer.json ------------------------------------------

FLAGS = {
    "LlamaTokenizer": [{}, {"add_prefix_space": False}, {"add_prefix_space": None}, {"legacy": True}, {"legacy": False}, {"add_bos_token": True},
                       {"add_bos_token": False, "add_eos_token": True}, {"unk_token": None}, {"split_special_tokens": True}],
    "BertTokenizer": [{}, {"do_lower_case": False}, {"do_lower_case": True, "strip_accents": False}, {"strip_accents": True, "do_lower_case": False},
                      {"tokenize_chinese_chars": False}, {"mask_token": "[M]"}, {"do_basic_tokenize": False}, {"never_split": ["cat"]}],
    "DistilBertTokenizer": [{}, {"do_lower_case": False}],
    "GPT2Tokenizer": [{}, {"add_prefix_space": True}, {"add_bos_token": True}, {"pad_token": "<pad>"}],
    "Qwen2Tokenizer": [{}, {"add_prefix_space": True}, {"pad_token": None}],
    "GPTNeoXTokenizer": [{}, {"add_prefix_space": True}, {"add_bos_token": True}],
    "RobertaTokenizer": [{}, {"add_prefix_space": True}, {"trim_offsets": False}],
    "XLMRobertaTokenizer": [{}, {"add_prefix_space": False}],
    "CamembertTokenizer": [{}, {"add_prefix_space": False}, {"extra_special_tokens": ["<x>"]}, {"mask_token": "<m>"}],
    "GemmaTokenizer": [{}, {"bos_token": "<s>", "eos_token": "</s>"}],
    "PreTrainedTokenizerFast": [{}, {"add_prefix_space": True}, {"legacy": False}, {"do_lower_case": True}, {"bos_token": "<s>", "pad_token": "<new>"}],
    "SomebodysTokenizer": [{}, {"add_prefix_space": False}],
}


def json_for(name, model):
    if "Bert" in name:
        return bert_json(lowercase=False, strip_accents=False, handle_chinese_chars=True)
    if name in ("XLMRobertaTokenizer", "CamembertTokenizer"):
        return unigram_json()
    if name in ("LlamaTokenizer", "GemmaTokenizer", "PreTrainedTokenizerFast", "SomebodysTokenizer"):
        return llama_json(model)
    return byte_level_json()


@pytest.mark.parametrize(("name", "flags"), [(name, flags) for name, all_flags in FLAGS.items() for flags in all_flags], ids=str)
def test_flags_rule_as_in_auto_tokenizer(name, flags, model, tmp_path):
    folder = write(tmp_path / "in", tokenizer__json=json_for(name, model), tokenizer_config__json={"tokenizer_class": name, **flags},
                   config__json={"model_type": "llama"})
    check(folder, tmp_path / "out")


@pytest.mark.parametrize("kind", ["bert", "roberta", "xlm-roberta", "qwen2", "gpt2", "mistral", "llama", "electra"])
def test_the_model_names_the_class(kind, model, tmp_path):
    files = {"bert": bert_json(lowercase=False), "electra": bert_json(lowercase=False), "xlm-roberta": unigram_json(),
             "mistral": llama_json(model), "llama": llama_json(model)}
    folder = write(tmp_path / "in", tokenizer__json=files.get(kind) or byte_level_json(), config__json={"model_type": kind})
    check(folder, tmp_path / "out")


@pytest.mark.parametrize(("kind", "name"), [("mistral", "LlamaTokenizer"), ("qwen2", "GPT2Tokenizer"), ("bert", "PreTrainedTokenizerFast"),
                                            ("roberta", "GPT2Tokenizer"), ("phi3", "LlamaTokenizer"), ("llama", "LlamaTokenizerFast")])
def test_the_model_against_the_class(kind, name, model, tmp_path):
    made = bert_json(lowercase=False) if kind == "bert" else byte_level_json() if "GPT2" in name else llama_json(model)
    folder = write(tmp_path / "in", tokenizer__json=made, tokenizer_config__json={"tokenizer_class": name}, config__json={"model_type": kind})
    check(folder, tmp_path / "out")


def test_byte_level_under_llama(tmp_path):
    folder = write(tmp_path / "in", tokenizer__json=byte_level_json(), config__json={"model_type": "llama"},
                   tokenizer_config__json={"tokenizer_class": "LlamaTokenizerFast", "eos_token": "</s>"})
    check(folder, tmp_path / "out")


@pytest.mark.parametrize("name", ["T5Tokenizer", "AlbertTokenizer", "BertJapaneseTokenizer", "CodeLlamaTokenizer", "MPNetTokenizerFast"])
def test_classes_of_other_rules_are_refused(name, model, tmp_path):
    folder = write(tmp_path / "in", tokenizer__json=llama_json(model), tokenizer_config__json={"tokenizer_class": name})
    with pytest.raises(bitrain.Error, match=f"(?s)tokenizer_config.json.*{name}.*PreTrainedTokenizerFast"):
        bitrain.Tokenizer.open(str(folder))


def test_a_class_over_another_kind_of_model_is_refused(model, tmp_path):
    folder = write(tmp_path / "in", tokenizer__json=unigram_json(), tokenizer_config__json={"tokenizer_class": "LlamaTokenizer"})
    with pytest.raises(bitrain.Error, match="(?s)tokenizer.json.*Unigram.*tokenizer_config.json.*LlamaTokenizer.*BPE"):
        bitrain.Tokenizer.open(str(folder))


# --- added tokens -----------------------------------------------------------------------------------------


def plain(text, **more):
    return {"content": text, "lstrip": False, "normalized": False, "rstrip": False, "single_word": False, "special": True, **more}


BASIC = {"tokenizer_class": "LlamaTokenizer", "bos_token": "<s>", "eos_token": "<|im_end|>", "unk_token": "<unk>", "pad_token": "<pad>",
         "add_bos_token": True, "add_eos_token": False, "model_max_length": 256, "padding_side": "right", "made_by": {"a": [1]},
         "chat_template": "{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content }}<|im_end|>\n{% endfor %}"}


def chat_folders(model):
    n = len(pieces_of(model))
    added = {"<pad>": n, "<|im_start|>": n + 1, "<|im_end|>": n + 2}
    decoder = {str(i): plain(t) for t, i in ({"<unk>": 0, "<s>": 1, "</s>": 2} | added).items()}
    yield "added", {"tokenizer__model": model, "tokenizer_config__json": BASIC, "added_tokens__json": added}
    yield "map", {"tokenizer__model": model, "tokenizer_config__json": {"tokenizer_class": "LlamaTokenizer"}, "added_tokens__json": added,
                  "special_tokens_map__json": {"bos_token": plain("<s>"), "eos_token": "<|im_end|>", "pad_token": "<pad>",
                                               "additional_special_tokens": ["<|im_start|>"]}}
    yield "decoder", {"tokenizer__model": model, "tokenizer_config__json": BASIC | {"added_tokens_decoder": decoder}}
    yield "flags", {"tokenizer__model": model, "tokenizer_config__json": BASIC | {"added_tokens_decoder": {
        str(n): plain("<|im_start|>", special=False, lstrip=True), str(n + 1): plain("<|im_end|>", rstrip=True),
        str(n + 2): plain("<tool>", special=False, normalized=True, single_word=True)}, "pad_token": "<unk>"}}
    yield "legacy", {"tokenizer__model": model, "tokenizer_config__json": BASIC | {"added_tokens_decoder": decoder, "legacy": True}}
    yield "no_prefix", {"tokenizer__model": model, "tokenizer_config__json": BASIC | {"added_tokens_decoder": decoder, "add_prefix_space": False}}
    yield "generic", {"tokenizer__model": model, "tokenizer_config__json": BASIC | {"added_tokens_decoder": decoder,
                                                                                     "tokenizer_class": "PreTrainedTokenizerFast"}}
    yield "extra", {"tokenizer__model": model, "tokenizer_config__json": BASIC | {"extra_special_tokens": ["<|im_start|>", "<|user|>"]}}
    yield "named", {"tokenizer__model": model, "tokenizer_config__json": BASIC | {"extra_special_tokens": {"image_token": "<|user|>"},
                                                                                  "boi_token": "<tool>"}}
    yield "json", {"tokenizer__json": llama_json(model), "tokenizer_config__json": BASIC | {"added_tokens_decoder": decoder}}
    yield "json_generic", {"tokenizer__json": llama_json(model), "tokenizer_config__json": BASIC | {
        "tokenizer_class": "PreTrainedTokenizerFast", "additional_special_tokens": ["<|im_start|>"]}}
    yield "both", {"tokenizer__model": model, "tokenizer__json": llama_json(model), "added_tokens__json": added,
                   "tokenizer_config__json": BASIC | {"tokenizer_class": "PreTrainedTokenizerFast"}}
    yield "both_llama", {"tokenizer__model": model, "tokenizer__json": llama_json(model), "tokenizer_config__json": BASIC | {"added_tokens_decoder": decoder}}


CHAT = ["added", "map", "decoder", "flags", "legacy", "no_prefix", "generic", "extra", "named", "json", "json_generic", "both", "both_llama"]


def known_texts(kind):
    """Where special_tokens_map.json alone replaces the class's EOS, AutoTokenizer still reads that where a text spells it."""
    return [text for text in TEXTS if kind != "map" or "</s>" not in text]


@pytest.mark.parametrize("kind", CHAT)
def test_added_tokens(kind, model, tmp_path):
    folder = write(tmp_path / "in", config__json={"model_type": "llama"}, **dict(chat_folders(model))[kind])
    ours = check(folder, tmp_path / "out", known_texts(kind))
    assert ours.piece_to_id("<|im_end|>") >= len(pieces_of(model))
    for name in ("tokenizer_config.json", "added_tokens.json", "special_tokens_map.json", "tokenizer.model"):
        if (folder / name).exists():
            assert (folder / name).read_bytes() == (tmp_path / "out" / name).read_bytes()


@pytest.mark.parametrize("kind", [kind for kind in CHAT if kind not in ("generic", "no_prefix", "json", "json_generic")])
def test_extension_keeps_the_folder(kind, model, tmp_path):
    folder = write(tmp_path / "in", config__json={"model_type": "llama"}, **dict(chat_folders(model))[kind])
    shutil.copy(write(tmp_path / "tokenizer", **dict(chat_folders(model))[kind]) / "tokenizer_config.json", tmp_path)
    spanish = [f"el perro número {i} vio la casa y el árbol verde" for i in range(60)]
    report = bitrain.extend_vocabulary(str(tmp_path / "tokenizer"), spanish, str(tmp_path / "out"), pieces=20)
    before, after = AutoTokenizer.from_pretrained(folder), AutoTokenizer.from_pretrained(tmp_path / "out")
    ours = bitrain.Tokenizer.open(str(tmp_path / "out"))
    assert report["old_vocab_size"] == len(before)
    assert len(after) == ours.vocab_size == report["vocab_size"] > len(before)
    kept(before, after)
    same(ours, after, known_texts(kind) + spanish[:3] + [f"<|im_start|>{spanish[0]}<|im_end|>"])
    for token in range(len(pieces_of(model))):  # AutoTokenizer spells a normalised added token as normalised.
        assert before.convert_ids_to_tokens(token) == after.convert_ids_to_tokens(token) == ours.id_to_piece(token)
    assert kind == "map" or json.loads((tmp_path / "out" / "tokenizer_config.json").read_text())["made_by"] == {"a": [1]}


@pytest.mark.parametrize(("change", "message"), [
    ({"added_tokens__json": {"<|x|>": 7}}, "(?s)added_tokens.json.*'<|x|>' the id 7"),
    ({"added_tokens__json": {"<|x|>": 1000}}, "(?s)added_tokens.json.*'<|x|>' the id 1000.*without a gap"),
    ({"added_tokens__json": {"<|x|>": -1}}, "(?s)added_tokens.json.*the id of '<|x|>' is not a whole number"),
    ({"added_tokens__json": {"<|x|>": "9"}}, "(?s)added_tokens.json.*the id of '<|x|>' is not a whole number"),
    ({"added_tokens__json": ["<|x|>"]}, "added_tokens.json: not an object"),
    ({"added_tokens__json": "{"}, "added_tokens.json: not valid JSON"),
    ({"tokenizer_config__json": []}, "tokenizer_config.json: not an object"),
    ({"special_tokens_map__json": []}, "special_tokens_map.json: not an object"),
    ({"special_tokens_map__json": {"eos_token": 5}}, "special_tokens_map.json: 'eos_token' is neither"),
    ({"tokenizer_config__json": BASIC | {"added_tokens_decoder": {"x": plain("<|x|>")}}}, "'added_tokens_decoder': 'x' is not an id"),
    ({"tokenizer_config__json": BASIC | {"added_tokens_decoder": {"330": "<|x|>"}}}, "'added_tokens_decoder': '330' is not an object"),
    ({"tokenizer_config__json": BASIC | {"added_tokens_decoder": {"330": {}}}}, "(?s)'added_tokens_decoder': '330'.*'content' is missing"),
    ({"tokenizer_config__json": BASIC | {"added_tokens_decoder": []}}, "'added_tokens_decoder' is not an object"),
    ({"tokenizer_config__json": BASIC | {"extra_special_tokens": "<x>"}}, "'extra_special_tokens' is not a list"),
    ({"tokenizer_config__json": BASIC | {"add_prefix_space": "no"}}, "'add_prefix_space' has the wrong type"),
], ids=str)
@pytest.mark.parametrize("with_json", [False, True])
def test_bad_files_are_refused(change, message, with_json, model, tmp_path):
    files = {"tokenizer__model": model, "tokenizer_config__json": BASIC} | change
    if with_json:
        files["tokenizer__json"] = llama_json(model)
    with pytest.raises(bitrain.Error, match=message.replace("|", r"\|")):
        bitrain.Tokenizer.open(str(write(tmp_path / "in", **files)))


def test_added_tokens_that_the_configuration_loses_are_refused(model, tmp_path):
    made = llama_json(model)
    made["added_tokens"].append({"id": len(made["model"]["vocab"]), **plain("<|im_end|>")})
    folder = write(tmp_path / "in", tokenizer__json=made, tokenizer_config__json={"tokenizer_class": "LlamaTokenizer", "added_tokens_decoder": {
        "1": plain("<s>")}})
    with pytest.raises(bitrain.Error, match=r"(?s)tokenizer.json.*'<\|im_end\|>'.*tokenizer_config.json"):
        bitrain.Tokenizer.open(str(folder))


MARKED = {"__type": "AddedToken", **plain("<img>")}
GENERIC = {"tokenizer_class": "PreTrainedTokenizerFast"}


@pytest.mark.parametrize("files", [
    {"tokenizer_config__json": GENERIC | {"image_token": MARKED}},
    {"tokenizer_config__json": GENERIC | {"image_token": plain("<img>")}},
    {"tokenizer_config__json": GENERIC | {"image_token": "<img>"}},
    {"tokenizer_config__json": GENERIC, "special_tokens_map__json": {"image_token": {"content": "<img>", "lstrip": True}}},
    {"tokenizer_config__json": GENERIC | {"model_specific_special_tokens": {"image_token": "<img>"}}},
    {"tokenizer_config__json": GENERIC | {"model_specific_special_tokens": {"image_token": "<img>"}, "a_token": "<a>"}},
    {"tokenizer_config__json": GENERIC | {"model_specific_special_tokens": {"image_token": "<img>"}, "a_token": MARKED | {"content": "<a>"}}},
    {"tokenizer_config__json": GENERIC | {"model_specific_special_tokens": {"image_token": "<img>"}, "extra_special_tokens": {"a_token": "<a>"}}},
    *({"tokenizer_config__json": GENERIC | {"extra_special_tokens": {"a_token": "<a>"}, "additional_special_tokens": ["<b>"]},
       "special_tokens_map__json": {"additional_special_tokens": extra}} for extra in ([], ["<c>"])),
], ids=str)
def test_named_tokens_beside_the_roles(files, tmp_path):
    folder = write(tmp_path / "in", tokenizer__json=byte_level_json(), **files)
    check(folder, tmp_path / "out", ["the <img>cat", "<a><b><c> <img>"])


@pytest.mark.parametrize("code", [{}, {"AutoProcessor": "x.Y"}, {"AutoTokenizer": None}], ids=str)
@pytest.mark.parametrize(("name", "model_type"), [("LlamaTokenizer", "llama"), ("GPT2Tokenizer", "mistral")])
def test_code_of_other_parts_changes_no_class(name, model_type, code, tmp_path):
    folder = write(tmp_path / "in", tokenizer__json=byte_level_json(), config__json={"model_type": model_type},
                   tokenizer_config__json={"tokenizer_class": name, "auto_map": code, "add_prefix_space": True})
    check(folder, tmp_path / "out")


@pytest.mark.parametrize(("first", "second", "text"), [
    (AddedToken("tok", normalized=False), AddedToken("<tok>", normalized=True), "a<tok>b"),
    (AddedToken("\n\n", normalized=False), AddedToken("  \n", normalized=True), "a  \n\nb"),
    (AddedToken("<m>", normalized=False, lstrip=True), AddedToken("  ", normalized=True), "a  <m> b"),
], ids=str)
def test_normalised_tokens_are_looked_for_last(first, second, text, tmp_path):
    made = Tokenizer.from_str(json.dumps(byte_level_json()))
    made.add_tokens([second, first])
    check(write(tmp_path / "in", tokenizer__json=json.loads(made.to_str()), tokenizer_config__json=GENERIC), tmp_path / "out", [text])


def test_single_words_end_where_the_regex_crate_says(tmp_path):
    made = Tokenizer.from_str(json.dumps(byte_level_json()))
    made.add_tokens([AddedToken("tok", single_word=True, normalized=False)])
    folder = write(tmp_path / "in", tokenizer__json=json.loads(made.to_str()), tokenizer_config__json=GENERIC)
    around = "_ -3éÉ\u0301²½¾ⅷ‿⁀﹏ⒶⓏ🄰🅉🅐🅩🅰🆉🆊℃™\u200b\u200c\u200d\u2060٣१ªº中ー々〇\u0903\u20dd£€+"
    check(folder, tmp_path / "out", [f"{c}tok tok{c} {c}tok{c}" for c in around])


def test_another_tokenizer_json_that_the_configuration_names_is_refused(tmp_path):
    folder = write(tmp_path / "in", tokenizer__json=byte_level_json(),
                   tokenizer_config__json=GENERIC | {"fast_tokenizer_files": ["tokenizer.json", "tokenizer.4.0.0.json"]})
    with pytest.raises(bitrain.UnsupportedError, match="fast_tokenizer_files lists tokenizer.4.0.0.json"):
        bitrain.Tokenizer.open(str(folder))


@pytest.mark.parametrize("options", [{"normalization_rule_name": "nmt_nfkc"}, {"byte_fallback": False}, {"add_dummy_prefix": False}], ids=str)
def test_the_advice_for_a_model_that_its_class_reads_otherwise(options, tmp_path):
    folder = write(tmp_path / "in", tokenizer__model=sentencepiece_bytes(**options), tokenizer_config__json={"tokenizer_class": "LlamaTokenizer"})
    lines = [f"la casa {i} del árbol" for i in range(50)]
    with pytest.raises(bitrain.UnsupportedError, match="gives other ids: .* take tokenizer_class out of tokenizer_config.json"):
        bitrain.extend_vocabulary(str(folder), lines, str(tmp_path / "out"), pieces=5)
    write(folder, tokenizer_config__json={})
    bitrain.extend_vocabulary(str(folder), lines, str(tmp_path / "out"), pieces=5)
    same(bitrain.Tokenizer.open(str(tmp_path / "out")), AutoTokenizer.from_pretrained(tmp_path / "out"), [*TEXTS[:8], *lines[:2]])


@pytest.mark.parametrize("config", [{}, {"tokenizer_class": "PreTrainedTokenizerFast"}], ids=str)
def test_the_advice_for_a_lone_vocab_json(config, tmp_path):
    made = byte_level_json()
    folder = write(tmp_path / "in", vocab__json=made["model"]["vocab"], tokenizer_config__json=config, config__json={"model_type": "mistral"},
                   merges__txt="".join(" ".join(pair) + "\n" for pair in made["model"]["merges"]))
    with pytest.raises(bitrain.UnsupportedError, match=r"GPT2Tokenizer.from_pretrained\(..\).save_pretrained\(..\)"):
        bitrain.Tokenizer.open(str(folder))
    GPT2Tokenizer.from_pretrained(folder).save_pretrained(folder)
    check(folder, tmp_path / "out")


# --- tokenizer.model beside tokenizer.json, or in its place ---------------------------------------------------


@pytest.mark.parametrize("name", ["LlamaTokenizer", "PreTrainedTokenizerFast"])
def test_another_tokenizer_model_is_not_used(name, model, tmp_path):
    other = sentencepiece_bytes(vocab_size=340)
    folder = write(tmp_path / "in", tokenizer__json=llama_json(model), tokenizer__model=other, tokenizer_config__json={"tokenizer_class": name},
                   config__json={"model_type": "llama"})
    check(folder, tmp_path / "out")
    assert not (tmp_path / "out" / "tokenizer.model").exists()
    with pytest.raises(bitrain.Error, match="cannot be extended|only SentencePiece"):
        bitrain.extend_vocabulary(str(write(tmp_path / "alone", tokenizer__json=llama_json(model), tokenizer__model=other)), LINES, str(tmp_path / "x"))


TIKTOKEN = b"IQ== 0\nIg== 1\nIw== 2\n"
POINTER = b"version https://git-lfs.github.com/spec/v1\noid sha256:" + b"0" * 64 + b"\nsize 499723\n"


@pytest.mark.parametrize(("content", "word"), [(TIKTOKEN, "tiktoken"), (b"<!DOCTYPE html><html></html>", "web page"), (b"", "empty"),
                                               (POINTER, "git lfs pull"), (b"\x0a\x05ab", "not a SentencePiece model")], ids=str)
def test_a_tokenizer_model_that_is_none(content, word, model, tmp_path):
    folder = write(tmp_path / "in", tokenizer__json=llama_json(model), tokenizer__model=content, config__json={"model_type": "llama"})
    check(folder, tmp_path / "out")
    with pytest.raises((bitrain.Error, bitrain.IoError), match=f"(?s)tokenizer.model.*{word}"):
        bitrain.Tokenizer.open(str(write(tmp_path / "alone", tokenizer__model=content)))


@pytest.mark.parametrize("file", ["tokenizer.json", "tokenizer_config.json", "vocab.txt", "added_tokens.json", "special_tokens_map.json"])
def test_lfs_pointers_are_named(file, model, tmp_path):
    folder = write(tmp_path / "in", tokenizer__json=llama_json(model))
    if file == "vocab.txt":
        (folder / "tokenizer.json").unlink()
    (folder / file).write_bytes(POINTER)
    with pytest.raises((bitrain.Error, bitrain.IoError), match=f"{file}.*git lfs pull"):
        bitrain.Tokenizer.open(str(folder))


def test_a_model_alone_is_sentencepiece(model, tmp_path):
    """Without a class the model speaks for itself; what is written says the same to AutoTokenizer."""
    n = len(pieces_of(model))
    folder = write(tmp_path / "in", tokenizer__model=model, added_tokens__json={"<|user|>": n}, special_tokens_map__json={"pad_token": "<|user|>"})
    ours = bitrain.Tokenizer.open(str(folder))
    library = sentencepiece.SentencePieceProcessor(model_proto=model)
    texts = [text for text in TEXTS if "<" not in text]
    assert ours.encode_batch(texts) == library.encode(texts)
    ours.save(str(tmp_path / "out"))
    auto, again = AutoTokenizer.from_pretrained(tmp_path / "out"), bitrain.Tokenizer.open(str(tmp_path / "out"))
    same(ours, auto)
    same(again, auto)
    assert auto.pad_token_id == n and auto.bos_token == "<s>"


# --- other vocabulary files -----------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["GPT2Tokenizer", "Qwen2Tokenizer", "RobertaTokenizer", "GPTNeoXTokenizer"])
@pytest.mark.parametrize("flags", [{}, {"add_prefix_space": True, "add_bos_token": True, "bos_token": "<s>"}], ids=str)
def test_vocab_json_and_merges(name, flags, tmp_path):
    made = byte_level_json()["model"]
    merges = "#version: 0.2\n" + "".join(f"{' '.join(m) if isinstance(m, list) else m}\n" for m in made["merges"])
    folder = write(tmp_path / "in", vocab__json=made["vocab"], merges__txt=merges, tokenizer_config__json={"tokenizer_class": name, **flags})
    check(folder, tmp_path / "out")


@pytest.mark.parametrize("kind", ["xlm-roberta", "camembert"])
def test_models_with_the_ids_of_fairseq(kind, tmp_path):
    model = sentencepiece_bytes(model_type="unigram", byte_fallback=False, normalization_rule_name="nmt_nfkc", vocab_size=200)
    folder = write(tmp_path / "in", config__json={"model_type": kind})
    (folder / "sentencepiece.bpe.model").write_bytes(model)
    check(folder, tmp_path / "out")


@pytest.mark.parametrize(("files", "message"), [
    ({"vocab__json": {"a": 0}, "merges__txt": ""}, "(?s)vocab.json, merges.txt but no tokenizer.json.*names the class"),
    ({"spiece__model": b"x", "tokenizer_config__json": {"tokenizer_class": "T5Tokenizer"}}, "T5Tokenizer"),
    ({"spiece__model": b"x"}, "spiece.model but no tokenizer.json"),
    ({"vocab__json": {"a": 0}, "tokenizer_config__json": {"tokenizer_class": "GPT2Tokenizer"}}, "no merges.txt"),
    ({"vocab__json": {"a": 0}, "merges__txt": "a b c\n", "tokenizer_config__json": {"tokenizer_class": "GPT2Tokenizer"}}, "merges.txt:1: not two"),
    ({"vocab__json": [], "merges__txt": "", "tokenizer_config__json": {"tokenizer_class": "GPT2Tokenizer"}}, "vocab.json: not an object"),
    ({"vocab__txt": "[UNK]\n", "tokenizer_config__json": {"tokenizer_class": "LlamaTokenizer"}}, "(?s)vocab.txt.*LlamaTokenizer.*tokenizer.model"),
], ids=str)
def test_folders_that_cannot_be_read(files, message, tmp_path):
    with pytest.raises((bitrain.Error, bitrain.IoError), match=message):
        bitrain.Tokenizer.open(str(write(tmp_path / "in", **files)))


@pytest.mark.parametrize("lines", [
    "\n".join(WORDS) + "\n", "\n".join(WORDS), "\r\n".join(WORDS) + "\r\n", "\n".join(WORDS) + "\n\n", "\n".join(WORDS[:7] + [""] + WORDS[7:]),
    "\n".join(WORDS + ["cat", "new"]), "\n".join(w for w in WORDS if w != "[MASK]"), "\n".join(w + "  " for w in WORDS), "\n".join(WORDS + ["a\u00a0", "b\u2028c"]),
], ids=["plain", "no_end", "windows", "blank_end", "blank", "twice", "no_mask", "spaces", "odd"])
def test_vocab_txt(lines, tmp_path):
    folder = write(tmp_path / "in", vocab__txt=lines.encode(), config__json={"model_type": "bert"})
    auto = AutoTokenizer.from_pretrained(folder)
    ours = bitrain.Tokenizer.open(str(folder))
    assert [ours.encode(text) for text in TEXTS] == [auto(text, add_special_tokens=False)["input_ids"] for text in TEXTS]
    assert [ours.piece_to_id(role) for role in WORDS[:5]] == auto.convert_tokens_to_ids(WORDS[:5])
    ours.save(str(tmp_path / "out"))
    again = bitrain.Tokenizer.open(str(tmp_path / "out"))
    assert again.encode_batch(TEXTS) == ours.encode_batch(TEXTS)
    assert (tmp_path / "out" / "vocab.txt").read_bytes() == lines.encode()


def test_a_byte_order_mark_is_named(tmp_path):
    folder = write(tmp_path / "in", vocab__txt=b"\xef\xbb\xbf" + "\n".join(WORDS).encode())
    with pytest.raises(bitrain.Error, match="vocab.txt: begins with a byte order mark"):
        bitrain.Tokenizer.open(str(folder))


# --- saving ---------------------------------------------------------------------------------------------------


def test_templates_and_unknown_keys_are_carried_over(model, tmp_path):
    made = llama_json(model) | {"truncation": {"direction": "Right", "max_length": 64, "strategy": "LongestFirst", "stride": 0},
                                "padding": {"strategy": "BatchLongest", "direction": "Left", "pad_to_multiple_of": None, "pad_id": 0,
                                            "pad_type_id": 0, "pad_token": "<unk>"}}
    folder = write(tmp_path / "in", tokenizer__json=made, tokenizer__model=model, chat_template__jinja="{{ messages }}\r\n",
                   tokenizer_config__json={"tokenizer_class": "LlamaTokenizer", "nobody": {"knows": [1.5, None]}, "padding_side": "left"})
    (folder / "additional_chat_templates").mkdir()
    (folder / "additional_chat_templates" / "tools.jinja").write_bytes(b"{{ tools }}\n\n")
    bitrain.Tokenizer.open(str(folder)).save(str(tmp_path / "out"))
    for path in folder.rglob("*"):
        if path.is_file():
            assert (tmp_path / "out" / path.relative_to(folder)).read_bytes() == path.read_bytes(), path
    extended = tmp_path / "extended"
    bitrain.extend_vocabulary(str(folder), [f"la casa {i} del árbol" for i in range(50)], str(extended), pieces=10)
    assert json.loads((extended / "tokenizer_config.json").read_text())["nobody"] == {"knows": [1.5, None]}
    assert (extended / "chat_template.jinja").read_bytes() == b"{{ messages }}\r\n"
    assert (extended / "additional_chat_templates" / "tools.jinja").read_bytes() == b"{{ tools }}\n\n"
    written = json.loads((extended / "tokenizer.json").read_text())
    assert written["truncation"] == made["truncation"] and written["padding"] == made["padding"]
    kept(AutoTokenizer.from_pretrained(folder), AutoTokenizer.from_pretrained(extended))


def test_wordpiece_extension_keeps_the_folder(tmp_path):
    config = {"tokenizer_class": "BertTokenizer", "do_lower_case": False, "model_max_length": 77, "nobody": 1, "mask_token": "[M]"}
    folder = write(tmp_path / "in", tokenizer__json=bert_json(lowercase=True), tokenizer_config__json=config)
    report = bitrain.extend_wordpiece(str(folder), ["el perro vio la casa"] * 30, str(tmp_path / "out"), pieces=5, min_frequency=2)
    auto, before = AutoTokenizer.from_pretrained(tmp_path / "out"), AutoTokenizer.from_pretrained(folder)
    ours = bitrain.Tokenizer.open(str(tmp_path / "out"))
    kept(before, auto)
    assert len(auto) == ours.vocab_size == report["vocab_size"]
    same(ours, auto, [*TEXTS, "el perro vio la casa [M]"])
    assert json.loads((tmp_path / "out" / "tokenizer_config.json").read_text()) == config
    assert auto.mask_token_id == before.mask_token_id


@pytest.mark.parametrize("split", [False, True])
def test_pairs_and_offsets_read_special_tokens(split, tmp_path):
    folder = write(tmp_path / "in", tokenizer__json=bert_json(lowercase=True), config__json={"model_type": "bert"})
    ours, auto = bitrain.Tokenizer.open(str(folder)), AutoTokenizer.from_pretrained(folder)
    theirs = auto("the [MASK]", "cat [SEP]", split_special_tokens=split)
    assert ours.encode_pair("the [MASK]", "cat [SEP]", split_special_tokens=split) == (theirs["input_ids"], theirs["token_type_ids"])
    theirs = auto("the [MASK]s cat", add_special_tokens=False, return_offsets_mapping=True, split_special_tokens=split)
    assert ours.encode_with_offsets("the [MASK]s cat", split_special_tokens=split) == (theirs["input_ids"], theirs["offset_mapping"])
    assert ours.encode_batch(["[MASK]"], split_special_tokens=split) == [auto("[MASK]", add_special_tokens=False, split_special_tokens=split)["input_ids"]]
