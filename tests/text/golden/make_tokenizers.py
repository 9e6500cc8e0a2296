"""Writes tokenizers.json.zst: small tokenizers of each kind made by Hugging Face's `tokenizers`, and the ids, offsets and
decoded text it gives for texts at which implementations differ. Run from the repository root:

    python tests/text/golden/make_tokenizers.py
"""

import json
import subprocess

from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, trainers

LLAMA3 = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*"
    r"|\s*[\r\n]+|\s+(?!\S)|\s+"
)
QWEN2 = LLAMA3.replace("{1,3}", "")

HARD = [
    "", " ", "   ", "a", "  two  spaces  ", "¡Ñandú! ¿Qué?", "日本語のテキスト", "😀👨‍👩‍👧 emoji", "e\u0301 combining \u0301",
    "\tTab\u2028line separator\u00a0nbsp\u0085next", "x\r\n\n  y\n", "1234567 ４５ ²³ Ⅷ", "it's WE'LL don’t", "a_b foo_bar snake_case",
    "ﬁne ① ＡＢＣ ﷺ Å ½ İstanbul ΣΊΣΥΦΟΣ", "가각힣 \u1100\u1161\u11a8", "हिन्दी में", "ไทย", "= == === ---- ....", "señor dios  LORD xLORD LORDs",
    "\ufffd\u200d\u200b", "<unk> <|endoftext|>", "q\u0323\u0307 \u0344", "aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa",
]


def lines():
    text = subprocess.run(["zstdcat", "examples/data/en-es.tsv.zst"], capture_output=True, check=True, text=True).stdout
    rows = [row.split("\t") for row in text.split("\n")[:1500] if row]
    return [row[1] for row in rows] + [row[2] for row in rows]


def byte_level(pre_tokenizer, normalizer=None, ignore_merges=False):
    tokenizer = Tokenizer(models.BPE(ignore_merges=ignore_merges))
    tokenizer.pre_tokenizer = pre_tokenizer
    if normalizer:
        tokenizer.normalizer = normalizer
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(vocab_size=700, initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
                                  special_tokens=["<|endoftext|>"], show_progress=False)
    tokenizer.train_from_iterator(lines(), trainer)
    return tokenizer


def split_bytes(pattern):
    return pre_tokenizers.Sequence([pre_tokenizers.Split(Regex(pattern), "isolated"),
                                    pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)])


def character_bpe(normalizer, pre_tokenizer, **options):
    tokenizer = Tokenizer(models.BPE(unk_token="<unk>", **options))
    tokenizer.normalizer = normalizer
    if pre_tokenizer:
        tokenizer.pre_tokenizer = pre_tokenizer
    special = ["<unk>"] + [f"<0x{byte:02X}>" for byte in range(256) if options.get("byte_fallback")]
    tokenizer.train_from_iterator(lines(), trainers.BpeTrainer(vocab_size=600, special_tokens=special, limit_alphabet=60,
                                                               show_progress=False))
    if options.get("byte_fallback"):  # In Llama's file the byte pieces are no added tokens.
        content = json.loads(tokenizer.to_str())
        content["added_tokens"] = content["added_tokens"][:1]
        tokenizer = Tokenizer.from_str(json.dumps(content))
    return tokenizer


def unigram(normalizer, pre_tokenizer, decoder):
    tokenizer = Tokenizer(models.Unigram())
    tokenizer.normalizer = normalizer
    tokenizer.pre_tokenizer = pre_tokenizer
    tokenizer.decoder = decoder
    tokenizer.train_from_iterator(lines(), trainers.UnigramTrainer(vocab_size=600, special_tokens=["<unk>"], unk_token="<unk>",
                                                                   show_progress=False))
    return tokenizer


def tokenizers():
    yield "gpt2", byte_level(pre_tokenizers.ByteLevel(add_prefix_space=False))
    yield "gpt2 with a prefix", byte_level(pre_tokenizers.ByteLevel(add_prefix_space=True))
    yield "llama3", byte_level(split_bytes(LLAMA3), ignore_merges=True)
    qwen = byte_level(split_bytes(QWEN2), normalizers.NFC())
    qwen.add_tokens([AddedToken("señor", normalized=False), AddedToken("LORD", single_word=True, normalized=False),
                     AddedToken("dios", lstrip=True, rstrip=True)])
    yield "qwen2 with added tokens", qwen
    llama = character_bpe(normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")]), None,
                          byte_fallback=True, fuse_unk=True)
    llama.decoder = decoders.Sequence([decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse(),
                                       decoders.Strip(" ", 1, 0)])
    yield "llama2", llama
    yield "bpe of words", character_bpe(normalizers.NFKD(), pre_tokenizers.Whitespace(), fuse_unk=True)
    yield "bpe of pieces", character_bpe(
        normalizers.NFC(),
        pre_tokenizers.Sequence([pre_tokenizers.WhitespaceSplit(), pre_tokenizers.Punctuation("contiguous"),
                                 pre_tokenizers.Split("th", "merged_with_next"),
                                 pre_tokenizers.Split(Regex("[aeiou]+"), "removed")]))
    yield "unigram nfkc lower", unigram(
        normalizers.Sequence([normalizers.NFKC(), normalizers.Lowercase(), normalizers.Strip(True, True)]),
        pre_tokenizers.Metaspace(prepend_scheme="first"), decoders.Metaspace(prepend_scheme="first"))
    yield "unigram without accents", unigram(
        normalizers.Sequence([normalizers.NFD(), normalizers.StripAccents(), normalizers.Replace(Regex(" {2,}"), " ")]),
        pre_tokenizers.Sequence([pre_tokenizers.Digits(True), pre_tokenizers.Punctuation("merged_with_previous"),
                                 pre_tokenizers.Metaspace()]), decoders.Metaspace())


def main():
    texts = HARD + lines()[:20] + lines()[1500:1520]
    result = []
    for name, tokenizer in tokenizers():
        tokenizer.encode_special_tokens = True
        cases = []
        for text in texts:
            encoding = tokenizer.encode(text, add_special_tokens=False)
            cases.append({"text": text, "ids": encoding.ids, "decoded": tokenizer.decode(encoding.ids)})
        result.append({"name": name, "tokenizer": tokenizer.to_str(), "cases": cases})
    text = json.dumps(result, ensure_ascii=False)
    subprocess.run(["zstd", "-19", "-q", "-f", "-o", "tests/text/golden/tokenizers.json.zst"], input=text.encode(), check=True)


main()
