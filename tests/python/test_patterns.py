"""Expressions, pre-tokenizers, normalisers, decoders and models of tokenizer.json: what we make of them against `tokenizers`, on hard
texts, on random ones and on every character."""

import json
import random
import unicodedata

import pytest
from tokenizers import Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, trainers

import bitrain

CHARACTERS = "".join(chr(code) for code in range(0x110000) if not 0xD800 <= code < 0xE000)

HARD = [
    "", " ", "  two  spaces  ", "the cat", " the cat", "THE Cat Àé", "\tTab\u2028line\u00a0nbsp\u3000ideographic", "x\n\ny\r\n z\r",
    "it's WE'LL don’t 'ſ 'K we'RE", "ภาษาไทยไม่มีช่องว่างระหว่างคำ", "ភាសាខ្មែរគ្មានដកឃ្លា", "हिन्दी में क्षत्रिय ज्ञान",
    "বাংলা ক্ষুদ্র র‍্যাব", "தமிழ் ஸ்ரீ",
    "עִבְרִית \u200fRLM", "العَرَبِيَّة ﷺ ﻻ", "می‌خواهم", "e\u0301 a\u0308\u0323 n\u0303", "\u1112\u1161\u11ab 각힣 각", "が か\u3099 ﾊﾞ ー",
    "ﬁ ﬃ ① ½ Ⅷ ² ℡ ㎏",
    "👨‍👩‍👧‍👦 👩🏽‍🚀 🏳️‍🌈 🇪🇸🇲🇹 ☺️ 1️⃣", "a\u200bb\u200cc\u200dd\u2060e\ufefff", "\u202eabc\u202c", "soft\u00adhyphen",
    "\u0000 \u0001\u007f\u0085\u009f",
    "𝒜𝔅 𐐀𐐨 🀄 𠮷野家 豈", "\ufffd \ufffe \uffff", "Z" + "\u0335" * 40, "ǅ ǆ İ ı ẞ ß ss ſt ŉ Σας ΣΑΣ", "1234567890 ١٢٣ १२३ 𝟏𝟐",
    "!!!???... —–-_ «»„“ 、。",
    "===--- " + "a" * 120, "▁under ▁ ▁▁", "Ġ Ċ ĉ", "ノーブレーク\u3000全角　ＡＢＣ１２３", "한국어 문장입니다.", "中文字符㐀𪜀々〇", "ᠮᠣᠩᠭᠣᠯ\u180eᠤᠨ", "0xDEADbeef g",
    "a-b&&c[d]e^f{2}", "\U00010d50\U00010d70 \U00011f04 \U0001fa75 \u1c89\u1c8a", "(a|b) c*d+ e?",
]
PIECES = list("abAkKsSgG  ßſK'\n\r\t-,.^#&é一ก0129²¼ΣσςÀàIıİiﬀﬁﬆ[]{}|$+<=>~_") + [
    "ss", "\r\n", "e\u0301", "ก็", "👨‍👩", "\u180e", "क्ष", "\u200d", "Dž", "〇", "\u0085", "\u3000", "\u0363", "\U00010d50", "\u1171e",
    "が", "ﾞ", "\u0301\u0327",
]


def random_texts(count, seed, longest=20):
    source = random.Random(seed)
    return ["".join(source.choice(PIECES) for _ in range(source.randint(1, longest))) for _ in range(count)]


def opened(tokenizer, folder):
    tokenizer.save(str(folder / "tokenizer.json"))
    return bitrain.Tokenizer.open(str(folder))


def words_tokenizer(pre_tokenizer, normalizer=None):
    """Each word is one token, so that ids and offsets show where texts are cut."""
    tokenizer = Tokenizer(models.WordLevel({"[UNK]": 0, "the": 1, "a": 2}, unk_token="[UNK]"))
    tokenizer.pre_tokenizer = pre_tokenizer
    if normalizer:
        tokenizer.normalizer = normalizer
    return tokenizer


def byte_offsets(text, offsets):
    ends = [0]
    for character in text:
        ends.append(ends[-1] + len(character.encode()))
    return [(ends[begin], ends[end]) for begin, end in offsets]


def expect_same_cuts(theirs, ours, texts):
    for text, encoding in zip(texts, theirs.encode_batch(texts, add_special_tokens=False), strict=True):
        ids, offsets = ours.encode_with_offsets(text)
        assert ids == ours.encode(text)
        assert (text, ids, offsets) == (text, encoding.ids, byte_offsets(text, encoding.offsets))


def expect_same_ids(theirs, ours, texts):
    for text, encoding, ids in zip(texts, theirs.encode_batch(texts, add_special_tokens=False), ours.encode_batch(texts), strict=True):
        assert (text, ids) == (text, encoding.ids)


# --- expressions -------------------------------------------------------------------------------------------

PUBLISHED = {
    "gpt2": r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+",
    "llama3": r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+",
    "o200k": r"[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]*[\p{Ll}\p{Lm}\p{Lo}\p{M}]+(?i:'s|'t|'re|'ve|'m|'ll|'d)?"
             r"|[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]+[\p{Ll}\p{Lm}\p{Lo}\p{M}]*(?i:'s|'t|'re|'ve|'m|'ll|'d)?"
             r"|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+",
    "cl100k": r"'(?i:[sdmt]|ll|ve|re)|[^\r\n\p{L}\p{N}]?+\p{L}++|\p{N}{1,3}+| ?[^\s\p{L}\p{N}]++[\r\n]*+|\s++$|\s*[\r\n]|\s+(?!\S)|\s",
    "deepseek-v3": r"[!\"#$%&'()*+,\-./:;<=>?@\[\\\]^_`{|}~][A-Za-z]+|[^\r\n\p{L}\p{P}\p{S}]?[\p{L}\p{M}]+| ?[\p{P}\p{S}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+",
    "deepseek cjk": r"[一-龥぀-ゟ゠-ヿ]+",
    "kimi": r"[\p{Han}]+|[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}&&[^\p{Han}]]*[\p{Ll}\p{Lm}\p{Lo}\p{M}&&[^\p{Han}]]+(?i:'s|'t|'re|'ve|'m|'ll|'d)?|\p{N}{1,3}|\s+",
    "bloom": r" ?[^(\s|[.,!?…。，、।۔،])]+",
    "falcon": r"[0-9][0-9][0-9]",
}
EXPRESSIONS = [
    *PUBLISHED.values(),
    # Classes.
    r"\h+", r"\H+", r"[\h]+", r"[^\h\s]+", r"\w+|[^\w\s]+|\s+", r"\W", r"\d+|\D+", r"\s+|\S+", r"[\s\S]", r"[^\S\n]+", r"[[:alpha:]]+",
    r"[[:punct:]]|[^[:punct:]]+",
    r"[[:^punct:]]+", r"[^[:punct:]a]+", r"[[:word:]]+", r"[[:graph:]]+", r"[[:print:]]+", r"[[:cntrl:]]", r"[[:xdigit:]]+",
    r"[[:upper:]]+|[[:lower:]]+",
    r"[[:space:]]+", r"[[:blank:]]+", r"[[:alnum:]]+", r"[[:ascii:]]+", r"[[:digit:]]+", r"\p{^L}+|\p{L}+", r"\P{^L}+",
    r"\p{Alnum}+|\p{Punct}+|\p{Han}+|[\s\S]",
    r"\p{Word}+", r"\P{Word}+", r"[\p{Word}-]+", r"\p{Thai}+", r"\p{Hiragana}+|\p{Katakana}+", r"\p{lower_case}?\p{Lower}+", r"\p{Greek}+",
    # Sets.
    r"[\p{L}&&[^a-m]]+|[\s\S]", r"[a-m[n-z]]+", r"[^a-m[n-z]]+", r"[a-z&&[^aeiou]&&\w]+", r"[]a]+", r"[^]a]+", r"[a-]+", r"[-a]+",
    r"[a\-z]+", r"[&a]+", r"[[a]&&a]", r"[^\r\n]+",
    # Repeats.
    r"\p{N}{1,3}+", r"\p{N}{2}{2}", r"a{,2}", r"s{2}?", r"s{2,}?", r"a{1,2}?", r"a**", r"a+?*", r"\s++", r"\s*+x?", r"a{3,1}", r"a{",
    r"a{x}", r"(?:a|b)*", r"(?:a*)*b?", r"x*", r"\s*", r"(?=a)",
    r"\b", r"|a", r"a|", r"(?:)*a", r"(?:ab?){2,3}",
    # Anchors and what they look at.
    r"^the|cat$", r"\Athe|t\z|t\Z", r"\b\p{L}+\b", r"\B.", r"^", r"$", r"(?<=a)b|(?<!a)c", r"(?<=\s|^)\w+", r"a(?!b)", r"(?=\p{L})[^a]+",
    r"(?<=[aß])\S+",
    # Points, lines and clusters.
    r".", r".+", r"(?m:.)+", r"(?m).+", r"a.|\n+|[^\n]", r"\R+", r"\R", r"\N+", r"\O", r"\v", r"\e|\t|\n|\f|\a",
    # Case.
    r"(?i)straße|(?i:ſ|k)|\p{Lu}+|[\s\S]", r"(?i)ss", r"(?i:ss|st|ff)", r"(?i:[s])", r"(?i)[^s]+", r"(?i:a)b", r"(?i)the|(?-i)cat",
    r"a(?i)b|c", r"(?i:σ)+", r"(?i:'s|'t)", r"(?i:i)", r"(?i:st)a", r"(?i:s(?:s|t))",
    r"(?i:f[il])", r"(?i:s?s)", r"(?i:\p{Lu})+", r"(?i:à)",
    # Groups.
    r"(a)\1", r"(?<n>\w)\k<n>", r"(?>\s+)a|\s", r"(?x: a b )|c", r"(?#words)\w+", r"(?~ab)", r"(a|b)+c",
    # Escapes.
    r"\x{E01}+", r"\u0E01+", r"\x61", r"\141", r"\.|\-|\[|\]|\{|\}|\(|\)|\*|\+|\?|\^|\$|\|", r"\_|\<|\>|\ |\#|\&", r"[\.\-\[\]\^]+",
    r"\Qa", r"é+", r"[à-ÿ]+", r"[^\x00-\x7F]+", r"[\u0E00-\u0E7F]+", r"[ -~]+", "[\n]+",
]
# What versions of the engine read in several ways, or what must not be run on.
REFUSED = {
    r"\Ga": r"\\G", r"a\Kb": r"\\K", r"(?{x})a": "callout", r"(*FAIL)|a": "callout", r"(?<n>a\g<n>?)": r"\\g",
    r"(a)?(?(1)b|c)": "condition", r"(?L)a": "option 'L'",
    r"\p{Age=6.0}": "Age=6.0", r"\p{In_Thai}": "In_Thai", r"\p{Grapheme_Extend}": "Grapheme_Extend", r"\pL": "braces",
    "(?x)a#b[": "extended", r"[[:foo:]]": r"\[:",
    r"(?P:[[:punct:]])": "ASCII", r"\ca": "control", r"\yab": r"\\y", r"(?s:.)": "option 's'", r"\p{Nonsense}": "Nonsense",
    "(" * 500 + ")" * 500: "groups", "a" * 5000: "5000 bytes", "(a": "parenthes",
}


def split(pattern, behavior="isolated", invert=False):
    return pre_tokenizers.Split(Regex(pattern), behavior, invert)


@pytest.mark.parametrize("pattern", EXPRESSIONS)
def test_expressions(pattern, tmp_path):
    theirs = words_tokenizer(split(pattern))
    long = " ".join(random_texts(12_000, 10))  # Of more than 64 KiB, where texts are gone through otherwise.
    expect_same_cuts(theirs, opened(theirs, tmp_path), [*HARD, *random_texts(400, 1), long])


@pytest.mark.parametrize("pattern", REFUSED)
def test_refused_expressions(pattern, tmp_path):
    theirs = words_tokenizer(split("a"))
    content = json.loads(theirs.to_str())
    content["pre_tokenizer"]["pattern"] = {"Regex": pattern}
    (tmp_path / "tokenizer.json").write_text(json.dumps(content))
    with pytest.raises(bitrain.Error, match=f"pre_tokenizer.*{REFUSED[pattern]}"):
        bitrain.Tokenizer.open(str(tmp_path))


@pytest.mark.parametrize("behavior", ["removed", "isolated", "merged_with_previous", "merged_with_next", "contiguous"])
@pytest.mark.parametrize("invert", [False, True])
def test_behaviors_of_splits(behavior, invert, tmp_path):
    for pattern in [r"\s+", r"\s*", r"a|b", r"(?=a)", r"[[:punct:]]", r"\b"]:
        theirs = words_tokenizer(split(pattern, behavior, invert))
        expect_same_cuts(theirs, opened(theirs, tmp_path), HARD + random_texts(200, 2))
    theirs = words_tokenizer(pre_tokenizers.Split("", behavior, invert))
    expect_same_cuts(theirs, opened(theirs, tmp_path), HARD)


@pytest.mark.parametrize("pattern", [r"\s", r"\w", r"\d", r"\p{L}", r"\p{N}", r"\p{M}", r"\p{P}", r"\p{S}", r"\p{Lu}", r"\p{C}",
                                     r"[[:punct:]]", r"[[:alpha:]]", r"[[:lower:]]", r"\p{Han}", r"[^\s\p{L}\p{N}]",
                                     r"[[:graph:]]", r"(?i:[a-z])"])
def test_every_character_in_a_class(pattern, tmp_path):
    """Also those that are newer than the tables of the engines here."""
    theirs = words_tokenizer(split(f"{pattern}+"))
    chunks = [CHARACTERS[at : at + 4096] for at in range(0, len(CHARACTERS), 4096)]
    ours = opened(theirs, tmp_path)
    for chunk, encoding in zip(chunks, theirs.encode_batch(chunks), strict=True):
        assert ours.encode_with_offsets(chunk)[1] == byte_offsets(chunk, encoding.offsets)


def test_clusters_are_refused(tmp_path):
    """What a cluster is has changed with Unicode: U+11000 begins one in older versions of Oniguruma."""
    with pytest.raises(bitrain.Error, match=r"\\X"):
        opened(words_tokenizer(split(r"\X")), tmp_path)


@pytest.mark.parametrize("pattern", [r"(?<=\R)a", r"(?<!\R)a", r"(?<=(?<=\R|a)b)c", r"(?<=x(?:\R))a"])
def test_line_breaks_in_a_lookbehind_are_refused(pattern, tmp_path):
    """tokenizers 0.23 does not find there what Debian 12's Oniguruma finds."""
    with pytest.raises(bitrain.Error, match=r"\\R' in a lookbehind"):
        opened(words_tokenizer(split(pattern)), tmp_path)


@pytest.mark.parametrize("pattern", [r"(?<=a)\R", r"(?<=(a)b)(?:\R)+", r"(?=\R)"])
def test_line_breaks_elsewhere_are_read(pattern, tmp_path):
    theirs = words_tokenizer(split(pattern))
    ours = opened(theirs, tmp_path)
    for text in ["a\r\nb", "ab\n\n", "\u2028a\x85", "ab\r\r\n"]:
        assert ours.encode_with_offsets(text)[1] == byte_offsets(text, theirs.encode(text).offsets)


def test_a_script_that_a_newer_character_cannot_be_told_from(tmp_path):
    theirs = words_tokenizer(split(r"\p{Cyrillic}+"))
    ours = opened(theirs, tmp_path)
    expect_same_cuts(theirs, ours, HARD[:-3] + ["привет мир"])
    with pytest.raises(bitrain.Error, match=r"U\+1E030"):
        ours.encode("\U0001e030")


@pytest.mark.parametrize("pattern", [r"(?:a|a)*b", r"(a+)+$|b", r"(?:\w+\s?)*!", r"(?:(?:a*)*)*c", r"(?>a+)cd"])
def test_runaway_expressions_end(pattern, tmp_path):
    theirs = words_tokenizer(split(pattern))
    ours = opened(theirs, tmp_path)
    try:
        ours.encode("a" * 20_000 + "d")
    except bitrain.Error as error:
        assert "the expression takes too" in str(error)


# --- pre-tokenizers ----------------------------------------------------------------------------------------

BYTES = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=True)
ALPHABET = {character: i for i, character in enumerate(sorted(pre_tokenizers.ByteLevel.alphabet()))}
PRE_TOKENIZERS = {
    "unicode scripts": pre_tokenizers.UnicodeScripts(),
    "delimiter": pre_tokenizers.CharDelimiterSplit("-"),
    "delimiter é": pre_tokenizers.CharDelimiterSplit("é"),
    "fixed length": pre_tokenizers.FixedLength(3),
    "fixed length 1": pre_tokenizers.FixedLength(1),
    "whitespace": pre_tokenizers.Whitespace(),
    "whitespace split": pre_tokenizers.WhitespaceSplit(),
    "digits": pre_tokenizers.Digits(),
    "digits alone": pre_tokenizers.Digits(individual_digits=True),
    "punctuation": pre_tokenizers.Punctuation(),
    "punctuation contiguous": pre_tokenizers.Punctuation("contiguous"),
    "bert": pre_tokenizers.BertPreTokenizer(),
    "several": pre_tokenizers.Sequence([pre_tokenizers.UnicodeScripts(), pre_tokenizers.WhitespaceSplit(), pre_tokenizers.FixedLength(4)]),
    "splits": pre_tokenizers.Sequence([split(r"[\r\n]"), split(r"\s?[A-Za-z]+"), split(r"\s+$"), split(r"[一-龥]+"),
                                       pre_tokenizers.Digits(True)]),
}


@pytest.mark.parametrize("name", PRE_TOKENIZERS)
def test_pre_tokenizers(name, tmp_path):
    theirs = words_tokenizer(PRE_TOKENIZERS[name])
    ours = opened(theirs, tmp_path)
    expect_same_cuts(theirs, ours, HARD + random_texts(500, 3))
    chunks = [CHARACTERS[at : at + 4096] for at in range(0, len(CHARACTERS), 4096)]
    expect_same_cuts(theirs, ours, chunks + [" ".join(chunk) for chunk in chunks[:20]])


BEHIND_BYTES = {
    "falcon": [pre_tokenizers.Punctuation("contiguous"), BYTES, pre_tokenizers.Digits(), split("[0-9][0-9][0-9]")],
    "digits last": [BYTES, pre_tokenizers.Digits(True)],
    "split last": [pre_tokenizers.ByteLevel(add_prefix_space=True, use_regex=False), split(r"Ġ")],
    "twice": [BYTES, BYTES],
    "in the middle": [pre_tokenizers.Digits(True), pre_tokenizers.Sequence([BYTES, pre_tokenizers.Punctuation()]), split("a|Ġ",
    "merged_with_next")],
    "nested, last": [pre_tokenizers.Digits(True), pre_tokenizers.Sequence([split(r"\s+"), BYTES])],
    "metaspace last": [BYTES, pre_tokenizers.Metaspace(prepend_scheme="always")],
    "whitespace behind": [BYTES, pre_tokenizers.Whitespace()],
}


@pytest.mark.parametrize("steps", BEHIND_BYTES)
def test_steps_behind_byte_level(steps, tmp_path):
    lines = HARD + random_texts(400, 4)
    for model, trainer in [
        (models.BPE(), trainers.BpeTrainer(vocab_size=600, initial_alphabet=list(ALPHABET), special_tokens=[], show_progress=False)),
        (models.WordPiece(unk_token="[UNK]"), trainers.WordPieceTrainer(vocab_size=600, special_tokens=["[UNK]"], show_progress=False)),
        (models.Unigram(), trainers.UnigramTrainer(vocab_size=400, initial_alphabet=list(ALPHABET), special_tokens=["<unk>"],
                                                   unk_token="<unk>", show_progress=False)),
        (models.WordLevel({"[UNK]": 0, "the": 1, "Ġcat": 2}, unk_token="[UNK]"), None),
    ]:
        theirs = Tokenizer(model)
        theirs.pre_tokenizer = pre_tokenizers.Sequence(BEHIND_BYTES[steps])
        if trainer:
            theirs.train_from_iterator(lines, trainer)
        ours = opened(theirs, tmp_path)
        texts = HARD + random_texts(400, 5)
        expect_same_ids(theirs, ours, texts)
        for text in HARD[2:6]:  # Plain ones, where a byte is a character or all of it is in one token.
            assert ours.encode_with_offsets(text)[0] == ours.encode(text)


# --- normalisers -------------------------------------------------------------------------------------------

NORMALIZERS = {
    "nfc": normalizers.NFC(), "nfd": normalizers.NFD(), "nfkc": normalizers.NFKC(), "nfkd": normalizers.NFKD(), "nmt": normalizers.Nmt(),
    "byte level": normalizers.ByteLevel(),
    "lowercase": normalizers.Lowercase(), "strip accents": normalizers.StripAccents(), "strip": normalizers.Strip(),
    "strip right": normalizers.Strip(left=False),
    "replace": normalizers.Replace(Regex(r"\s+"), " "), "replace nothing": normalizers.Replace(Regex("x*"), "-"),
    "replace empty": normalizers.Replace("", "-"), "replace punct": normalizers.Replace(Regex("[[:punct:]]"), ""),
    "prepend": normalizers.Prepend("▁"),
    "nfd and strip": normalizers.Sequence([normalizers.NFD(), normalizers.StripAccents(), normalizers.Lowercase()]),
    "bert": normalizers.BertNormalizer(), "bert cased": normalizers.BertNormalizer(lowercase=False, strip_accents=True),
    "bert with accents": normalizers.BertNormalizer(strip_accents=False),
}


def bytes_tokenizer(normalizer):
    """The ids are the bytes of the normalised text."""
    tokenizer = Tokenizer(models.BPE({f"<0x{byte:02X}>": byte for byte in range(256)}, [], byte_fallback=True))
    tokenizer.normalizer = normalizer
    return tokenizer


@pytest.mark.parametrize("name", NORMALIZERS)
def test_normalizers(name, tmp_path):
    theirs = bytes_tokenizer(NORMALIZERS[name])
    ours = opened(theirs, tmp_path)
    expect_same_ids(theirs, ours, HARD + random_texts(1000, 6))
    expect_same_ids(theirs, ours, ["".join(f"{c}\n" for c in CHARACTERS[at : at + 1024]) for at in range(0, len(CHARACTERS), 1024)])


@pytest.mark.parametrize("name", ["nfc", "nfd", "nfkc", "nfkd", "bert", "nfd and strip"])
def test_normal_forms_of_runs(name, tmp_path):
    """Bases and marks of all kinds in every order."""
    theirs = bytes_tokenizer(NORMALIZERS[name])
    source = random.Random(7)
    marks = [c for c in CHARACTERS[:0x20000] if unicodedata.category(c) in ("Mn", "Mc", "Me")] + [chr(c) for c in range(0x1160,
    0x1200)] + list("ﾞﾟㅏ")
    bases = [c for c in CHARACTERS[:0x3000] if c.isalpha()] + [chr(c) for c in range(0x1100, 0x1160)] + ["각", "가", "か", "ﾊ", "ㄱ"]
    texts = ["".join(source.choice(bases) + "".join(source.choices(marks, k=source.randint(0, 6))) for _ in range(8)) for _ in range(6000)]
    expect_same_ids(theirs, opened(theirs, tmp_path), texts)


LONG = {"marks": "e" + "\u0301\u0327" * 100_000, "dots": "İ" * 200_000, "marks of one class": "a" + "\u0301" * 300_000,
        "letters": "a" * 1_000_000, "thai": "ก" * 330_000, "spaces": " " * 1_000_000, "mixed": "ab 12,\u0301" * 100_000}


@pytest.mark.parametrize("name", NORMALIZERS)
def test_long_texts_without_a_break(name, tmp_path):
    """Would take hours where time is quadratic in a run."""
    theirs = bytes_tokenizer(NORMALIZERS[name])
    ours = opened(theirs, tmp_path)
    expect_same_ids(theirs, ours, list(LONG.values()))
    ours.encode_with_offsets(LONG["marks"])


# --- models and decoders -----------------------------------------------------------------------------------


@pytest.mark.parametrize("options", [{"end_of_word_suffix": "</w>"}, {"continuing_subword_prefix": "##"},
                                     {"continuing_subword_prefix": "##", "end_of_word_suffix": "</w>"}])
@pytest.mark.parametrize("behind_bytes", [False, True])
def test_bpe_with_prefix_and_suffix(options, behind_bytes, tmp_path):
    theirs = Tokenizer(models.BPE(unk_token="[UNK]", **options))
    theirs.pre_tokenizer = BYTES if behind_bytes else pre_tokenizers.WhitespaceSplit()
    trainer = trainers.BpeTrainer(vocab_size=500, special_tokens=["[UNK]"], show_progress=False, **options)
    theirs.train_from_iterator(["the cat saw the dog", "a dog saw a cat", "cats and dogs, cats or dogs"] * 10 + HARD[:8], trainer)
    theirs.decoder = decoders.BPEDecoder()
    ours = opened(theirs, tmp_path)
    texts = HARD + ["the cats saw dogs"] + random_texts(300, 8)
    expect_same_ids(theirs, ours, texts)
    for text in texts[1:20]:
        ids = ours.encode(text)
        assert not ids or ours.decode(ids) == theirs.decode(ids)


def test_byte_fallback_behind_byte_level(tmp_path):
    theirs = Tokenizer(models.BPE({**{f"<0x{byte:02X}>": byte for byte in range(256)}, "a": 256, "Ġ": 257}, [], byte_fallback=True))
    theirs.pre_tokenizer = BYTES
    expect_same_ids(theirs, opened(theirs, tmp_path), HARD)


def test_byte_fallback_with_some_bytes_is_refused(tmp_path):
    theirs = Tokenizer(models.BPE({"<0x41>": 0, "a": 1}, [], byte_fallback=True))
    with pytest.raises(bitrain.Error, match="1 of the 256 pieces"):
        opened(theirs, tmp_path)


@pytest.mark.parametrize("decoder", [decoders.CTC("<pad>", "|", True), decoders.CTC("<pad>", "|", False), decoders.BPEDecoder("|"),
                                     decoders.Replace(Regex("x*"), "-"), decoders.Replace("", "-"),
                                     decoders.Sequence([decoders.Fuse(), decoders.Replace(Regex("[[:punct:]]"), "")])])
def test_decoders(decoder, tmp_path):
    pieces = ["<pad>", "|", "h", "e", "l", " ,", "do not|", "o", "é|x", " .", "a<pad>b"]
    theirs = Tokenizer(models.WordLevel({piece: i for i, piece in enumerate(pieces)}, unk_token="<pad>"))
    theirs.decoder = decoder
    ours = opened(theirs, tmp_path)
    source = random.Random(9)
    for _ in range(300):
        ids = source.choices(range(len(pieces)), k=source.randint(1, 12))
        assert ours.decode(ids) == theirs.decode(ids)
