"""Locked towers (LiT): what is locked keeps its bits and acts as in inference; the rest trains."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from align_jax import optim, paths, sharding, tasks, train
from align_jax import state as states
from align_jax.models.blocks import ALL
from align_jax.tasks import align
from align_jax.types import AlignError

SIZES = {"image_size": 16, "text_length": 6, "vocab_size": 64}
IMAGE = {"width": 0.25, "stages": ((1, 3, 1, 16), (2, 3, 2, 24)), "strides": (2, 1), "bn_group_size": 4}
TEXT = {"size": "tiny", "layers": 2, "width": 16, "heads": 2, "mlp_width": 32}


def make(image=0, text=0, **options):
    return align.build(
        image={**IMAGE, "locked": image}, text={**TEXT, "locked": text}, embedding=8, image_projection=True,
        **SIZES, **options,
    )  # fmt: skip


class Bench:
    """A task on one device: its first state, statistics drawn at random, and its step."""

    mesh = sharding.make_mesh(devices=1)

    def __init__(self, task, rows=8):
        self.task = task
        self.optimizer = optim.make(steps=4, learning_rate=0.1, warmup=0, name="sgd", freeze=task.locked)
        with jax.set_mesh(self.mesh):
            fresh = states.create(task, self.optimizer, task.dummy_batch(1), seed=0, mesh=self.mesh)
        rng = np.random.default_rng(1)
        drawn = {
            path: jnp.asarray(rng.uniform(0.5, 1.5, x.shape), jnp.float32)
            for path, x in paths.flatten(fresh.model_state).items()
        }
        self.fresh = dataclasses.replace(fresh, model_state=paths.unflatten(drawn))
        self.step_fn = jax.jit(functools.partial(train.step_fn, task, self.optimizer))
        self.batch = task.dummy_batch(rows)

    def step(self, batch=None, seed=0):
        """(state after one step, its loss)."""
        key = jax.device_put(jax.random.key(seed), sharding.replicated(self.mesh))
        with jax.set_mesh(self.mesh):
            after, metrics, _ = self.step_fn(
                dataclasses.replace(self.fresh, rng=key), sharding.place(self.mesh, batch or self.batch)
            )
        return after, metrics["loss"].compute()


def moved(before, after):
    before, after = paths.flatten(before), paths.flatten(after)
    assert before.keys() == after.keys()
    return {path for path in before if not np.array_equal(np.asarray(before[path]), np.asarray(after[path]))}


def test_first_blocks_stay_bit_for_bit_and_the_rest_moves():
    bench = Bench(make(image=2, text=1, micro_batches=2))
    after, _ = bench.step()
    frozen = {path for path in paths.flatten(bench.fresh.params) if paths.matches(path, bench.task.locked)}
    assert {"/".join(path.split("/")[:2]) for path in frozen} == {
        "image_tower/stem_conv", "image_tower/stem_bn", "image_tower/block_0", "image_tower/block_1",
        "text_tower/word_embedding", "text_tower/position_embedding", "text_tower/type_embedding",
        "text_tower/embedding_norm", "text_tower/layer_0",
    }  # fmt: skip
    assert moved(bench.fresh.params, after.params) == set(paths.flatten(bench.fresh.params)) - frozen
    kept = moved(bench.fresh.model_state, after.model_state)
    assert kept == {path for path in paths.flatten(after.model_state) if "/block_2/" in path}


def features_of(bench):
    functions, state = bench.task.functions(), bench.fresh
    batch = {name: jnp.asarray(x) for name, x in bench.batch.items()}
    found = {
        name: np.asarray(functions[name](state.params, state.model_state, batch))
        for name in ("image_features", "text_features")
    }
    return found | {"ids": bench.batch["ids"]}


@pytest.mark.parametrize("pooling", ["cls", "mean"])
def test_a_locked_run_is_one_on_features(pooling):
    """The same loss and the same heads, whatever numbers the step draws; 3 rows need no groups of 4."""
    whole = Bench(make(ALL, ALL, text_pooling=pooling), rows=6)
    whole.task.check(3)
    rows = Bench(make(ALL, ALL, text_pooling=pooling, features=True))
    after, loss = whole.step()
    assert loss == whole.step(seed=9)[1], "nothing is drawn"
    fast, expected = rows.step(features_of(whole))
    np.testing.assert_allclose(loss, expected, rtol=1e-5)
    heads = {path for path in paths.flatten(after.params) if not path.startswith(("image_tower", "text_tower"))}
    assert moved(whole.fresh.params, after.params) == moved(rows.fresh.params, fast.params) == heads
    assert not moved(whole.fresh.model_state, after.model_state)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-6), after.params, fast.params)


def test_no_gradient_is_computed_below():
    """Of a locked tower the compiled step has the forward pass alone."""
    bench, free = (Bench(make(image=locked, text=ALL)) for locked in (ALL, 0))

    def convolutions(bench):
        with jax.set_mesh(bench.mesh):
            return str(jax.make_jaxpr(bench.step_fn)(bench.fresh, bench.batch)).count("conv_general_dilated")

    forward = str(
        jax.make_jaxpr(bench.task.functions()["image_features"])(
            bench.fresh.params, bench.fresh.model_state, bench.batch
        )
    ).count("conv_general_dilated")
    assert convolutions(bench) == forward < convolutions(free)


def test_frozen_statistics_stay_while_the_weights_train():
    bench = Bench(make(frozen_statistics=True), rows=6)
    bench.task.check(3)
    after, _ = bench.step()
    assert moved(bench.fresh.params, after.params) == set(paths.flatten(bench.fresh.params))
    assert not moved(bench.fresh.model_state, after.model_state)


@pytest.mark.parametrize(
    ("image", "text", "options", "match"),
    [
        (4, 0, {}, r"config.task.image.locked: expected -1 \(all of the tower\) or 0 to 3 blocks, found 4"),
        (0, -2, {}, r"config.task.text.locked: expected -1 \(all of the tower\) or 0 to 2 blocks, found -2"),
        (
            ALL,
            1,
            {"features": True},
            r"data.features: expected both towers locked, found blocks -1 and 1; set --config",
        ),
        (0, 0, {"text_pooling": "max"}, "config.task.text_pooling: expected one of"),
    ],
    ids=str,
)
def test_what_is_refused(image, text, options, match):
    with pytest.raises(AlignError, match=match):
        make(image, text, **options)


def test_freezing_all_of_a_tower_locks_it():
    from tiny_run import config as tiny_config

    config = tiny_config("none.jsonl")
    config.freeze = ("text_tower",)
    assert tasks.make(config).locked == ("text_tower/*",)
