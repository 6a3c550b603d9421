"""Queries of images plus and minus texts: their arithmetic, and the evaluator."""

import numpy as np
import pytest

from align_jax.evals.query import compose
from align_jax.types import AlignError

NONE = np.zeros((0, 2), np.float32)
RIGHT, UP = np.array([[3, 0]], np.float32), np.array([[0, 0.5]], np.float32)


def test_compose_is_the_unit_weighted_sum_of_unit_rows():
    np.testing.assert_allclose(compose(RIGHT, [1], UP, [2]), np.array([1, 2]) / np.sqrt(5), rtol=1e-6)
    np.testing.assert_allclose(compose(RIGHT, [0.5], UP, [-0.5]), np.array([1, -1]) / np.sqrt(2), rtol=1e-6)
    np.testing.assert_allclose(compose(NONE, [], UP, [0.01]), [0, 1])
    assert compose(RIGHT, [1], NONE, []).dtype == np.float32


@pytest.mark.parametrize(
    ("query", "message"),
    [
        ((NONE, [], NONE, []), "found none"),
        ((RIGHT, [0], UP, [0.0]), "found none"),
        ((RIGHT, [1], RIGHT, [-1]), "cancel"),
        ((RIGHT, [], UP, [1, 1]), "found 0 and 2"),
        ((RIGHT, [1], UP, [1, 1]), "found 1 and 2"),
        ((RIGHT, [float("nan")], UP, [1]), "finite"),
        ((0 * RIGHT, [1], UP, [1]), "not zero"),
    ],
)
def test_compose_refuses_what_has_no_direction(query, message):
    with pytest.raises(AlignError, match=message):
        compose(*query)
