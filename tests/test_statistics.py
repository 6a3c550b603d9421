"""Intervals and paired tests against scipy, and against cases that can be counted by hand."""

import itertools

import numpy as np
import pytest
from scipy import stats

from align_jax.evals import statistics
from align_jax.types import AlignError, Outcome

RNG = np.random.default_rng(0)
HITS = (RNG.random(200) < 0.7).astype(np.float32)
RANKS = RNG.exponential(20, 151).astype(np.float32)


def asked(values, **given):
    """Outcomes of the same examples."""
    return Outcome(np.asarray(values, np.float32), ids="same", **given)


@pytest.mark.parametrize(("values", "kind", "statistic"), [(HITS, "mean", np.mean), (RANKS, "median", np.median)])
def test_an_interval_is_the_percentile_bootstrap_of_scipy(values, kind, statistic):
    found = statistics.interval(Outcome(values, kind=kind))
    referee = stats.bootstrap((values,), statistic, n_resamples=20_000, method="percentile", rng=1).confidence_interval
    spread = referee.high - referee.low
    assert statistics.estimate(Outcome(values, kind=kind)) == pytest.approx(float(statistic(values)), rel=1e-6)
    np.testing.assert_allclose(found, referee, atol=0.1 * spread)


def test_an_interval_covers_the_truth_as_often_as_it_says(monkeypatch):
    monkeypatch.setattr(statistics, "DRAWS", 300)
    rng = np.random.default_rng(2)
    edges = [statistics.interval(Outcome((rng.random(100) < 0.4).astype(np.float32))) for _ in range(300)]
    covered = np.mean([low <= 0.4 <= high for low, high in edges])
    assert 0.91 <= covered <= 0.98


def test_what_belongs_together_is_drawn_together():
    """Five copies of each example tell no more than one."""
    alone = statistics.interval(Outcome(HITS))
    copies = np.repeat(HITS, 5)
    together = statistics.interval(Outcome(copies, units=np.repeat(np.arange(200), 5) * 7 - 3))
    assert together == alone
    low, high = statistics.interval(Outcome(copies))
    assert high - low < 0.6 * (alone[1] - alone[0])


def test_the_mean_over_parts_weighs_each_alike():
    values, parts = np.float32([1, 1, 1, 0, 0, 1]), np.array([0, 0, 0, 2, 2, 2])
    assert statistics.estimate(Outcome(values, parts=parts)) == pytest.approx((1 + 1 / 3) / 2)
    low, high = statistics.interval(Outcome(values, parts=parts))
    assert low < (1 + 1 / 3) / 2 < high <= 1
    rare = np.concatenate([np.zeros(99, np.float32), np.ones(1, np.float32)])
    drawn = statistics.draws(Outcome(rare, parts=np.arange(100) // 99))
    assert set(np.unique(drawn)) == {0.0, 0.5}, "a part that no draw holds is left out of the mean"
    assert 0.3 < (drawn == 0).mean() < 0.45  # (1 - 1/100)^100


def test_given_draws_are_taken_as_they_are():
    drawn = Outcome(np.linspace(0, 1, 101, dtype=np.float32), kind="draws")
    assert statistics.estimate(drawn) == pytest.approx(0.5)
    np.testing.assert_allclose(statistics.interval(drawn), (0.025, 0.975), atol=1e-6)


def test_the_same_seed_draws_the_same():
    np.testing.assert_array_equal(statistics.draws(Outcome(HITS), seed=3), statistics.draws(Outcome(HITS), seed=3))
    assert (statistics.draws(Outcome(HITS), seed=3) != statistics.draws(Outcome(HITS), seed=4)).any()


def mean_difference(first, second, axis):
    return np.mean(second - first, axis=axis)


def test_few_differences_give_the_exact_p_value():
    first = np.float32([0.1, 0.4, 0.35, 0.8, 0.0, 0.9, 0.3, 0.5, 0.5])
    second = np.float32([0.3, 0.45, 0.9, 0.7, 0.6, 0.95, 0.9, 0.8, 0.5])
    referee = stats.permutation_test((first, second), mean_difference, permutation_type="samples", vectorized=True)
    found = statistics.paired(asked(first), asked(second))
    assert found.p == pytest.approx(referee.pvalue)
    assert found.value == pytest.approx(referee.statistic, rel=1e-6)
    signs = itertools.product((-1, 1), repeat=8)
    sums = np.array([np.dot(sign, (second - first)[:8].astype(float)) for sign in signs])
    assert found.p == (np.abs(sums) >= abs(float((second - first).astype(float).sum())) - 1e-9).mean()


def test_many_differences_agree_with_scipy():
    for shift in (0.0, 0.06, 0.15):
        rng = np.random.default_rng(5)
        first = (rng.random(200) < 0.5).astype(np.float32)
        second = np.where(rng.random(200) < 0.5 + shift, 1 - first * (rng.random(200) < 0.3), first).astype(np.float32)
        referee = stats.permutation_test(
            (first, second), mean_difference, permutation_type="samples", vectorized=True, n_resamples=20_000, rng=6
        )
        found = statistics.paired(asked(first), asked(second))
        assert found.p == pytest.approx(referee.pvalue, abs=0.015)
        assert found.low <= found.value <= found.high


def test_p_values_of_models_alike_are_uniform(monkeypatch):
    monkeypatch.setattr(statistics, "FLIPS", 500)
    monkeypatch.setattr(statistics, "DRAWS", 10)
    rng = np.random.default_rng(7)
    found = [statistics.paired(asked(rng.normal(size=40)), asked(rng.normal(size=40))).p for _ in range(400)]
    assert stats.kstest(found, "uniform").pvalue > 0.01


def test_units_are_swapped_as_one():
    """30 units of 4 copies are 30 independent differences, not 120."""
    rng = np.random.default_rng(8)
    first, second = rng.normal(size=30), rng.normal(0.4, size=30)
    units = np.repeat(np.arange(30), 4)
    one = statistics.paired(asked(first), asked(second))
    copies = statistics.paired(asked(np.repeat(first, 4), units=units), asked(np.repeat(second, 4), units=units))
    assert copies.p == pytest.approx(one.p, abs=0.02)
    np.testing.assert_allclose(copies[:3], one[:3], rtol=1e-5)
    apart = statistics.paired(asked(np.repeat(first, 4)), asked(np.repeat(second, 4)))
    assert apart.p < 0.5 * one.p


def test_medians_and_draws_are_compared_by_joint_draws():
    better = asked(RANKS - 5, kind="median")
    found = statistics.paired(asked(RANKS, kind="median"), better)
    assert found == pytest.approx((-5.0, -5.0, -5.0, 2 / 1001), rel=1e-5), "no p-value is zero"
    drawn = np.random.default_rng(9).normal(size=1000)
    found = statistics.paired(asked(drawn, kind="draws"), asked(drawn + 0.01, kind="draws"))
    assert found.value == pytest.approx(0.01, rel=1e-3) and found.p < 0.01, "the noise of the draws is shared"
    assert statistics.paired(better, better).p == 1.0


def test_equal_outcomes_are_no_difference():
    assert statistics.paired(asked(HITS), asked(HITS)) == (0, 0, 0, 1)


@pytest.mark.parametrize(
    "second",
    [
        Outcome(HITS, ids="other"),
        asked(HITS[:-1]),
        asked(HITS, kind="median"),
        asked(HITS, units=np.arange(200) // 2),
        asked(HITS, parts=np.arange(200) % 2),
    ],
    ids=["ids", "number", "kind", "units", "parts"],
)
def test_other_examples_are_refused(second):
    with pytest.raises(AlignError, match="expected outcomes of the same examples, found 200 with ids same and"):
        statistics.paired(asked(HITS), second)


def test_unknown_examples_and_none_are_refused():
    with pytest.raises(AlignError, match="with ids unknown"):
        statistics.paired(Outcome(HITS), Outcome(HITS))
    for of in (statistics.estimate, statistics.interval, statistics.draws):
        with pytest.raises(AlignError, match="of at least one example, found none"):
            of(Outcome(HITS[:0]))


def test_holm_by_hand():
    assert statistics.holm([0.01, 0.04, 0.03, 0.005]) == pytest.approx([0.03, 0.06, 0.06, 0.02])
    assert statistics.holm([0.9, 0.8]) == [1.0, 1.0]
    assert statistics.holm([]) == []
