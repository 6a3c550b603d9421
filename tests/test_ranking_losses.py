"""The losses of fine-tuning on retrieval against numbers worked out by hand, and against numpy with its gradients."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from align_jax.losses import ranking

MARGIN = 0.2


def binary(scores):
    """(sum, its gradient), in plain numpy."""
    target = np.zeros_like(scores)
    target[:, 0] = 1.0
    probability = 1 / (1 + np.exp(-scores))
    loss = -(target * np.log(probability) + (1 - target) * np.log(1 - probability))
    return loss.sum(), probability - target


def multi_class(scores):
    target = np.zeros_like(scores)
    target[:, 0] = 1.0
    probability = np.exp(scores) / np.exp(scores).sum(1, keepdims=True)
    return -np.log(probability[:, 0]).sum(), probability - target


def triplet(scores):
    total, gradient = 0.0, np.zeros_like(scores)
    for row in range(len(scores)):
        hardest = 1 + scores[row, 1:].argmax()
        loss = MARGIN - scores[row, 0] + scores[row, hardest]
        if loss > 0:
            total += loss
            gradient[row, 0] -= 1
            gradient[row, hardest] += 1
    return total, gradient


CASES = {
    "binary": (ranking.binary, binary, lambda rows, width: rows * width),
    "multi_class": (ranking.multi_class, multi_class, lambda rows, width: rows),
    "triplet": (lambda scores: ranking.triplet(scores, margin=MARGIN), triplet, lambda rows, width: rows),
}


@pytest.mark.parametrize("width", [2, 5])
@pytest.mark.parametrize("name", CASES)
def test_losses_and_gradients_are_those_of_numpy(name, width):
    loss, reference, count = CASES[name]
    scores = np.random.default_rng(width).normal(size=(7, width))
    value, gradient = jax.value_and_grad(lambda x: loss(x).total)(scores.astype(np.float32))
    expected, slope = reference(scores)
    np.testing.assert_allclose(value, expected, rtol=1e-6)
    np.testing.assert_allclose(gradient, slope, rtol=1e-5, atol=1e-6)
    assert loss(jnp.asarray(scores, jnp.float32)).count == count(7, width)
    step, nudged = 1e-6, scores.copy()
    nudged[3, 1] += step
    np.testing.assert_allclose((reference(nudged)[0] - expected) / step, slope[3, 1], atol=1e-5)


def test_an_example_worked_out_by_hand():
    """Two pairs, each with two negatives: ln 3 for the positive, 0 and ln 2; and 0 for all."""
    scores = jnp.log(jnp.array([[3.0, 1.0, 2.0], [1.0, 1.0, 1.0]]))
    # Chances 3/4, 1/2, 2/3: -ln 3/4 - ln 1/2 - ln 1/3 = ln 8; then three times ln 2, or ln 8 again.
    np.testing.assert_allclose(ranking.binary(scores), (2 * np.log(8), 6), rtol=1e-6)
    # Shares 3/6 and 1/3: ln 2 + ln 3.
    np.testing.assert_allclose(ranking.multi_class(scores), (np.log(6), 2), rtol=1e-6)
    # The hardest is the third: 0.2 - ln 3 + ln 2 is below 0; then the margin itself.
    np.testing.assert_allclose(ranking.triplet(scores, margin=MARGIN), (0.2, 2), rtol=1e-6)
    np.testing.assert_allclose(ranking.triplet(scores, margin=1.0), (2.0 - np.log(1.5), 2), rtol=1e-6)
    np.testing.assert_allclose(ranking.accuracy(scores), (1.0, 2), rtol=0)  # a tie is a miss


@pytest.mark.parametrize("name", CASES)
def test_scores_of_thousands_do_not_overflow(name):
    scores = jnp.array([[1e4, -1e4], [-1e4, 1e4]])
    value, gradient = jax.value_and_grad(lambda x: CASES[name][0](x).total)(scores)
    assert np.isfinite(value) and np.isfinite(gradient).all()
