"""What every task must do, discovered by name: step, agree on 1 and 8 devices, save, restore and go on, embed."""

import dataclasses
import functools
import importlib

import jax
import numpy as np
import pytest

from align_jax import optim, sharding, state, tasks, train
from align_jax.checkpoint import Checkpoints

ROWS = 32


class Bench:
    """One task's tiny model on some devices, its step compiled once."""

    def __init__(self, name: str, devices: int):
        self.task = importlib.import_module(f"align_jax.tasks.{name}").tiny()
        self.mesh = sharding.make_mesh(devices=devices)
        self.optimizer = optim.make(steps=4, learning_rate=1e-3, warmup=0)
        self.batch = sharding.place(self.mesh, self.task.dummy_batch(ROWS))
        self._step = jax.jit(functools.partial(train.step_fn, self.task, self.optimizer))

    def fresh(self) -> state.TrainState:
        """A new state."""
        with jax.set_mesh(self.mesh):
            return state.create(self.task, self.optimizer, self.task.dummy_batch(1), seed=0, mesh=self.mesh)

    def step(self, before: state.TrainState):
        """(state after one step, its loss)."""
        with jax.set_mesh(self.mesh):
            after, metrics, _ = self._step(before, self.batch)
        assert metrics["non_finite_steps"].compute() == 0.0
        return after, metrics["loss"].compute()


@functools.cache
def bench(name: str, devices: int) -> Bench:
    return Bench(name, devices)


every_task = pytest.mark.parametrize("name", tasks.names())


def leaves(tree):
    def plain(x):
        return jax.random.key_data(x) if jax.dtypes.issubdtype(x.dtype, jax.dtypes.prng_key) else x

    return [np.asarray(plain(x)) for x in jax.tree.leaves(tree)]


@every_task
def test_steps_agree_on_one_and_eight_devices(name):
    losses = {}
    for devices in (1, 8):
        first, one = bench(name, devices).step(bench(name, devices).fresh())
        second, two = bench(name, devices).step(first)
        assert int(second.step) == 2
        losses[devices] = (one, two)
    np.testing.assert_allclose(losses[8], losses[1], rtol=1e-4)
    assert losses[1][0] != losses[1][1], "a step changes the parameters"


@every_task
@pytest.mark.parametrize("devices", [1, 8])
def test_a_restored_state_continues_bit_for_bit(name, devices, tmp_path):
    one = bench(name, devices)
    middle, _ = one.step(one.fresh())
    with Checkpoints(tmp_path, every=1) as checkpoints:
        checkpoints.save(middle, {})
        checkpoints.wait()
    end, loss = one.step(middle)
    with Checkpoints(tmp_path, every=1) as checkpoints:
        restored = checkpoints.restore(one.fresh())
    again, loss_again = one.step(restored)
    assert loss == loss_again
    for a, b in zip(leaves(end), leaves(again), strict=True):
        assert a.tobytes() == b.tobytes()


@every_task
def test_dropout_is_on(name):
    one = bench(name, 1)
    fresh = one.fresh()
    _, loss = one.step(fresh)
    _, same = one.step(fresh)
    key = jax.device_put(jax.random.key(99), sharding.replicated(one.mesh))
    _, other = one.step(dataclasses.replace(fresh, rng=key))
    assert loss == same
    assert loss != other


@every_task
def test_embeddings_are_unit_rows(name):
    one = bench(name, 1)
    fresh = one.fresh()
    functions = {key: fn for key, fn in one.task.functions().items() if key.startswith("embed_")}
    assert functions or "score_pairs" in one.task.functions()
    for key, fn in functions.items():
        with jax.set_mesh(one.mesh):
            rows = np.asarray(jax.jit(fn)(fresh.params, fresh.model_state, one.batch))
        assert rows.dtype == np.float32 and len(rows) == ROWS, key
        np.testing.assert_allclose(np.linalg.norm(rows, axis=1), 1.0, atol=1e-5)
