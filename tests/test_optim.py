"""Optimizers against their definitions in numpy; exclusions, groups, bounds, freezing, averaging, schedules."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch

from align_jax import optim, paths
from align_jax.types import AlignError


def params():
    return {
        "log_temperature": jnp.zeros(()),
        "tower": {
            "dense": {"bias": jnp.full((3,), 0.1), "kernel": jnp.arange(6, dtype=jnp.float32).reshape(2, 3) / 6 - 0.2},
            "norm": {"scale": jnp.ones((3,))},
        },
    }


def gradients(step=0):
    rng = np.random.default_rng(step)
    return jax.tree.map(lambda x: jnp.asarray(rng.normal(size=x.shape), jnp.float32), params())


def run(optimizer, steps=3, start=0):
    tree = params()
    state = optimizer.init(tree)
    for step in range(start, start + steps):
        tree, state = optimizer.update(gradients(step), state, tree, jnp.int32(step))
    return tree, state


def make(**changes):
    options = {"steps": 100, "name": "lamb", "learning_rate": 0.1, "warmup": 0, "schedule": "constant"}
    return optim.make(**(options | changes))


def by_hand(name, decay, steps=3, rate=0.1, b1=0.9, b2=0.999, eps=1e-6):
    """LAMB (You et al. 2020, algorithm 2) and AdamW, one leaf at a time; only the kernel is a matrix."""
    leaves, tree = jax.tree.flatten_with_path(params())
    out = []
    for i, (path, p) in enumerate(leaves):
        p, m, v = np.asarray(p, np.float64), 0.0, 0.0
        matrix = path[-1].key == "kernel"
        for t in range(steps):
            g = np.asarray(jax.tree.leaves(gradients(t))[i], np.float64)
            m, v = b1 * m + (1 - b1) * g, b2 * v + (1 - b2) * g * g
            u = m / (1 - b1 ** (t + 1)) / (np.sqrt(v / (1 - b2 ** (t + 1))) + eps)
            if matrix:
                u = u + decay * p
                u = u * (np.linalg.norm(p) / np.linalg.norm(u)) if name == "lamb" else u
            p = p - rate * u
        out.append(p)
    return jax.tree.unflatten(tree, out)


@pytest.mark.parametrize("name", ["lamb", "adamw"])
def test_equals_the_definition(name):
    found, _ = run(make(name=name, weight_decay=0.3))
    # In f32 the bias correction 1 - 0.999 alone is 6e-5 off: so may be each step of 0.1.
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=2e-5, atol=1e-5), found, by_hand(name, 0.3))


@pytest.mark.parametrize(("momentum", "decay"), [(0.9, 0.0), (0.9, 0.3), (0.0, 0.3)])
def test_sgd_equals_torch(momentum, decay):
    """Decay is part of the gradient, and only the kernel's; the rate comes after the momentum, as it falls."""
    leaves, tree = jax.tree.flatten_with_path(params())
    tensors = [torch.tensor(np.asarray(leaf), requires_grad=True) for _, leaf in leaves]
    groups = [
        {"params": [tensor], "weight_decay": decay if path[-1].key == "kernel" else 0.0}
        for (path, _), tensor in zip(leaves, tensors, strict=True)
    ]
    peer = torch.optim.SGD(groups, lr=0.1, momentum=momentum)
    falling = torch.optim.lr_scheduler.MultiStepLR(peer, milestones=[2, 3], gamma=0.2)
    for step in range(5):
        for tensor, gradient in zip(tensors, jax.tree.leaves(gradients(step)), strict=True):
            tensor.grad = torch.tensor(np.asarray(gradient))
        peer.step()
        falling.step()
    changes = {"schedule": "steps", "boundaries": (2, 3), "factor": 0.2}
    found, _ = run(make(name="sgd", momentum=momentum, weight_decay=decay, **changes), steps=5)
    expected = jax.tree.unflatten(tree, [tensor.detach().numpy() for tensor in tensors])
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-6), found, expected)


def test_the_temperature_moves_under_lamb():
    """With the trust ratio on it, a log-temperature of 0 would not move at all (design decision 8)."""
    optimizer = make(learning_rate=1e-3)
    tree, state = params(), optimizer.init(params())
    pull = jax.tree.map(jnp.ones_like, tree)
    for step in range(100):
        tree, state = optimizer.update(pull, state, tree, jnp.int32(step))
    np.testing.assert_allclose(tree["log_temperature"], -0.1, rtol=1e-3)


def test_only_matrices_decay():
    zero = jax.tree.map(jnp.zeros_like, params())
    optimizer = make(name="adamw", weight_decay=0.5)
    found, _ = optimizer.update(zero, optimizer.init(params()), params(), jnp.int32(0))
    kernel = params()["tower"]["dense"]["kernel"]
    np.testing.assert_allclose(found["tower"]["dense"]["kernel"], kernel * 0.95, rtol=1e-6)
    found["tower"]["dense"].pop("kernel")
    left = params()
    left["tower"]["dense"].pop("kernel")
    jax.tree.map(np.testing.assert_array_equal, found, left)


def test_adafactor_learns():
    found, _ = run(make(name="adafactor", learning_rate=0.01))
    moved = jax.tree.map(lambda a, b: float(jnp.abs(a - b).max()), found, params())
    assert all(0 < x < 0.2 for x in jax.tree.leaves(moved))


def test_groups_scale_the_rate_and_the_last_match_counts():
    plain, _ = run(make(name="adamw"), steps=1)
    scaled, _ = run(make(name="adamw", groups=(("tower", 0.1), ("tower/norm", 0.5))), steps=1)
    for path, factor in ((("dense", "kernel"), 0.1), (("norm", "scale"), 0.5)):
        before = params()["tower"][path[0]][path[1]]
        step = plain["tower"][path[0]][path[1]] - before
        np.testing.assert_allclose(scaled["tower"][path[0]][path[1]] - before, factor * step, rtol=1e-4)
    np.testing.assert_array_equal(scaled["log_temperature"], plain["log_temperature"])


LAYERS = {
    "image_tower/stem_conv/kernel": 0.5**4, "image_tower/block_0/se/kernel": 0.5**3,
    "image_tower/block_1/se/bias": 0.5**2, "image_tower/head_conv/kernel": 0.5,
    "text_tower/word_embedding/table": 0.5**3, "text_tower/layer_0/mlp/kernel": 0.5**2,
    "text_tower/layer_1/mlp/kernel": 0.5, "text_projection/kernel": 1.0,
    "log_temperature": 1.0,
}  # fmt: skip


def test_layer_decay_lowers_the_rate_from_block_to_block():
    assert optim.layer_factors(LAYERS, 0.5) == LAYERS
    tree = paths.unflatten({path: jnp.ones((2,)) for path in LAYERS})
    groups, freeze = (("image_tower", 0.1),), ("text_tower/word_embedding",)
    optimizer = make(name="sgd", momentum=0.0, layer_decay=0.5, groups=groups, freeze=freeze, weight_decay=0.0)
    ones = paths.unflatten({path: jnp.ones((2,)) for path in LAYERS if not path.startswith(freeze)})
    after, _ = optimizer.update(ones, optimizer.init(tree), tree, jnp.int32(0))
    expected = {path: 0.1 * x if path.startswith("image_tower") else x for path, x in LAYERS.items()}
    expected["text_tower/word_embedding/table"] = 0.0
    assert optimizer.factors(tree) == pytest.approx(expected)
    steps = {path: float((1 - x)[0]) for path, x in paths.flatten(after).items()}
    assert steps == pytest.approx({path: 0.1 * x for path, x in expected.items()}, rel=1e-4, abs=1e-8)


def test_bounds_hold_after_the_step_and_leave_the_gradient_alive():
    optimizer = make(name="adamw", bounds=(("log_temperature", -0.05, 0.05),))
    tree, state = params(), optimizer.init(params())
    pull = jax.tree.map(jnp.ones_like, tree)
    tree, state = optimizer.update(pull, state, tree, jnp.int32(0))
    np.testing.assert_allclose(tree["log_temperature"], -0.05)
    for step in range(1, 8):  # the other way: it must leave the bound again
        tree, state = optimizer.update(jax.tree.map(lambda x: -3 * x, pull), state, tree, jnp.int32(step))
    assert tree["log_temperature"] > -0.05


def test_clipping_bounds_the_global_norm():
    """AdamW forgets the scale of a gradient, so look at its first moment."""
    optimizer = make(name="adamw", clip_norm=0.5)
    _, state = optimizer.update(gradients(), optimizer.init(params()), params(), jnp.int32(0))
    moments = [x for x in jax.tree.leaves(state["transform"]) if x.ndim == 2]
    first = moments[0] / 0.1  # the first of the two moments, before its decay of 0.9
    norm = np.sqrt(sum(float(jnp.sum(x * x)) for x in jax.tree.leaves(gradients())))
    np.testing.assert_allclose(first, gradients()["tower"]["dense"]["kernel"] * 0.5 / norm, rtol=1e-5)


def test_frozen_parameters_stay_and_have_no_state():
    optimizer = make(freeze=("tower/dense", "log_temperature"))
    tree = params()
    state = optimizer.init(tree)
    assert not [x for x in jax.tree.leaves(state) if x.shape == (2, 3)]

    def loss(p):
        return sum(jnp.sum(x * x) for x in jax.tree.leaves(p)), ()

    (_, _), grads = optimizer.value_and_grad(loss)(tree)
    assert jax.tree.map(jnp.shape, grads) == {"tower": {"norm": {"scale": (3,)}}}
    new, _ = optimizer.update(grads, state, tree, jnp.int32(0))
    assert jax.tree.structure(new) == jax.tree.structure(tree)
    jax.tree.map(np.testing.assert_array_equal, new["tower"]["dense"], tree["tower"]["dense"])
    assert (new["tower"]["norm"]["scale"] != tree["tower"]["norm"]["scale"]).all()


def test_average_of_the_parameters():
    optimizer = make(name="adamw", ema=0.9)
    one, state = run(optimizer, steps=1)
    mean = optimizer.averaged(one, state)
    jax.tree.map(
        lambda m, old, new: np.testing.assert_allclose(m, 0.9 * old + 0.1 * new, rtol=1e-5, atol=1e-7),
        mean, params(), one,
    )  # fmt: skip


@pytest.mark.parametrize(
    ("shape", "middle"), [("linear", 0.5), ("cosine", 0.5), ("polynomial", 0.25), ("constant", 1.0)]
)
def test_schedules(shape, middle):
    schedule = optim.make_schedule(steps=110, peak=1.0, warmup=10, shape=shape)
    found = [float(schedule(jnp.float32(step))) for step in (0, 5, 10, 60, 110)]
    np.testing.assert_allclose(found, [0.0, 0.5, 1.0, middle, 1.0 if shape == "constant" else 0.0], atol=1e-6)


def test_a_warm_up_below_one_is_a_share_of_the_steps():
    for warmup in (0.1, 20):
        made = optim.make(steps=200, learning_rate=1.0, warmup=warmup)
        found = [float(made.schedule(jnp.float32(step))) for step in (0, 10, 20, 110, 200)]
        np.testing.assert_allclose(found, [0.0, 0.5, 1.0, 0.5, 0.0], atol=1e-6)


def test_the_paper_s_steps():
    """Times 0.2 every 30 epochs (facts: ALIGN section 6); boundaries are steps of the run, warm-up or not."""
    for warmup in (0, 10):
        schedule = optim.make_schedule(
            steps=100, peak=0.1, warmup=warmup, shape="steps", boundaries=(30, 60, 90), factor=0.2
        )
        found = [float(schedule(jnp.float32(step))) for step in (warmup, 29, 30, 59, 60, 89, 90, 99)]
        np.testing.assert_allclose(found, [0.1, 0.1, 0.02, 0.02, 0.004, 0.004, 8e-4, 8e-4], rtol=1e-5)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"name": "sgdm"}, "expected one of"),
        ({"schedule": "step"}, "expected one of"),
        ({"schedule": "steps"}, "optim.boundaries: expected rising steps"),
        ({"schedule": "steps", "boundaries": (9, 3)}, "found \\(9, 3\\) for 'steps'"),
        ({"schedule": "steps", "boundaries": (3, 9), "warmup": 3}, "after the warm-up"),
        ({"boundaries": (3, 9)}, "none for others"),
        ({"warmup": -1}, "at least 0 steps"),
        ({"layer_decay": 1.5}, "optim.layer_decay: expected a number above 0 and at most 1"),
        ({"freeze": ("towr",)}, "matches none"),
        ({"groups": (("towr", 0.1),)}, "optim.groups.*matches none"),
    ],
)
def test_refuses(changes, message):
    with pytest.raises(AlignError, match=message):
        make(**changes).init(params())
