"""Parameters and optimizer state split over `fsdp`: the same run, a fraction of the memory, the least traffic."""

import dataclasses

import jax
import numpy as np
import pytest
from jax.sharding import PartitionSpec as P

from align_jax import optim, paths, sharding, split, train
from align_jax import state as states
from align_jax.checkpoint import Checkpoints
from align_jax.planning import collectives
from align_jax.tasks import align
from align_jax.types import AlignError

ROWS = 32


@pytest.fixture(autouse=True)
def split_small_arrays_too(monkeypatch):
    """The tiny task has no large ones."""
    monkeypatch.setattr(split, "SMALL", 64)


@pytest.mark.parametrize(
    ("shape", "ways", "axis"),
    [((128, 64), 8, 0), ((64, 128), 8, 1), ((3, 3, 12, 40), 8, 3), ((5, 7, 9), 8, -1), ((128, 64), 1, -1),
     ((8, 4), 8, -1), ((), 8, -1), ((24, 24), 8, 0)],
    ids=str,
)  # fmt: skip
def test_the_largest_axis_that_divides_is_split(shape, ways, axis):
    assert split.split_axis(shape, ways) == axis


WORDS = "text_tower/word_embedding"
RULES = ((WORDS, 1), ("image_tower/*/project_conv", split.WHOLE))


def test_a_rule_comes_before_size():
    """For the parameter, what the optimizer keeps of it, and wherever its tree is a part of another."""
    table = (128, 64)
    for path in (f"{WORDS}/embedding", f"params/{WORDS}/embedding", f"opt_state/0/mu/{WORDS}/embedding"):
        assert split.split_axis(table, 8, path=path, rules=RULES) == 1
    assert split.split_axis((128,), 8, path=f"opt_state/0/v_row/{WORDS}/embedding", rules=RULES) == split.WHOLE
    assert split.split_axis(table, 8, path="other_text_tower/word_embedding/embedding", rules=RULES) == 0
    assert split.split_axis(table, 8, path="params/image_tower/block_0/project_conv/kernel", rules=RULES) == split.WHOLE


@pytest.mark.parametrize(
    ("rules", "says"),
    [
        (
            ((WORDS, 1), ("text_tower/word*", 0)),
            r"expected one axis for text_tower/word_embedding/embedding \(64, 32\)",
        ),
        (((WORDS, 2),), r"that mesh.fsdp=4 divides, or -1 to keep it whole, found 2 by 'text_tower/word_embedding'"),
        ((("text_towr", 0),), "'text_towr' matches none"),
    ],
)
def test_rules_that_cannot_be(rules, says):
    with pytest.raises(AlignError, match=says):
        Layout(4, rules=rules)


def test_rules_that_agree_do_not_collide():
    """And hold for the state: parameters, moments and averages."""
    like = Layout(4, rules=((WORDS, 1), ("text_tower/word*", 1))).like
    tables = {
        jax.tree_util.keystr(path): x.sharding.spec
        for path, x in jax.tree_util.tree_leaves_with_path(like)
        if "word_embedding" in jax.tree_util.keystr(path)
    }
    assert len(tables) == 4, "the parameter, two moments and its average"
    assert set(tables.values()) == {P(None, "fsdp")}


class Layout:
    """The tiny task on 8 devices, `fsdp` of them sharing a copy of the state."""

    def __init__(self, fsdp, devices=8, rules=()):
        self.mesh = sharding.make_mesh(devices=devices, fsdp=fsdp)
        self.task = dataclasses.replace(align.tiny(), split=rules)
        self.optimizer = optim.make(steps=4, learning_rate=1e-2, warmup=0, weight_decay=0.1, ema=0.9)
        self.one = self.task.dummy_batch(1)
        with jax.set_mesh(self.mesh):
            self.like = states.abstract(self.task, self.optimizer, self.one, mesh=self.mesh)
            self.step = train.jitted(self.task, self.optimizer, self.like, self.mesh)
            self.batch = sharding.place(self.mesh, self.task.dummy_batch(ROWS))

    def fresh(self):
        with jax.set_mesh(self.mesh):
            return states.create(self.task, self.optimizer, self.one, seed=0, mesh=self.mesh)

    def after(self, count):
        state = self.fresh()
        with jax.set_mesh(self.mesh):
            for _ in range(count):
                state, metrics, _ = self.step(state, self.batch)
        return state, (metrics["loss"].compute(), metrics["gradient_norm"].compute())


def largest_difference(one, other):
    def flat(state):
        return paths.flatten(jax.device_get(state.params))

    return max(np.abs(a - b).max() for a, b in zip(flat(one).values(), flat(other).values(), strict=True))


def test_a_run_is_the_same_however_its_state_is_split():
    """Its loss, the size of its gradient (LAMB itself would not notice another), and its parameters."""
    whole, numbers = Layout(1, devices=1).after(3)
    parted, others = Layout(4, rules=RULES).after(3)
    np.testing.assert_allclose(others, numbers, rtol=1e-4)
    assert largest_difference(parted, whole) < 1e-3


def test_a_device_holds_a_fraction():
    def held(layout):
        state = layout.fresh()
        leaves = jax.tree.leaves((state.params, state.opt_state))
        return sum(x.addressable_shards[0].data.nbytes for x in leaves), sum(x.nbytes for x in leaves)

    own, everything = held(Layout(8))
    assert everything / 8 < own < everything / 5
    own, everything = held(Layout(1))
    assert own == everything


def test_traffic_is_at_its_floor():
    """Split parameters are gathered once, their gradients scattered once; the rest, and statistics, reduced once."""
    for fsdp, rules in ((1, ()), (4, RULES[:1])):
        layout = Layout(fsdp, rules=rules)
        with jax.set_mesh(layout.mesh):
            compiled = layout.step.lower(layout.like, layout.batch).compile()
        found = {kind: traffic.bytes for kind, traffic in collectives.read(compiled.as_text()).items()}
        split, kept, statistics = (
            4 * sum(x.size for x in jax.tree.leaves(tree) if (x.sharding.spec != P()) == is_split)
            for tree, is_split in (
                (layout.like.params, True),
                (layout.like.params, False),
                (layout.like.model_state, True),
            )
        )
        reduced = split / fsdp + kept + 4 * sum(x.size for x in jax.tree.leaves(layout.like.model_state))
        assert abs(found["all-reduce"] - reduced) < 2**12, "and a few scalars"
        assert found.keys() <= {"all-reduce", "all-gather", "reduce-scatter"}, "nothing is split anew"
        embeddings, numbers = 2 * ROWS * 16 * 4, ROWS * 4
        assert found["all-gather"] == split + statistics + embeddings + numbers
        if fsdp > 1:
            assert split > 3 * kept
            assert found["reduce-scatter"] == split / fsdp + embeddings / 8
        else:
            assert split == 0


@pytest.mark.parametrize(("before", "after"), [((8, 8), (1, 1)), ((1, 8), (4, 8)), ((2, 8), (2, 4))], ids=str)
def test_a_checkpoint_restores_onto_another_mesh(before, after, tmp_path):
    state = Layout(before[0], devices=before[1]).fresh()
    with Checkpoints(tmp_path, every=1) as checkpoints:
        checkpoints.save(state, {})
        checkpoints.wait()
        like = Layout(after[0], devices=after[1]).like
        restored = checkpoints.restore(like)
    for path, x in paths.flatten(restored.params).items():
        assert x.sharding == paths.flatten(like.params)[path].sharding
    assert largest_difference(restored, state) == 0.0
