"""Alignment of word vectors, bitext mining and query fusion, with numpy as the oracle."""

import numpy as np
import pytest
import torch

import bitrain


def unit(x):
    return x / np.linalg.norm(x, axis=1, keepdims=True)


def largest(scores, k):
    """Columns and values of the k largest of each row."""
    columns = np.argsort(-scores, axis=1, kind="stable")[:, :k]
    return columns, np.take_along_axis(scores, columns, 1)


def spaces(seed, words=2000, width=30, noise=0.15):
    """A language, its translations by a hidden rotation and noise, and a tenth as many hubs around the mean."""
    random = np.random.default_rng(seed)
    mean = random.standard_normal((1, width))
    sources = unit(random.standard_normal((words, width)) + mean)
    rotation = np.linalg.qr(random.standard_normal((width, width)))[0]
    translations = unit(sources @ rotation + noise * random.standard_normal((words, width)))
    hubs = unit(mean @ rotation + 0.3 * random.standard_normal((words // 10, width)))
    # As float32 has them, so that both sides rank the same values.
    return *(a.astype(np.float32).astype(np.float64) for a in (sources, np.vstack([translations, hubs]))), rotation


def loss_and_gradient(x, y, sources, targets, matrix, k):
    columns, near_targets = largest(x @ matrix @ targets.T, k)
    rows, near_sources = largest(y @ (sources @ matrix).T, k)
    value = -(2 * np.sum(x @ matrix * y) - near_targets.sum() / k - near_sources.sum() / k) / len(x)
    gradient = -2 * x.T @ y
    for i in range(len(x)):
        gradient += np.outer(x[i], targets[columns[i]].mean(0)) + np.outer(sources[rows[i]].mean(0), y[i])
    return value, gradient / len(x)


def project(matrix, projection):
    if projection == "none":
        return matrix
    u, s, v = np.linalg.svd(matrix)
    return u @ np.diag(np.minimum(s, 1) if projection == "spectral" else np.ones_like(s)) @ v


def reference_rcsls(x, y, sources, targets, iterations, k, rate, projection):
    u, _, v = np.linalg.svd(x.T @ y)
    best = u @ v
    value, gradient = loss_and_gradient(x, y, sources, targets, best, k)
    for _ in range(iterations):
        matrix = project(best - rate * gradient, projection)
        tried = loss_and_gradient(x, y, sources, targets, matrix, k)
        if tried[0] < value:
            best, (value, gradient) = matrix, tried
        else:
            rate /= 2
    return best, value, rate


def tensors(*arrays):
    return [torch.from_numpy(np.ascontiguousarray(a, dtype=np.float32)) for a in arrays]


# The last overshoots first.
@pytest.mark.parametrize(("projection", "rate"),
                         [("none", 1.0), ("spectral", 1.0), ("orthogonal", 1.0), ("spectral", 25.0)])
def test_rcsls_is_the_reference(projection, rate):
    # Where the 10th and 11th nearest are equal to float32, either may count and the map moves by some 1e-5.
    sources, targets, _ = spaces(8)
    x, y = sources[:1000], targets[:1000]
    expected, value, last_rate = reference_rcsls(x, y, sources, targets, 10, 10, rate, projection)
    assert (last_rate < rate) == (rate > 1)
    ours = bitrain.fit_rcsls(*tensors(x, y, sources, targets), learning_rate=rate, projection=projection)
    assert np.abs(ours.numpy() - expected).max() < 1e-4
    ours_value, gradient = bitrain.rcsls_loss(*tensors(x, y, sources, targets), ours)
    assert abs(ours_value - value) < 1e-4
    expected_gradient = loss_and_gradient(x, y, sources, targets, ours.numpy().astype(np.float64), 10)[1]
    assert np.abs(gradient.numpy() - expected_gradient).max() < 1e-4


def test_procrustes_is_the_reference():
    sources, targets, rotation = spaces(4, noise=0.0)
    found = bitrain.procrustes(*tensors(sources, targets[:2000])).numpy()
    assert np.abs(found - rotation).max() < 1e-4


@pytest.mark.parametrize("csls", [0, 10])
def test_lexicon_is_the_reference(csls):
    sources, targets, rotation = spaces(5)
    mapped = sources @ rotation
    cosine = mapped @ targets.T
    scores = cosine
    if csls:
        scores = 2 * cosine - largest(cosine, csls)[1].mean(1)[:, None] - largest(cosine.T, csls)[1].mean(1)[None]
    queries = np.arange(1500, 2000)
    columns, values = largest(scores[queries], 10)
    rows, ours = bitrain.translate_words(*tensors(mapped * 2, targets), torch.from_numpy(queries), csls_neighbours=csls)
    assert np.abs(ours.numpy() - values).max() < 1e-5
    assert (rows.numpy() == columns).mean() > 0.999


@pytest.mark.parametrize("margin", ["absolute", "distance", "ratio"])
@pytest.mark.parametrize("strategy", ["forward", "backward", "intersection", "max"])
def test_mining_is_the_reference(margin, strategy):
    k = 4
    left, right, rotation = spaces(6, words=400, noise=0.1)
    left = left @ rotation
    cosine = left @ right.T
    around = (largest(cosine, k)[1].mean(1)[:, None] + largest(cosine.T, k)[1].mean(1)[None]) / 2
    scores = {"absolute": cosine, "distance": cosine - around, "ratio": cosine / around}[margin]
    forward = {(i, max(columns, key=lambda j: scores[i, j])) for i, columns in enumerate(largest(cosine, k)[0])}
    backward = {(max(rows, key=lambda i: scores[i, j]), j) for j, rows in enumerate(largest(cosine.T, k)[0])}
    expected = {"forward": forward, "backward": backward, "intersection": forward & backward}.get(strategy)
    if expected is None:
        expected, lefts, rights = set(), set(), set()
        for i, j in sorted(forward | backward, key=lambda pair: -scores[pair]):
            if i not in lefts and j not in rights:
                expected.add((i, j))
                lefts.add(i)
                rights.add(j)
    rows, ours = bitrain.mine_bitext(*tensors(left, right), margin=margin, strategy=strategy, neighbours=k)
    assert {tuple(pair) for pair in rows.tolist()} == {(int(i), int(j)) for i, j in expected}
    assert np.abs(ours.numpy() - scores[rows[:, 0], rows[:, 1]]).max() < 1e-4
    assert (ours.diff() <= 0).all()


def test_fusion_is_the_reference():
    random = np.random.default_rng(7)
    passages, queries = random.standard_normal((20, 16)), random.standard_normal((700, 16))
    owners = random.integers(0, 20, 700)
    expected = 0.9 * passages
    np.add.at(expected, owners, 0.1 * queries)
    ours = bitrain.fuse_queries(*tensors(passages, queries), torch.from_numpy(owners), weight=0.1)
    assert np.abs(ours.numpy() - expected).max() < 1e-4


def test_word_vectors_are_read(tmp_path):
    path = tmp_path / "words.vec"
    path.write_text("2 3\nthe 1 2 3 \nca\u00f1a -1 0.5 1e-3 \n")
    words, vectors = bitrain.read_word_vectors(path)
    assert words == ["the", "ca\u00f1a"]
    torch.testing.assert_close(vectors, torch.tensor([[1, 2, 3], [-1, 0.5, 1e-3]]))
    assert bitrain.read_word_vectors(path, max_words=1)[0] == ["the"]
    with pytest.raises(bitrain.ConfigError, match="max_words"):
        bitrain.read_word_vectors(path, max_word=1)
    path.write_text("the 1 2 3\nof 1 2\n")
    with pytest.raises(bitrain.DataError, match="words.vec:2"):
        bitrain.read_word_vectors(path)
