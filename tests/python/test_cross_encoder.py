"""Cross-encoders, with transformers and sentence-transformers as oracles: folders both ways, scores, cut texts and
gradients."""

import json
import shutil

import pytest
import sentence_transformers
import torch
import transformers

import bitrain

ROWS = [[2, 5, 9, 3, 17, 60, 3], [2, 44, 3, 8, 3], [2, 7, 3, 9, 3], list(range(2, 62))]
SMALL = dict(vocab_size=64, hidden_size=32, intermediate_size=48, num_hidden_layers=2, num_attention_heads=4,
             max_position_embeddings=70, hidden_dropout_prob=0.0, attention_probs_dropout_prob=0.0, num_labels=1)
DISTILLED = dict(vocab_size=64, dim=32, hidden_dim=48, n_layers=2, n_heads=4, max_position_embeddings=70, dropout=0.0,
                 attention_dropout=0.0, seq_classif_dropout=0.0, num_labels=1)
LANGUAGES = ["en_XX", "es_XX"]

MODELS = {
    "bert": lambda: transformers.BertForSequenceClassification(transformers.BertConfig(**SMALL)),
    "distilbert": lambda: transformers.DistilBertForSequenceClassification(transformers.DistilBertConfig(**DISTILLED)),
    "roberta": lambda: transformers.RobertaForSequenceClassification(transformers.RobertaConfig(**SMALL)),
    "xlm_roberta": lambda: transformers.XLMRobertaForSequenceClassification(
        transformers.XLMRobertaConfig(**SMALL, type_vocab_size=1)),
    "camembert": lambda: transformers.CamembertForSequenceClassification(transformers.CamembertConfig(**SMALL)),
    "xmod": lambda: transformers.XmodForSequenceClassification(transformers.XmodConfig(**SMALL, languages=LANGUAGES)),
}


def stirred(kind):
    torch.manual_seed(0)
    model = MODELS[kind]()
    with torch.no_grad():  # Biases and norms away from their neutral values, scores away from each other.
        for parameter in model.parameters():
            parameter.add_(0.2 * torch.randn_like(parameter))
    return model.eval()


def types_of(model):
    """The second half of each row is the candidate, where the model knows two types."""
    two = getattr(model.config, "type_vocab_size", 1) > 1
    return [[int(two and 2 * i >= len(row)) for i in range(len(row))] for row in ROWS]


def theirs(model):
    extra = {"lang_ids": torch.tensor([1])} if model.config.model_type == "xmod" else {}
    scores = []
    for row, types in zip(ROWS, types_of(model), strict=True):
        if model.config.model_type != "distilbert":  # It knows no types.
            extra["token_type_ids"] = torch.tensor([types])
        scores.append(model(torch.tensor([row]), **extra).logits[0])
    return torch.cat(scores)


def ours_of(folder, model):
    opened = bitrain.open_cross_encoder(folder, dtype="float32")
    return opened, opened.logits(ROWS, types_of(model), ["es"] * len(ROWS) if model.config.model_type == "xmod" else [])


@pytest.mark.parametrize("kind", MODELS)
def test_folders_both_ways(kind, tmp_path):
    model = stirred(kind)
    with torch.no_grad():
        expected = theirs(model)
    assert expected.std() > 0.02, "equal scores would agree anyway"
    model.save_pretrained(tmp_path / "theirs")
    ours, scores = ours_of(tmp_path / "theirs", model)
    torch.testing.assert_close(scores, expected, atol=1e-5, rtol=0)
    bitrain.save_cross_encoder(ours, tmp_path / "ours")
    torch.testing.assert_close(ours_of(tmp_path / "ours", model)[1], expected, atol=1e-5, rtol=0)
    again, info = transformers.AutoModelForSequenceClassification.from_pretrained(
        tmp_path / "ours", output_loading_info=True)
    assert type(again) is type(model) and again.config.num_labels == 1
    assert not info["missing_keys"] and not info["unexpected_keys"] and not info["mismatched_keys"]
    with torch.no_grad():
        torch.testing.assert_close(theirs(again.eval()), expected, atol=1e-5, rtol=0)


@pytest.mark.parametrize("kind", MODELS)
def test_list_wise_gradients(kind, tmp_path):
    """The first row is the answer, the others are its negatives (T2Ranking: cross-entropy at index 0)."""
    model = stirred(kind)
    model.save_pretrained(tmp_path)
    expected = torch.nn.functional.cross_entropy(theirs(model)[None], torch.tensor([0]))
    expected.backward()
    ours = bitrain.open_cross_encoder(tmp_path, dtype="float32")
    for tensor in (tensors := ours.tensors()).values():
        tensor.requires_grad_()
    xmod = model.config.model_type == "xmod"
    scores = ours.logits(ROWS, types_of(model), ["es"] * len(ROWS) if xmod else [])
    loss = -torch.log_softmax(scores, 0)[0]
    torch.testing.assert_close(loss, expected, atol=1e-5, rtol=0)
    loss.backward()
    compared = 0
    for name, parameter in model.named_parameters():
        gradient = parameter.grad
        if gradient is None or tensors[name].grad is None:  # An adapter of another language.
            assert gradient is None or not gradient.any(), name
            continue
        tolerance = 1e-4 * gradient.abs().max().item() + 1e-6
        torch.testing.assert_close(tensors[name].grad, gradient, atol=tolerance, rtol=0, msg=name)
        compared += 1
    assert compared >= 38


@pytest.fixture(scope="module")
def lettered(tmp_path_factory):
    """A BERT of letters with its tokenizer, written by transformers."""
    folder = tmp_path_factory.mktemp("lettered")
    letters = [chr(c) for c in range(ord("a"), ord("z") + 1)]
    words = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *letters, *("##" + letter for letter in letters)]
    (folder / "vocab.txt").write_text("\n".join(words) + "\n")
    tokenizer = transformers.BertTokenizerFast(str(folder / "vocab.txt"), model_max_length=64)
    torch.manual_seed(1)
    model = transformers.BertForSequenceClassification(transformers.BertConfig(**{**SMALL, "vocab_size": len(words)}))
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.2 * torch.randn_like(parameter))
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


def copied(source, target):
    shutil.copytree(source, target)
    return target


def edit(path, **keys):
    path.write_text(json.dumps(json.loads(path.read_text()) | keys))


PAIRS = [("cat", "a dog saw"), ("bird", "it sings in the tree"), ("a", "b c d e f g h i j k l m n o p q r s t u v"),
         ("a b c d e f g h i j k l m n o p", "x y z"), ("a b c d e f g h i j k l", "m n o p q r s t u v w x y")]


@pytest.mark.parametrize("max_length", [64, 20, 13, 12])
def test_texts_are_framed_and_cut_as_sentence_transformers_does(lettered, tmp_path, max_length):
    ours = bitrain.open_cross_encoder(lettered, dtype="float32", tokenizer=True)
    bitrain.save_cross_encoder(ours, tmp_path / "ours")
    model = sentence_transformers.CrossEncoder(str(tmp_path / "ours"), max_length=max_length)
    logits = {"activation_fn": torch.nn.Identity(), "show_progress_bar": False}  # The folder names no activation.
    expected = torch.tensor(model.predict(PAIRS, **logits))
    assert expected.std() > 0.02
    torch.testing.assert_close(ours.predict(PAIRS, max_length=max_length), expected, atol=1e-5, rtol=0)
    ranked = model.rank("cat", [document for _, document in PAIRS], show_progress_bar=False)
    scores = ours.predict([("cat", document) for _, document in PAIRS], max_length=max_length)
    assert [hit["corpus_id"] for hit in ranked] == scores.argsort(descending=True).tolist()


def test_a_cross_encoder_of_sentence_transformers_opens(lettered, tmp_path):
    theirs = sentence_transformers.CrossEncoder(str(lettered), max_length=64)
    theirs.save_pretrained(str(tmp_path / "theirs"))
    ours = bitrain.open_cross_encoder(tmp_path / "theirs", dtype="float32", tokenizer=True)
    expected = torch.tensor(theirs.predict(PAIRS, activation_fn=torch.nn.Identity(), show_progress_bar=False))
    torch.testing.assert_close(ours.predict(PAIRS, max_length=64), expected, atol=1e-5, rtol=0)


SIGMOID = "torch.nn.modules.activation.Sigmoid"


@pytest.mark.parametrize("use", [None, {"activation_fn": SIGMOID, "version": "5.1.0"},
                                 {"activation_fn": "torch.nn.modules.linear.Identity"}], ids=str)
def test_what_is_applied_to_scores_is_kept(use, lettered, tmp_path):
    """Without a word sentence-transformers takes the sigmoid."""
    copied(lettered, tmp_path / "theirs")
    if use is not None:
        edit(tmp_path / "theirs" / "config.json", sentence_transformers=use)
    bitrain.save_cross_encoder(bitrain.open_cross_encoder(tmp_path / "theirs", tokenizer=True), tmp_path / "ours")
    assert json.loads((tmp_path / "ours" / "config.json").read_text()).get("sentence_transformers") == use
    expected, ours = (torch.tensor(sentence_transformers.CrossEncoder(str(tmp_path / name)).predict(PAIRS))
                      for name in ("theirs", "ours"))
    torch.testing.assert_close(ours, expected, atol=1e-6, rtol=0)


def test_prompts_and_lengths_of_the_folder_count(lettered, tmp_path):
    theirs = sentence_transformers.CrossEncoder(str(lettered), max_length=16, prompts={"query": "q r ", "other": "s "},
                                                default_prompt_name="query")
    theirs.save_pretrained(str(tmp_path / "theirs"))
    ours = bitrain.open_cross_encoder(tmp_path / "theirs", dtype="float32", tokenizer=True)
    bitrain.save_cross_encoder(ours, tmp_path / "ours")
    again = sentence_transformers.CrossEncoder(str(tmp_path / "ours"))
    plain = {"activation_fn": torch.nn.Identity(), "convert_to_tensor": True}
    for prompt in ({}, {"prompt_name": "other"}, {"prompt": ""}):
        expected = theirs.predict(PAIRS, **plain, **prompt)
        torch.testing.assert_close(ours.predict(PAIRS, **prompt), expected, atol=1e-5, rtol=0)
        torch.testing.assert_close(again.predict(PAIRS, **plain, **prompt), expected, atol=1e-5, rtol=0)
    for file in ("modules.json", "config_sentence_transformers.json", "sentence_bert_config.json"):
        assert json.loads((tmp_path / "ours" / file).read_text()) == json.loads((tmp_path / "theirs" / file).read_text())
    with pytest.raises(bitrain.ConfigError, match="there is no prompt 'quary'"):
        ours.predict(PAIRS, prompt_name="quary")
    edit(tmp_path / "theirs" / "sentence_bert_config.json", config_kwargs={"num_hidden_layers": 1})
    with pytest.raises(bitrain.UnsupportedError, match="config_kwargs: 'num_hidden_layers' is not supported"):
        bitrain.open_cross_encoder(tmp_path / "theirs")


@pytest.mark.parametrize(("kind", "key"), [("bert", "classifier_dropout"), ("xlm_roberta", "classifier_dropout"),
                                           ("distilbert", "seq_classif_dropout")])
def test_the_dropout_of_the_head_is_kept(kind, key, tmp_path):
    model = stirred(kind)
    setattr(model.config, key, 0.375)
    model.save_pretrained(tmp_path / "theirs")
    bitrain.save_cross_encoder(bitrain.open_cross_encoder(tmp_path / "theirs"), tmp_path / "ours")
    again = transformers.AutoModelForSequenceClassification.from_pretrained(tmp_path / "ours")
    head = again.classifier if kind == "xlm_roberta" else again
    assert getattr(again.config, key) == head.dropout.p == 0.375


def test_other_folders_are_refused(tmp_path, lettered):
    stirred("bert").bert.save_pretrained(tmp_path / "bare")
    with pytest.raises(bitrain.FormatError, match="no head that scores pairs"):
        bitrain.open_cross_encoder(tmp_path / "bare")
    three = transformers.BertForSequenceClassification(transformers.BertConfig(**{**SMALL, "num_labels": 3}))
    three.save_pretrained(tmp_path / "three")
    with pytest.raises(bitrain.UnsupportedError, match="a cross-encoder has one label"):
        bitrain.open_cross_encoder(tmp_path / "three")
    stirred("distilbert").distilbert.save_pretrained(tmp_path / "bare distilbert")
    with pytest.raises(bitrain.FormatError, match=r"no head that scores pairs of texts \(classifier.weight\)"):
        bitrain.open_cross_encoder(tmp_path / "bare distilbert")
    with pytest.raises(bitrain.ConfigError, match="no room for two texts"):
        bitrain.open_cross_encoder(lettered, tokenizer=True).predict([("a", "b")], max_length=4)
    with pytest.raises(bitrain.StateError, match="without its tokenizer"):
        bitrain.open_cross_encoder(lettered).predict([("a", "b")])
    with pytest.raises(bitrain.DataError, match="longer than the 70"):
        bitrain.open_cross_encoder(lettered).logits([[5] * 71])
