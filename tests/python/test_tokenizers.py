"""Tokenizers: ours against transformers, tokenizers and sentencepiece on all of the example corpus."""

import subprocess
from pathlib import Path

import pytest
import sentencepiece
from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers
from transformers import AutoTokenizer

import bitrain

CORPUS = Path(__file__).parents[2] / "examples" / "data" / "en-es.tsv.zst"

# The expression of Llama 3's published tokenizer; Qwen2's takes digits one by one.
LLAMA3 = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*"
    r"|\s*[\r\n]+|\s+(?!\S)|\s+"
)
QWEN2 = LLAMA3.replace("{1,3}", "")

HARD = [
    "", " ", "  two  spaces  ", "¡Ñandú! ¿Qué?", "日本語のテキスト", "😀👨‍👩‍👧 emoji", "e\u0301 combining", "\tTab\u2028line\u00a0nbsp",
    "1234567890", "======= ----- " + "a" * 100, "x\n\ny\r\n", "it's WE'LL don’t", "가각힣 हिन्दी ไทย", "\ufffd\u200d",
]


@pytest.fixture(scope="session")
def corpus():
    text = subprocess.run(["zstdcat", CORPUS], capture_output=True, check=True).stdout.decode()
    rows = [row.split("\t") for row in text.split("\n") if row]
    assert len(rows) > 31_000
    return [row[1] for row in rows], [row[2] for row in rows]


@pytest.fixture(scope="session", params=["bpe", "unigram"])
def folders(request, corpus, tmp_path_factory):
    """An English tokenizer and the same extended to Spanish."""
    english, spanish = corpus
    root = tmp_path_factory.mktemp(request.param)
    base, extended = root / "base", root / "extended"
    bitrain.train_tokenizer(english, str(base), vocab_size=8000, model_type=request.param)
    report = bitrain.extend_vocabulary(str(base), spanish, str(extended), pieces=3900)
    assert report["added"] > 3500
    assert report["vocab_size"] == 8000 + report["added"]
    return base, extended


def differing(ours, theirs):
    return [i for i, (a, b) in enumerate(zip(ours, theirs, strict=True)) if list(a) != list(b)]


def test_auto_tokenizer_gives_the_same_ids(folders, corpus):
    texts = corpus[0] + corpus[1] + HARD
    for folder in folders:
        ours = bitrain.Tokenizer.open(str(folder))
        auto = AutoTokenizer.from_pretrained(folder)
        assert len(auto) == ours.vocab_size
        theirs = auto(texts, add_special_tokens=False)["input_ids"]
        assert differing(ours.encode_batch(texts), theirs) == []


def test_auto_tokenizer_beside_a_llama_config(folders, corpus):
    """In a model's folder transformers knows the family, and must still take our tokenizer.json as it stands."""
    folder = folders[1]
    (folder / "config.json").write_text('{"model_type": "llama", "architectures": ["LlamaForCausalLM"]}')
    auto = AutoTokenizer.from_pretrained(folder)
    ours = bitrain.Tokenizer.open(str(folder))
    texts = corpus[1][:2000] + HARD
    assert differing(ours.encode_batch(texts), auto(texts, add_special_tokens=False)["input_ids"]) == []
    assert auto.bos_token_id == 1 and auto.eos_token_id == 2 and auto.unk_token_id == 0
    assert auto("casa")["input_ids"][0] == 1  # BOS in front, as in Llama.


def test_sentencepiece_gives_the_same_ids(folders, corpus):
    texts = corpus[0] + corpus[1] + HARD
    for folder in folders:
        ours = bitrain.Tokenizer.open(str(folder)).encode_batch(texts)
        library = sentencepiece.SentencePieceProcessor(model_file=str(folder / "tokenizer.model"))
        # Unigram sums are in float32 there: segmentations that tie within rounding may differ.
        assert len(differing(ours, library.encode(texts))) <= 2


def test_decoding(folders, corpus):
    texts = corpus[1][:3000] + HARD
    for folder in folders:
        ours = bitrain.Tokenizer.open(str(folder))
        auto = AutoTokenizer.from_pretrained(folder)
        for text, ids in zip(texts, ours.encode_batch(texts), strict=True):
            assert ours.decode(ids) == text
            assert auto.decode(ids) == text


def test_old_ids_are_kept(folders):
    base, extended = (bitrain.Tokenizer.open(str(folder)) for folder in folders)
    for token in range(base.vocab_size):
        assert base.id_to_piece(token) == extended.id_to_piece(token)


def test_offsets(folders, corpus):
    """A token's bytes are those Hugging Face says, which counts characters and gives "▁" the following one's start."""
    ours = bitrain.Tokenizer.open(str(folders[0]))
    for text in corpus[0][:500] + corpus[1][:500]:
        ids, offsets = ours.encode_with_offsets(text)
        data = text.encode()
        assert ids == ours.encode(text)
        assert b"".join(data[begin:end] for begin, end in offsets) == data


# --- tokenizer.json files of others ------------------------------------------------------------------------


def byte_level(pre_tokenizer, lines, normalizer=None, **options):
    tokenizer = Tokenizer(models.BPE(**options))
    tokenizer.pre_tokenizer = pre_tokenizer
    if normalizer:
        tokenizer.normalizer = normalizer
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.post_processor = processors.ByteLevel(trim_offsets=False)
    trainer = trainers.BpeTrainer(vocab_size=4000, initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
                                  special_tokens=["<|endoftext|>"], show_progress=False)
    tokenizer.train_from_iterator(lines, trainer)
    return tokenizer


def split_bytes(pattern):
    return pre_tokenizers.Sequence([pre_tokenizers.Split(Regex(pattern), "isolated"),
                                    pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)])


def gpt2(lines):
    return byte_level(pre_tokenizers.ByteLevel(add_prefix_space=False), lines)


def llama3(lines):
    return byte_level(split_bytes(LLAMA3), lines, ignore_merges=True)


def qwen2(lines):
    tokenizer = byte_level(split_bytes(QWEN2), lines, normalizers.NFC())
    tokenizer.add_tokens([AddedToken("<think>", normalized=False), AddedToken("Dios", single_word=True, normalized=False)])
    return tokenizer


def unigram_nfkc(lines):
    tokenizer = Tokenizer(models.Unigram())
    tokenizer.normalizer = normalizers.Sequence([normalizers.NFKC(), normalizers.Replace(Regex(" {2,}"), " ")])
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace()
    tokenizer.decoder = decoders.Metaspace()
    trainer = trainers.UnigramTrainer(vocab_size=2000, special_tokens=["<unk>"], unk_token="<unk>", show_progress=False)
    tokenizer.train_from_iterator(lines, trainer)
    return tokenizer


@pytest.mark.parametrize("make", [gpt2, llama3, qwen2, unigram_nfkc])
def test_reads_tokenizer_json(make, corpus, tmp_path):
    tokenizer = make(corpus[0][:3000] + corpus[1][:3000])
    tokenizer.save(str(tmp_path / "tokenizer.json"))
    ours = bitrain.Tokenizer.open(str(tmp_path))
    assert ours.vocab_size == tokenizer.get_vocab_size()
    texts = corpus[0] + corpus[1] + HARD + ["a<think>b Dios xDios <|endoftext|>"]
    for split in (True, False):
        tokenizer.encode_special_tokens = split
        encodings = tokenizer.encode_batch(texts, add_special_tokens=False)
        ids = ours.encode_batch(texts, split_special_tokens=split)
        assert differing(ids, [encoding.ids for encoding in encodings]) == []
    for some in ids[:500] + ids[-20:]:
        assert ours.decode(some) == tokenizer.decode(some)


def test_saves_what_it_read(corpus, tmp_path):
    gpt2(corpus[0][:1000]).save(str(tmp_path / "tokenizer.json"))
    ours = bitrain.Tokenizer.open(str(tmp_path))
    ours.save(str(tmp_path / "again"))
    auto = AutoTokenizer.from_pretrained(tmp_path / "again")
    texts = corpus[1][:500]
    assert differing(ours.encode_batch(texts), auto(texts, add_special_tokens=False)["input_ids"]) == []


def test_names_what_it_does_not_know(tmp_path):
    tokenizer = Tokenizer(models.BPE({"a": 0}, [], dropout=0.1))
    tokenizer.save(str(tmp_path / "tokenizer.json"))
    with pytest.raises(bitrain.Error, match="dropout"):
        bitrain.Tokenizer.open(str(tmp_path))
