"""The picture of the worst classes against scikit-learn's confusion matrix."""

import numpy as np
from sklearn.metrics import confusion_matrix

from align_jax.evals.confusion import worst_confusions


def test_the_worst_classes_come_first_with_what_they_are_taken_for():
    labels = np.array([0, 0, 0, 1, 1, 2, 2, 2, 2, 3])
    guesses = np.array([0, 0, 3, 4, 4, 3, 0, 3, 2, 3])
    found = worst_confusions(labels, guesses, "abcde", title="worst", most=4)
    assert list(found.classes) == ["b", "e", "c", "d"], "b always for e, c thrice of four times and then for d"
    whole = confusion_matrix(labels, guesses, labels=[1, 4, 2, 3])
    np.testing.assert_array_equal(found.counts, whole)
    assert found.totals.tolist() == [2, 0, 4, 1], "c was once taken for a, which is not shown"
    assert "4 of 5 classes" in found.note and "they hold 4 of 6 errors in 10 guesses" in found.note


def test_what_is_always_right_is_not_shown():
    found = worst_confusions(np.arange(3), np.arange(3), "abc", title="none")
    assert not found.classes and found.counts.shape == (0, 0)


def test_no_more_classes_than_fit():
    rng = np.random.default_rng(0)
    labels, guesses = rng.integers(0, 50, (2, 500))
    assert len(worst_confusions(labels, guesses, [str(i) for i in range(50)], title="many").classes) == 16
