"""Which checkpoints are written and which stay."""

import dataclasses

import jax
import jax.numpy as jnp
import pytest

from align_jax import checkpoint
from align_jax.checkpoint import Checkpoints
from align_jax.state import TrainState
from align_jax.types import AlignError, Result


@pytest.fixture
def small():
    zeros = jnp.zeros((2,))
    return TrainState(jnp.int32(0), {"kernel": zeros}, {}, (), {"count": zeros}, jax.random.key(0))


def saved(folder, state, steps, results=None, **options):
    """The steps whose checkpoints are left."""
    with Checkpoints(folder, **({"every": 1} | options)) as checkpoints:
        for step in steps:
            if results and step in results:
                checkpoints.judge(step, [Result("pairs/R@1", results[step], 10, "")])
            checkpoints.save(dataclasses.replace(state, step=jnp.int32(step)), {})
    return sorted(int(path.name) for path in folder.iterdir() if path.name.isdigit())


def test_the_last_and_every_mth_stay(small, tmp_path):
    assert saved(tmp_path / "a", small, range(1, 9), keep=2) == [7, 8]
    assert saved(tmp_path / "b", small, range(1, 9), keep=2, keep_every=3) == [3, 6, 7, 8]


def test_the_best_stays(small, tmp_path):
    results = {2: 0.3, 4: 0.9, 6: 0.5, 8: 0.2}
    best = {"keep": 1, "best": "pairs/R@1"}
    assert saved(tmp_path / "a", small, range(1, 10), results, **best) == [4, 9]
    assert saved(tmp_path / "a", small, range(10, 13), {11: 0.8}, **best) == [4, 12], "also after a resume"
    assert saved(tmp_path / "a", small, range(13, 16), {14: 0.95}, **best) == [14, 15]


def test_an_unknown_result_is_named(small, tmp_path):
    with pytest.raises(AlignError, match=r"config.checkpoint.best: .* found 'pairs/R@2'; did you mean 'pairs/R@1'"):
        saved(tmp_path, small, [1], {1: 0.5}, best="pairs/R@2")


def test_by_steps_by_minutes_and_after_evaluations(small, tmp_path, monkeypatch):
    clock = [100.0]
    monkeypatch.setattr(checkpoint.time, "monotonic", lambda: clock[0])
    checkpoints = Checkpoints(tmp_path, every=10, minutes=2.0, best="pairs/R@1")
    assert checkpoints.due(10) and not checkpoints.due(11)
    clock[0] += 121
    assert checkpoints.due(11)
    checkpoints.save(small, {})
    assert not checkpoints.due(11), "the minutes count from the last one"
    checkpoints.judge(12, [Result("pairs/R@1", 0.5, 10, "")])
    assert checkpoints.due(12) and not checkpoints.due(13)
    checkpoints.judge(13, [Result("colours/top1", 0.5, 10, "")])
    assert not checkpoints.due(13), "another evaluator says nothing of which is the best"
    checkpoints.wait()
    monkeypatch.setattr(checkpoint.time, "time", lambda: 1e12)
    assert not checkpoints.due(13), "a wall clock that jumps ahead changes nothing"
    monkeypatch.setattr(checkpoint.time, "time", lambda: 0.0)
    clock[0] += 121
    assert checkpoints.due(13), "nor does one that is set back"


@pytest.mark.parametrize("options", [{"every": 0}, {"every": 1, "keep": 0}, {"every": 1, "minutes": -1.0}])
def test_impossible_policies(options, tmp_path):
    with pytest.raises(AlignError, match=r"config\.checkpoint: expected every and keep of at least 1"):
        Checkpoints(tmp_path, **options)
