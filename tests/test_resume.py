"""A killed run goes on as if nothing had happened; an unfinished checkpoint is never read and never lost."""

import dataclasses
import json
import logging
import os
import signal
import time

import jax
import numpy as np
import pytest
import shapes_run
from safetensors.numpy import load_file

from align_jax import optim, sharding, state, train
from align_jax.checkpoint import Checkpoints
from align_jax.tasks import align
from align_jax.types import AlignError, Aux, Mean


def last_rows(workdir):
    """{step: {name: value}}, the last value of each name at each step; times aside."""
    rows: dict[int, dict] = {}
    for line in (workdir / "metrics.jsonl").read_text().splitlines():
        rows.setdefault(json.loads(line)["step"], {}).update(json.loads(line))
    for row in rows.values():
        row.pop("pairs_per_second", None)
        row.pop("data_wait", None)
    return rows


def kill_after(step, process, workdir):
    """SIGKILL once `step` stands in the metrics and a checkpoint in its folder."""
    metrics = workdir / "metrics.jsonl"
    while True:
        if metrics.exists() and metrics.read_text().count("\n") >= step and (workdir / "checkpoints" / "4").exists():
            break
        assert process.poll() is None, process.communicate()
        time.sleep(0.02)
    os.kill(process.pid, signal.SIGKILL)
    process.communicate()
    assert process.returncode == -signal.SIGKILL


def test_a_killed_run_continues_bit_for_bit(finished_run, tmp_path):
    config = finished_run.parent / "config.py"
    workdir = tmp_path / "run"
    arguments = (f"--config={config}", f"--workdir={workdir}")
    process = shapes_run.start("align_jax.main", *arguments)
    kill_after(5, process, workdir)
    steps = max(last_rows(workdir))
    assert 5 <= steps < 12, "the run was over before it was killed"

    unfinished = {
        workdir / "checkpoints" / "11": "numbered, but without the mark of a finished one",
        workdir / "checkpoints" / "10.orbax-checkpoint-tmp": "what Orbax writes into before it renames",
    }
    for folder, text in unfinished.items():
        (folder / "state").mkdir(parents=True)
        (folder / "state" / "data").write_text(text)
    _, err = shapes_run.finish("align_jax.main", *arguments)
    assert "from step 4 of 12" in err or "from step 8 of 12" in err
    for name, text in zip(("11", "10"), unfinished.values(), strict=True):
        assert f"checkpoints/{name}" in err and "unfinished and is ignored" in err
        assert (workdir / "checkpoints" / f"{name}.unfinished" / "state" / "data").read_text() == text

    assert last_rows(workdir) == last_rows(finished_run)
    assert set(last_rows(workdir)) == set(range(1, 13))
    one, other = (load_file(folder / "export" / "model.safetensors") for folder in (workdir, finished_run))
    assert one.keys() == other.keys()
    assert all(one[name].tobytes() == other[name].tobytes() for name in one)


@pytest.fixture
def tiny():
    mesh = sharding.make_mesh(devices=1)
    optimizer = optim.make(steps=10, learning_rate=1e-2, warmup=0)
    with jax.set_mesh(mesh):
        yield state.create(align.tiny(), optimizer, align.tiny().dummy_batch(1), seed=0, mesh=mesh)


def test_readers_leave_unfinished_folders_where_they_are(tiny, tmp_path, caplog):
    with Checkpoints(tmp_path, every=1) as checkpoints:
        checkpoints.save(tiny, {})
    writing = tmp_path / "7.orbax-checkpoint-tmp"
    writing.mkdir()
    with caplog.at_level(logging.WARNING), Checkpoints(tmp_path, every=1) as checkpoints:
        assert checkpoints.latest() == 0
        checkpoints.restore(tiny)
    assert f"{writing} is unfinished" in caplog.text
    assert writing.exists(), "its writer may be alive"


def test_what_was_set_aside_is_kept(tiny, tmp_path):
    for text in ("first", "second"):
        (tmp_path / "0").mkdir()
        (tmp_path / "0" / text).touch()
        with Checkpoints(tmp_path / ".", every=1) as checkpoints:
            checkpoints.save(tiny, {})
        (tmp_path / "0" / "_CHECKPOINT_METADATA").unlink()
        (tmp_path / "0").rename(tmp_path / f"gone_{text}")
    assert (tmp_path / "0.unfinished" / "first").exists()
    assert (tmp_path / "0.unfinished-1" / "second").exists()


def test_a_checkpoint_of_another_model_is_refused(tiny, tmp_path):
    with Checkpoints(tmp_path, every=1) as checkpoints:
        checkpoints.save(tiny, {})
        checkpoints.wait()
        other = dataclasses.replace(tiny, params={"other": tiny.step})
        with pytest.raises(AlignError, match="does not fit this config"):
            checkpoints.restore(other)
        wider = jax.tree.map(lambda x: jax.numpy.concatenate([x, x]) if x.ndim else x, tiny.params)
        with pytest.raises(AlignError, match="does not fit this config"):
            checkpoints.restore(dataclasses.replace(tiny, params=wider))


class Quadratic:
    """A task whose loss is not finite where a row of the batch is not."""

    def loss(self, params, model_state, task_state, batch, rng, step):
        loss = jax.numpy.sum(jax.numpy.square(params["kernel"])) + jax.numpy.mean(batch["x"])
        seen = {"batch_stats": {"mean": model_state["batch_stats"]["mean"] + batch["x"].mean()}}
        return loss, Aux(seen, {"count": task_state["count"] + 1}, {"loss": Mean(loss, jax.numpy.ones(()))})


@pytest.mark.parametrize("poison", [np.nan, np.inf])
def test_a_step_that_is_not_finite_changes_the_step_count_alone(poison):
    optimizer = optim.make(steps=10, learning_rate=0.1, warmup=0, ema=0.9, clip_norm=1.0)
    params = {"kernel": jax.numpy.ones((2, 2))}
    before = state.TrainState(
        step=jax.numpy.int32(3), params=params, model_state={"batch_stats": {"mean": jax.numpy.zeros(())}},
        task_state={"count": jax.numpy.int32(0)}, opt_state=optimizer.init(params), rng=jax.random.key(0),
    )  # fmt: skip
    step = jax.jit(lambda state, batch: train.step_fn(Quadratic(), optimizer, state, batch))  # pyright: ignore
    x = jax.numpy.ones((4,))

    poisoned, metrics, norms = step(before, {"x": x.at[2].set(poison)})
    assert int(poisoned.step) == 4 and norms.shape == (1,)
    assert metrics["non_finite_steps"].compute() == 1.0
    for name in ("params", "model_state", "task_state", "opt_state"):
        for old, new in zip(jax.tree.leaves(vars(before)[name]), jax.tree.leaves(vars(poisoned)[name]), strict=True):
            np.testing.assert_array_equal(old, new)

    healthy, metrics, _ = step(poisoned, {"x": x})
    assert int(healthy.step) == 5 and metrics["non_finite_steps"].compute() == 0.0
    assert not np.array_equal(healthy.params["kernel"], params["kernel"])
    assert int(healthy.task_state["count"]) == 1
