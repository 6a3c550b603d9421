"""Locked towers (LiT): what is locked keeps its bits and is as in inference; the rest trains."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from tiny_run import config as tiny_config

from align_jax import optim, paths, sharding, tasks, train
from align_jax import state as states
from align_jax.models.blocks import ALL
from align_jax.models.randomness import row_keys
from align_jax.tasks import align
from align_jax.types import AlignError


def make(image=0, text=0, **options):
    """Three blocks and two layers, as few as can be locked in part."""
    return align.build(
        image={"width": 0.25, "stages": ((1, 3, 1, 16), (2, 1, 1, 24)), "strides": (2, 1), "bn_group_size": 4,
               "squeeze": False, "locked": image},
        text={"layers": 2, "width": 16, "heads": 2, "mlp_width": 16, "locked": text},
        embedding=8, image_projection=True, image_size=8, text_length=6, vocab_size=64, **options,
    )  # fmt: skip


class Bench:
    """A task on one device: its first state, statistics drawn at random, and its step."""

    mesh = sharding.make_mesh(devices=1)

    def __init__(self, task, rows=8):
        self.task, self.batch = task, task.dummy_batch(rows)
        self.optimizer = optim.make(steps=4, learning_rate=0.1, warmup=0, name="sgd", freeze=task.locked)
        rng = np.random.default_rng(1)
        with jax.set_mesh(self.mesh):
            like = states.abstract(task, self.optimizer, self.batch, mesh=self.mesh)

            def drawn(tree, low, high):
                return jax.tree.map(
                    lambda x: jax.device_put(np.float32(rng.uniform(low, high, x.shape)), x.sharding), tree
                )

            trees = drawn(like.params, -0.3, 0.3), drawn(like.model_state, 0.5, 1.5)
            zeros = jax.tree.map(lambda x: jax.device_put(np.zeros(x.shape, x.dtype), x.sharding), like.opt_state)
            key = jax.device_put(jax.random.key(0), sharding.replicated(self.mesh))
            self.fresh = states.TrainState(jnp.int32(0), *trees, (), zeros, key)
        self.step_fn = functools.partial(train.step_fn, task, self.optimizer)
        self._compiled = jax.jit(self.step_fn)

    def step(self, batch=None, seed=0):
        """(state after one step, its loss)."""
        key = jax.device_put(jax.random.key(seed), sharding.replicated(self.mesh))
        state, placed = dataclasses.replace(self.fresh, rng=key), sharding.place(self.mesh, batch or self.batch)
        with jax.set_mesh(self.mesh):
            after, metrics, _ = self._compiled(state, placed)
        return after, metrics["loss"].compute()

    def features(self):
        """A batch of what its towers make of the one that it has."""
        functions, state = self.task.functions(), self.fresh
        names = ("image_features", "text_features")
        found = {name: jax.jit(functions[name])(state.params, state.model_state, self.batch) for name in names}
        return {"ids": self.batch["ids"]} | {name: np.asarray(x) for name, x in found.items()}


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
    no_gradient = {"text_tower/layer_1/attention/key/bias"}  # the softmax does not feel it, but for rounding
    expected = set(paths.flatten(bench.fresh.params)) - frozen
    assert moved(bench.fresh.params, after.params) | no_gradient == expected
    statistics = moved(bench.fresh.model_state, after.model_state)
    assert statistics == {path for path in paths.flatten(after.model_state) if "/block_2/" in path}


def test_what_is_locked_is_as_in_inference():
    """Running statistics and nothing drawn, in training too, though not all of the tower is locked by name."""
    bench = Bench(make(image=3, text=2))
    model, keys = bench.task.model, row_keys(jax.random.key(1), 8)
    statistics = bench.fresh.model_state["batch_stats"]["image_tower"]
    variables = {"params": bench.fresh.params["image_tower"], "batch_stats": statistics}
    images = jnp.asarray(bench.batch["image"], jnp.float32) / 255
    ids, mask = bench.batch["text_ids"], bench.batch["text_mask"]

    @jax.jit
    def both(keys):
        found = model.image_tower.apply(variables, images, train=keys is not None, keys=keys, mutable=["batch_stats"])
        text = model.text_tower.apply({"params": bench.fresh.params["text_tower"]}, ids, mask, keys=keys)
        return *found, text

    (image, new, text), (still, _, silent) = both(keys), both(None)
    np.testing.assert_allclose(image, still, rtol=1e-6)
    np.testing.assert_allclose(text, silent, rtol=1e-6)
    assert not moved(statistics, new["batch_stats"])


def test_a_locked_run_is_one_on_features():
    """The same loss and the same heads, whatever numbers the step draws; 3 rows need no groups of 4."""
    whole = Bench(make(ALL, ALL, text_pooling="mean"), rows=6)
    whole.task.check(3)
    rows = Bench(make(ALL, ALL, text_pooling="mean", features=True))
    after, loss = whole.step()
    assert loss == whole.step(seed=9)[1], "nothing is drawn"
    fast, expected = rows.step(whole.features())
    np.testing.assert_allclose(loss, expected, rtol=1e-5)
    heads = {path for path in paths.flatten(after.params) if not path.startswith(("image_tower", "text_tower"))}
    assert moved(whole.fresh.params, after.params) == moved(rows.fresh.params, fast.params) == heads
    assert not moved(whole.fresh.model_state, after.model_state)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-6), after.params, fast.params)


def operations(fn, *arguments):
    """How many convolutions and products of matrices a function makes."""
    text = str(jax.make_jaxpr(fn)(*arguments))
    return text.count("= conv_general_dilated["), text.count("= dot_general[")


def test_no_gradient_is_computed_below():
    """Of locked towers the step has the forward pass alone, and the gradients of the heads and of their loss."""
    counts = {}
    for name, task in (("locked", make(ALL, ALL)), ("free", make()), ("rows", make(ALL, ALL, features=True))):
        bench = Bench(task)
        with jax.set_mesh(bench.mesh):
            counts[name] = np.array(operations(bench.step_fn, bench.fresh, bench.batch))
    bench = Bench(make(ALL, ALL))
    forward = sum(
        np.array(operations(bench.task.functions()[name], bench.fresh.params, bench.fresh.model_state, bench.batch))
        for name in ("image_features", "text_features")
    )
    np.testing.assert_array_equal(counts["locked"], counts["rows"] + forward)
    assert (counts["free"] > counts["locked"] + 5).all()


def test_frozen_statistics_stay_while_the_weights_train():
    bench = Bench(make(frozen_statistics=True, text=ALL), rows=6)
    bench.task.check(3)
    after, _ = bench.step()
    assert {path.split("/")[0] for path in moved(bench.fresh.params, after.params)} >= {"image_tower"}
    assert not moved(bench.fresh.model_state, after.model_state)


def test_a_text_is_the_mean_of_its_pieces():
    task = make(text_pooling="mean")
    batch, params = task.dummy_batch(3), Bench(task).fresh.params
    hidden = jax.jit(task.model.text_tower.apply)(
        {"params": params["text_tower"]}, batch["text_ids"], batch["text_mask"]
    )
    expected = [rows[kept].mean(0) for rows, kept in zip(np.asarray(hidden), batch["text_mask"], strict=True)]
    found = jax.jit(task.functions()["text_features"])(params, {}, batch)
    np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize(
    ("image", "text", "options", "match"),
    [
        (4, 0, {}, r"config.task.image.locked: expected -1 \(all of the tower\) or 0 to 3 blocks, found 4"),
        (0, -2, {}, r"config.task.text.locked: expected -1 \(all of the tower\) or 0 to 2 blocks, found -2"),
        (ALL, 1, {"features": True}, r"data.features: expected both towers locked, found blocks -1 and 1; set"),
        (0, 0, {"text_pooling": "max"}, "config.task.text_pooling: expected one of"),
    ],
    ids=str,
)
def test_what_is_refused(image, text, options, match):
    with pytest.raises(AlignError, match=match):
        make(image, text, **options)


def test_freezing_all_of_a_tower_locks_it():
    config = tiny_config("none.jsonl")
    config.freeze = ("text_tower",)
    assert tasks.make(config).locked == ("text_tower/*",)
