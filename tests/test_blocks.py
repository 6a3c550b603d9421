"""Chains of blocks: equal neighbours in one loop, and parameters that come together where they are used."""

import collections

import jax
import jax.numpy as jnp
import pytest

from align_jax import optim, paths, sharding, split, train
from align_jax import state as states
from align_jax.models.blocks import in_block
from align_jax.tasks import align

ROWS = 64
# tests/prove_step.py, run by test_losses.py, shows that values and gradients are the same in all of these ways.


@pytest.fixture(autouse=True)
def split_small_arrays_too(monkeypatch):
    """The small task has no large ones."""
    monkeypatch.setattr(split, "SMALL", 64)


def make(*, scan=False, remat="none", repeats=4, dtype="bfloat16", **fields):
    how = {"scan": scan, "remat": remat}
    return align.build(
        image={"width": 0.25, "stages": ((1, 3, 1, 64), (repeats, 3, 6, 96)), "strides": (2, 2), "bn_group_size": 4,
               **how},
        text={"size": "tiny", "layers": repeats, "width": 32, "heads": 2, "mlp_width": 64, **how},
        embedding=16, image_projection=True, image_size=32, text_length=8, vocab_size=64, dtype=dtype, **fields,
    )  # fmt: skip


def traced(task, fsdp=1, devices=8):
    """The jaxpr of a training step, the abstract state, and whether each path is split."""
    mesh = sharding.make_mesh(fsdp=fsdp, devices=devices)
    optimizer = optim.make(steps=4, learning_rate=1e-2, warmup=0)
    with jax.set_mesh(mesh):
        state = states.abstract(task, optimizer, task.dummy_batch(1), mesh=mesh)
        batch = sharding.place(mesh, task.dummy_batch(ROWS))
        return train.jitted(task, optimizer, state, mesh).trace(state, batch).jaxpr.jaxpr, state


def equations(jaxpr, times=1):
    """(equation, how often it runs), in all inner programs."""
    for equation in jaxpr.eqns:
        yield equation, times
        inner = times * (equation.params["length"] if equation.primitive.name == "scan" else 1)
        for value in jax.tree.leaves(list(equation.params.values()), is_leaf=lambda x: hasattr(x, "eqns")):
            found = getattr(value, "jaxpr", value)
            if hasattr(found, "eqns"):
                yield from equations(found, inner)


def test_a_loop_holds_one_block_of_many():
    """The program has as many matrix products for twelve repeats as for four, and runs more."""

    def products(task):
        runs = [times for equation, times in equations(traced(task)[0]) if equation.primitive.name == "dot_general"]
        return len(runs), sum(runs)

    (sites, few), (same, many) = products(make(scan=True)), products(make(scan=True, repeats=12))
    assert sites == same and many > 2 * few
    assert products(make(repeats=12)) == (many, many), "unrolled, each run is a site"


def test_a_checkpoint_does_not_know_of_the_loop():
    def shapes(task):
        optimizer, mesh = optim.make(steps=1, learning_rate=1.0, warmup=0), sharding.make_mesh(devices=1)
        state = states.abstract(task, optimizer, task.dummy_batch(1), mesh=mesh)
        return {path: (x.shape, x.dtype) for path, x in paths.flatten(state.params).items()}

    assert shapes(make(scan=True)) == shapes(make(scan=False))


def test_neighbours_of_equal_shape_alone_share_a_loop():
    """The first block of a stage has other input channels although its fields are the same."""
    task = align.build(
        image={"width": 0.25, "stages": ((1, 3, 6, 64), (3, 3, 6, 96)), "strides": (2, 1), "bn_group_size": 4,
               "scan": True},
        text={"size": "tiny", "layers": 1, "width": 32, "heads": 2, "mlp_width": 64},
        embedding=16, image_projection=True, image_size=32, text_length=8, vocab_size=64,
    )  # fmt: skip
    lengths = [e.params["length"] for e, _ in equations(traced(task, devices=1)[0]) if e.primitive.name == "scan"]
    assert 2 in lengths and 3 not in lengths


def traffic(jaxpr, name):
    """{dtype: bytes of results} of the collectives called `name`."""
    found = collections.Counter()
    for equation, times in equations(jaxpr):
        if equation.primitive.name.startswith(name):
            for out in equation.outvars:
                found[str(out.aval.dtype)] += times * out.aval.size * out.aval.dtype.itemsize
    return found


def split_bytes(state):
    """{(in blocks, is a matrix): bytes of parameters that are split}."""
    found = collections.Counter()
    for path, x in paths.flatten(state.params).items():
        if x.sharding.spec != sharding.replicated(sharding.make_mesh()).spec:
            found[in_block(path), x.ndim > 1] += 4 * x.size
    return found


@pytest.mark.parametrize("scan", [False, True])
def test_blocks_gather_in_the_towers_dtype_and_scatter_in_that_of_parameters(scan):
    """bf16 twice with rematerialisation, three times with micro-batches; gradients in f32."""
    for micro_batches, gathers in ((1, 2), (2, 3)):
        task = make(scan=scan, remat="block", gather="block", micro_batches=micro_batches)
        jaxpr, state = traced(task, fsdp=8)
        split = split_bytes(state)
        assert split[True, True] > split[False, True] > 0
        found = traffic(jaxpr, "all_gather")
        assert found["bfloat16"] == gathers * micro_batches * split[True, True] / 2
        scattered = traffic(jaxpr, "reduce_scatter")
        assert "bfloat16" not in scattered
        rows = 2 * ROWS * 16 * 4 / 8  # the gradient of the gathered embeddings
        blocks, others = (sum(split[place, matrix] for matrix in (True, False)) for place in (True, False))
        assert scattered["float32"] == (micro_batches * blocks + others) / 8 + rows


def test_gradients_are_reduced_in_bf16_only_by_choice():
    for chosen, dtypes in ((None, {"float32"}), ("bfloat16", {"float32", "bfloat16"})):
        jaxpr, state = traced(make(gradient_dtype=chosen))
        found = traffic(jaxpr, "psum")
        assert set(found) == dtypes
        if chosen:
            assert found["bfloat16"] >= 2 * sum(x.size for x in jax.tree.leaves(state.params))


def test_statistics_go_back_to_their_blocks():
    """After a step through the loop, each block has statistics of its own."""
    task = make(scan=True, dtype="float32")
    batch = task.dummy_batch(ROWS)
    params, model_state = jax.jit(task.init)(jax.random.key(0), batch)
    with jax.set_mesh(sharding.make_mesh(devices=1)):
        _, aux = jax.jit(lambda p: task.loss(p, model_state, (), batch, jax.random.key(1), jnp.int32(0)))(params)
    flat = {path: x for path, x in paths.flatten(aux.model_state).items() if "depthwise_bn/mean" in path}
    assert len(flat) == 5
    assert len({float(jnp.abs(x).sum()) for x in flat.values()}) == 5
    assert jax.tree.structure(aux.model_state) == jax.tree.structure(model_state)
