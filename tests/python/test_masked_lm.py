"""Masked language models, with transformers as the oracle: folders both ways, logits, losses and gradients."""

import json

import pytest
import safetensors.torch
import torch
import transformers

import bitrain

ROWS = [[4, 5, 9, 3, 17, 60, 2], [4, 44, 8], [7], list(range(2, 62))]
SMALL = dict(vocab_size=64, hidden_size=32, intermediate_size=48, num_hidden_layers=2, num_attention_heads=4,
             max_position_embeddings=70, hidden_dropout_prob=0.0, attention_probs_dropout_prob=0.0)
LANGUAGES = ["en_XX", "es_XX"]

MODELS = {
    "bert": lambda: transformers.BertForMaskedLM(transformers.BertConfig(**SMALL)),
    "bert_relu": lambda: transformers.BertForMaskedLM(transformers.BertConfig(**SMALL, hidden_act="relu")),
    "bert_next_sentence": lambda: transformers.BertForPreTraining(transformers.BertConfig(**SMALL)),
    "distilbert": lambda: transformers.DistilBertForMaskedLM(transformers.DistilBertConfig(
        vocab_size=64, dim=32, hidden_dim=48, n_layers=2, n_heads=4, max_position_embeddings=70, dropout=0.0)),
    "roberta": lambda: transformers.RobertaForMaskedLM(transformers.RobertaConfig(**SMALL)),
    "roberta_relu": lambda: transformers.RobertaForMaskedLM(transformers.RobertaConfig(**SMALL, hidden_act="relu")),
    "xlm_roberta": lambda: transformers.XLMRobertaForMaskedLM(transformers.XLMRobertaConfig(**SMALL, type_vocab_size=1)),
    "camembert": lambda: transformers.CamembertForMaskedLM(transformers.CamembertConfig(**SMALL)),
    "xmod": lambda: transformers.XmodForMaskedLM(transformers.XmodConfig(**SMALL, languages=LANGUAGES)),
}


def stirred(kind):
    torch.manual_seed(0)
    model = MODELS[kind]()
    with torch.no_grad():  # Biases and norms away from their neutral values.
        for parameter in model.parameters():
            parameter.add_(0.05 * torch.randn_like(parameter))
    return model.eval()


def types_of(model):
    """The second half of each row is another sentence, where the model knows two."""
    two = getattr(model.config, "type_vocab_size", 1) > 1
    return [[int(two and 2 * i >= len(row)) for i in range(len(row))] for row in ROWS]


def extra_inputs(model, types):
    """What this kind of model reads beside the ids."""
    if model.config.model_type == "distilbert":
        return {}
    languages = {"lang_ids": torch.ones(len(types), dtype=torch.long)} if model.config.model_type == "xmod" else {}
    return {"token_type_ids": types, **languages}


def theirs(model):
    """Logits of the tokens of each row, and of next sentences where there is the head."""
    tokens, sentences = [], []
    with torch.no_grad():
        for row, types in zip(ROWS, types_of(model), strict=True):
            output = model(torch.tensor([row]), **extra_inputs(model, torch.tensor([types])))
            tokens.append((output.logits if "logits" in output else output.prediction_logits)[0])
            if "seq_relationship_logits" in output:
                sentences.append(output.seq_relationship_logits)
    return tokens, sentences


def compare(folder, model):
    ours = bitrain.open_masked_lm(folder, dtype="float32")
    languages = ["es"] * len(ROWS) if model.config.model_type == "xmod" else []
    tokens, sentences = theirs(model)
    for a, b in zip(ours.logits(ROWS, types_of(model), languages), tokens, strict=True):
        torch.testing.assert_close(a, b, atol=1e-5, rtol=0)
    assert ours.has_next_sentence == bool(sentences)
    if sentences:
        torch.testing.assert_close(ours.next_sentence_logits(ROWS, types_of(model)), torch.cat(sentences), atol=1e-5, rtol=0)
    return ours


@pytest.mark.parametrize("kind", MODELS)
def test_folders_both_ways(kind, tmp_path):
    model = stirred(kind)
    assert theirs(model)[0][0].std() > 0.2, "trivial logits would agree anyway"
    model.save_pretrained(tmp_path / "theirs")
    ours = compare(tmp_path / "theirs", model)
    bitrain.save_masked_lm(ours, tmp_path / "ours")
    compare(tmp_path / "ours", model)
    again, info = type(model).from_pretrained(tmp_path / "ours", output_loading_info=True)
    assert not info["missing_keys"] and not info["unexpected_keys"] and not info["mismatched_keys"]
    for a, b in zip(theirs(again.eval())[0] + theirs(again)[1], theirs(model)[0] + theirs(model)[1], strict=True):
        torch.testing.assert_close(a, b, atol=1e-5, rtol=0)
    config = json.loads((tmp_path / "ours" / "config.json").read_text())
    assert config["architectures"] == [type(model).__name__]


def test_the_encoder_of_a_masked_lm_opens_alone(tmp_path):
    model = stirred("bert_next_sentence")
    model.save_pretrained(tmp_path / "theirs")
    bitrain.save_masked_lm(bitrain.open_masked_lm(tmp_path / "theirs"), tmp_path / "ours")
    hidden = bitrain.open_encoder(tmp_path / "ours").hidden(ROWS)
    for row, states in zip(ROWS, hidden, strict=True):
        with torch.no_grad():
            expected = model.bert(torch.tensor([row])).last_hidden_state[0]
        torch.testing.assert_close(states, expected, atol=1e-5, rtol=0)


@pytest.mark.parametrize("kind", ["bert_next_sentence", "roberta"])
def test_old_files_repeat_the_tied_tensors(kind, tmp_path):
    """Files of transformers 4 hold the decoder beside the embedding, and some its bias under that name only."""
    model = stirred(kind)
    model.save_pretrained(tmp_path)
    tensors = safetensors.torch.load_file(tmp_path / "model.safetensors")
    head = "cls.predictions" if kind.startswith("bert") else "lm_head"
    base = "bert" if kind.startswith("bert") else "roberta"
    tensors[f"{head}.decoder.weight"] = tensors[f"{base}.embeddings.word_embeddings.weight"].clone()
    tensors[f"{head}.decoder.bias"] = tensors.pop(f"{head}.bias")
    tensors[f"{base}.embeddings.position_ids"] = torch.arange(70)[None]
    safetensors.torch.save_file(tensors, tmp_path / "model.safetensors", metadata={"format": "pt"})
    compare(tmp_path, model)


def test_folders_without_the_heads_are_refused(tmp_path):
    stirred("bert").bert.save_pretrained(tmp_path / "bare")
    with pytest.raises(bitrain.FormatError, match="missing: .*bert.embeddings"):
        bitrain.open_masked_lm(tmp_path / "bare")
    model = stirred("bert")
    model.save_pretrained(tmp_path / "untied")
    config = json.loads((tmp_path / "untied" / "config.json").read_text())
    config["tie_word_embeddings"] = False
    (tmp_path / "untied" / "config.json").write_text(json.dumps(config))
    with pytest.raises(bitrain.UnsupportedError, match="tie_word_embeddings"):
        bitrain.open_masked_lm(tmp_path / "untied")
    model.save_pretrained(tmp_path / "plain")
    with pytest.raises(bitrain.StateError, match="no head for next sentences"):
        bitrain.open_masked_lm(tmp_path / "plain").next_sentence_logits(ROWS)


def labelled(seed=3):
    """Labels for about a third of the tokens of each row."""
    torch.manual_seed(seed)
    return [[int(torch.randint(64, ())) if i % 3 == 1 else -100 for i in range(len(row))] for row in ROWS]


def padded(rows, value):
    width = max(map(len, rows))
    return torch.tensor([row + [value] * (width - len(row)) for row in rows])


@pytest.mark.parametrize("kind", MODELS)
def test_losses_and_gradients(kind, tmp_path):
    """Theirs over padded rows, ours over packed ones; the mean over labels."""
    model = stirred(kind)
    model.save_pretrained(tmp_path)
    ours = bitrain.open_masked_lm(tmp_path, dtype="float32")
    tensors = ours.tensors()
    for tensor in tensors.values():
        tensor.requires_grad_()
    labels, types = labelled(), types_of(model)
    xmod = model.config.model_type == "xmod"
    output = model(padded(ROWS, model.config.pad_token_id), attention_mask=padded([[1] * len(row) for row in ROWS], 0),
                   **extra_inputs(model, padded(types, 0)))
    expected = torch.nn.functional.cross_entropy(
        (output.logits if "logits" in output else output.prediction_logits).transpose(1, 2), padded(labels, -100), reduction="sum")
    next_sentence = []
    if "seq_relationship_logits" in output:
        next_sentence = [0, 1, -100, 1]
        counts = torch.tensor([sum(label != -100 for label in row) for row in labels])
        pairs = torch.nn.functional.cross_entropy(output.seq_relationship_logits, torch.tensor(next_sentence), reduction="none")
        expected = expected + (pairs * counts).sum()
    expected.backward()
    total, weight, parts = ours.loss(ROWS, labels, types, next_sentence, ["es"] * len(ROWS) if xmod else [])
    assert weight == sum(label != -100 for row in labels for label in row)
    torch.testing.assert_close(total / weight, expected.detach() / weight, atol=1e-5, rtol=0)
    if next_sentence:
        assert parts["next_sentence"] == (pytest.approx(pairs.sum().item(), abs=1e-5), 3)
    total.backward()
    theirs_by_name = dict(model.named_parameters(remove_duplicate=False))
    compared = 0
    for name, tensor in tensors.items():
        gradient = theirs_by_name[name].grad
        if gradient is None or tensor.grad is None:  # An adapter of another language.
            assert gradient is None or not gradient.any(), name
            continue
        tolerance = 1e-4 * gradient.abs().max().item() + 1e-6
        torch.testing.assert_close(tensor.grad, gradient, atol=tolerance, rtol=0, msg=name)
        compared += 1
    assert compared >= 40


def test_the_loss_of_pre_training_is_theirs(tmp_path):
    """With as many labels in each pair, the mean of ours is BertForPreTraining's: a mean of each."""
    model = stirred("bert_next_sentence")
    model.save_pretrained(tmp_path)
    ours = bitrain.open_masked_lm(tmp_path, dtype="float32")
    rows, types = [[2, 7, 8, 3, 9, 3], [2, 9, 3, 11, 12, 3]], [[0, 0, 0, 0, 1, 1], [0, 0, 0, 1, 1, 1]]
    labels = [[-100, 7, -100, -100, 30, -100], [-100, -100, -100, 11, 12, -100]]
    with torch.no_grad():
        expected = model(torch.tensor(rows), token_type_ids=torch.tensor(types), labels=torch.tensor(labels),
                         next_sentence_label=torch.tensor([0, 1])).loss
    total, weight, _ = ours.loss(rows, labels, types, [0, 1])
    torch.testing.assert_close(total.detach() / weight, expected, atol=1e-5, rtol=0)


def test_a_batch_without_labels_has_no_weight(tmp_path):
    stirred("roberta").save_pretrained(tmp_path)
    model = bitrain.open_masked_lm(tmp_path, dtype="float32")
    total, weight, _ = model.loss(ROWS, [[-100] * len(row) for row in ROWS])
    assert (total.item(), weight) == (0, 0)
    with pytest.raises(bitrain.DataError, match="outside the vocabulary of 64"):
        model.loss([[3, 4]], [[-100, 64]])
    with pytest.raises(bitrain.StateError, match="next_sentence labels"):
        model.loss(ROWS, ROWS, next_sentence=[0])
