"""Writes encoder_tokenizers.json.zst: small WordPiece, XLM-R and RoBERTa tokenizers made by Hugging Face's `tokenizers`, and the
ids, byte offsets, decoded text and framed inputs it gives for texts at which implementations differ. Run from the repository root:

    python tests/text/golden/make_encoder_tokenizers.py
"""

import json
import subprocess
import tempfile

import sentencepiece
from tokenizers import Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers
from transformers.utils import sentencepiece_model_pb2_new as sentencepiece_proto

HARD = [
    "", " ", "   ", "a", "  two  spaces  ", "¡Ñandú! ¿Qué?", "日本語のテキスト", "中文abc字", "😀👨‍👩‍👧 emoji", "e\u0301 combining \u0301x", "\u0301start",
    "\tTab\u2028line separator\u00a0nbsp\u0085next", "x\r\n\n  y\n", "1234567 ４５ ²³ Ⅷ ½", "it's WE'LL don’t do not", "a_b foo_bar $5 + 3 < 4 ~ ^ `",
    "ﬁne ① ＡＢＣ ﷺ Å İstanbul ΣΊΣΥΦΟΣ", "가각힣 \u1100\u1161\u11a8", "हिन्दी में", "ไทย", "= == === ---- ....", "señor dios SEÑOR Dios",
    "\ufffd\u200d\u200bzero\u200bwidth", "[CLS] [unk] </s>", "q\u0323\u0307 \u0344\u0323", "\x00\x01control\x1f\x7f", "\u0378\ue000\U000f0000unassigned",
    "\U0001d160\x1e\U0001d167", "\u1c89\ua7dc\U00010d50 \u0897 \U00011938", "ª\u0301 ª\u0897", "z" * 150, "¿porqué?" * 3, "\u200bfirst vanishes",
]


def lines():
    text = subprocess.run(["zstdcat", "examples/data/en-es.tsv.zst"], capture_output=True, check=True, text=True).stdout
    rows = [row.split("\t") for row in text.split("\n")[:1500] if row]
    return [row[1] for row in rows] + [row[2] for row in rows]


def bert(post_processor, **options):
    tokenizer = Tokenizer(models.WordPiece(unk_token="[UNK]"))
    tokenizer.normalizer = normalizers.BertNormalizer(**options)
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    tokenizer.decoder = decoders.WordPiece()
    special = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
    tokenizer.train_from_iterator(lines(), trainers.WordPieceTrainer(vocab_size=700, special_tokens=special, show_progress=False))
    tokenizer.post_processor = post_processor
    return tokenizer


def xlm_roberta(normalizer_steps, pre_tokenizer):
    """SentencePiece's pieces behind fairseq's four, as transformers converts them."""
    with tempfile.TemporaryDirectory() as folder:
        sentencepiece.SentencePieceTrainer.train(sentence_iterator=iter(lines()), model_prefix=f"{folder}/m", vocab_size=700,
                                                 normalization_rule_name="nmt_nfkc", num_threads=1, minloglevel=2)
        proto = sentencepiece_proto.ModelProto()
        with open(f"{folder}/m.model", "rb") as file:
            proto.ParseFromString(file.read())
    vocabulary = [("<s>", 0.0), ("<pad>", 0.0), ("</s>", 0.0), ("<unk>", 0.0)]
    vocabulary += [(piece.piece, piece.score) for piece in proto.pieces[3:]] + [("<mask>", 0.0)]
    tokenizer = Tokenizer(models.Unigram(vocabulary, unk_id=3))
    steps = [normalizers.Precompiled(proto.normalizer_spec.precompiled_charsmap), *normalizer_steps]
    tokenizer.normalizer = normalizers.Sequence(steps) if len(steps) > 1 else steps[0]
    tokenizer.pre_tokenizer = pre_tokenizer
    tokenizer.decoder = decoders.Metaspace(prepend_scheme="always")
    tokenizer.add_special_tokens(["<s>", "<pad>", "</s>", "<unk>", "<mask>"])
    tokenizer.post_processor = processors.TemplateProcessing(single="<s> $A </s>", pair="<s> $A </s> </s> $B </s>",
                                                             special_tokens=[("<s>", 0), ("</s>", 2)])
    return tokenizer


def roberta():
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(vocab_size=500, initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
                                  special_tokens=["<s>", "<pad>", "</s>", "<unk>", "<mask>"], show_progress=False)
    tokenizer.train_from_iterator(lines(), trainer)
    tokenizer.post_processor = processors.RobertaProcessing(("</s>", 2), ("<s>", 0), trim_offsets=False, add_prefix_space=False)
    return tokenizer


def tokenizers():
    template = processors.TemplateProcessing(single="[CLS] $A [SEP]", pair="[CLS] $A [SEP] $B:1 [SEP]:1",
                                             special_tokens=[("[CLS]", 2), ("[SEP]", 3)])
    always = pre_tokenizers.Metaspace(prepend_scheme="always")
    yield "bert uncased", bert(template, lowercase=True)
    yield "bert cased", bert(processors.BertProcessing(("[SEP]", 3), ("[CLS]", 2)), lowercase=False)
    yield "bert lower with accents", bert(template, lowercase=True, strip_accents=False)
    yield "bert plain", bert(template, clean_text=False, handle_chinese_chars=False, strip_accents=True, lowercase=False)
    yield "xlm-roberta", xlm_roberta([], pre_tokenizers.Sequence([pre_tokenizers.WhitespaceSplit(), always]))
    yield "xlm-roberta of older files", xlm_roberta(
        [normalizers.Replace(Regex(" {2,}"), " ")], pre_tokenizers.Sequence([pre_tokenizers.WhitespaceSplit(), always]))
    yield "xlm-roberta without WhitespaceSplit", xlm_roberta(
        [normalizers.Strip(False, True), normalizers.Replace(Regex(" {2,}"), "▁")], always)
    yield "roberta", roberta()


def byte_offsets(text, offsets):
    ends = [0]
    for character in text:
        ends.append(ends[-1] + len(character.encode()))
    return [[ends[begin], ends[end]] for begin, end in offsets]


def main():
    texts = HARD + lines()[:20] + lines()[1500:1520]
    result = []
    for name, tokenizer in tokenizers():
        tokenizer.encode_special_tokens = True
        cases = []
        for text in texts:
            encoding = tokenizer.encode(text, add_special_tokens=False)
            cases.append({"text": text, "ids": encoding.ids, "offsets": byte_offsets(text, encoding.offsets),
                          "decoded": tokenizer.decode(encoding.ids)})
        one, two = tokenizer.encode(texts[5]), tokenizer.encode(texts[5], texts[4])
        result.append({"name": name, "tokenizer": tokenizer.to_str(), "cases": cases,
                       "single": {"texts": [texts[5]], "ids": one.ids, "type_ids": one.type_ids},
                       "pair": {"texts": [texts[5], texts[4]], "ids": two.ids, "type_ids": two.type_ids}})
    text = json.dumps(result, ensure_ascii=False)
    subprocess.run(["zstd", "-19", "-q", "-f", "-o", "tests/text/golden/encoder_tokenizers.json.zst"], input=text.encode(), check=True)


main()
