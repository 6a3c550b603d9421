"""config.freeze, config.init and config.stages, in real runs of the tiny task."""

import json
from pathlib import Path

import jax
import numpy as np
import pytest
from tiny_run import config as tiny_config
from tiny_run import manifest

import align_jax
from align_jax import config as configs
from align_jax import main, paths, warm_start
from align_jax import run as runs
from align_jax import state as states
from align_jax.stages import stage_configs
from align_jax.types import AlignError


@pytest.fixture
def config(tmp_path):
    return tiny_config(manifest(tmp_path / "data"))


@pytest.fixture(scope="module")
def first(tmp_path_factory):
    """(config, folder) of a finished run that others start from."""
    folder = tmp_path_factory.mktemp("first")
    config = tiny_config(manifest(folder / "data"))
    main.run(config, folder / "run")
    return config, folder / "run"


def state_of(config, workdir, *, fresh=False):
    """(parameters, batch statistics, state) by path, of a run's last checkpoint or of its start."""
    parts = runs.prepare(config, workdir, None)
    with jax.set_mesh(parts.mesh):
        state = parts.fresh() if fresh else parts.restored()
    return paths.flatten(state.params), paths.flatten(state.model_state), state


def changed(before, after):
    assert before.keys() == after.keys()
    return {path for path in before if not np.array_equal(np.asarray(before[path]), np.asarray(after[path]))}


def steps(workdir):
    return [json.loads(line)["step"] for line in (workdir / "metrics.jsonl").read_text().splitlines()]


def test_frozen_parameters_do_not_move(config, tmp_path):
    config.freeze = ("image_tower", "text_tower/*embedding*")
    workdir = tmp_path / "run"
    main.run(config, workdir)
    params, statistics, state = state_of(config, workdir)
    params_0, statistics_0, _ = state_of(config, workdir, fresh=True)
    frozen = {path for path in params if paths.matches(path, config.freeze)}
    assert {path.split("/")[0] for path in frozen} == {"image_tower", "text_tower"}
    assert not changed(params_0, params) & frozen
    assert {path.split("/")[0] for path in changed(params_0, params)} >= {
        "text_tower",
        "text_projection",
        "log_temperature",
    }
    assert statistics and not changed(statistics_0, statistics)  # the frozen tower keeps its statistics
    moments = [leaf for leaf in jax.tree.leaves(state.opt_state) if leaf.ndim]
    trainable = [leaf for path, leaf in params.items() if path not in frozen and leaf.ndim]
    assert sorted(x.shape for x in moments) == sorted(2 * [x.shape for x in trainable])  # Adam keeps two for each


def test_without_freeze_all_of_it_moves(first):
    config, workdir = first
    params, statistics, _ = state_of(config, workdir)
    params_0, statistics_0, _ = state_of(config, workdir, fresh=True)
    moved = changed(params_0, params)
    assert {path.split("/")[0] for path in moved} == {path.split("/")[0] for path in params}
    assert changed(statistics_0, statistics) == set(statistics)


def test_a_pattern_that_names_nothing_is_refused(config, tmp_path):
    config.freeze = ("image_towr",)
    with pytest.raises(AlignError, match=r"'image_towr' matches none; they start with .*'image_tower'"):
        main.run(config, tmp_path / "run")
    assert not (tmp_path / "run" / "metrics.jsonl").exists()


def warm(config, workdir, source, mapping):
    """The state at the start of a run that takes `mapping` from `source`."""
    from align_jax.data import source as sources

    config.seed, config.init.checkpoints = 7, ({"checkpoint": str(source), "paths": mapping},)
    parts = runs.prepare(config, workdir, sources.make(**config.data.source))
    with jax.set_mesh(parts.mesh):
        fresh = parts.fresh()
        state = warm_start.make(**config.init)(fresh)
    return (paths.flatten(x) for x in (fresh.params, fresh.model_state, state.params, state.model_state))


@pytest.mark.parametrize(
    ("mapping", "below"),
    [
        ({"": ""}, ("",)),
        ({"image_tower": "image_tower"}, ("image_tower/",)),
        ({"text_tower": "text_tower", "log_temperature": "log_temperature"}, ("text_tower/", "log_temperature")),
    ],
    ids=str,
)
def test_init_takes_what_it_names(config, tmp_path, first, mapping, below):
    params, statistics, _ = state_of(*first)
    fresh, fresh_statistics, found, found_statistics = warm(config, tmp_path / "run", first[1], mapping)
    taken = {path for path in found if path.startswith(below)}
    for path, value in found.items():
        np.testing.assert_array_equal(value, (params if path in taken else fresh)[path], err_msg=path)
    whole = "image_tower" in mapping or "" in mapping
    for path, value in found_statistics.items():
        np.testing.assert_array_equal(value, (statistics if whole else fresh_statistics)[path], err_msg=path)


def leaves(prefix, *names):
    return {f"{prefix}{name}": np.full((2,), number, np.float32) for number, name in enumerate(names)}


@pytest.mark.parametrize(
    ("mapping", "source", "goal"),
    [
        ({"": "tower"}, leaves("", "a/x", "b"), leaves("tower/", "a/x", "b")),
        ({"tower": ""}, leaves("tower/", "a/x", "b"), leaves("", "a/x", "b")),
        ({"old": "new/deep"}, leaves("old/", "a", "b"), leaves("new/deep/", "a", "b")),
        ({"old": "new"}, leaves("old/", "a") | leaves("older/", "z"), leaves("new/", "a")),
    ],
    ids=str,
)
def test_init_moves_paths(tmp_path, monkeypatch, mapping, source, goal):
    """Any folder to any other, the root among them; 'old' does not mean 'older'."""
    from align_jax.state import TrainState

    class Other:
        params, model_state = paths.unflatten(source), {}

    (tmp_path / "config.json").write_text("{}")
    monkeypatch.setattr(warm_start, "load", lambda _: Other)
    params = jax.tree.map(jax.numpy.zeros_like, paths.unflatten(goal))
    state = TrainState(jax.numpy.int32(0), params, {}, (), {"ema": params}, jax.random.key(0))
    found = warm_start.make(checkpoints=({"checkpoint": str(tmp_path), "paths": mapping},))(state)
    assert not changed(goal, paths.flatten(found.params))
    assert not changed(goal, paths.flatten(found.opt_state["ema"])), "the average begins there"


@pytest.mark.parametrize(
    ("mapping", "change", "match"),
    [
        ({"image_towr": "image_tower"}, {}, r"'image_towr' -> 'image_tower': expected the same parameters"),
        ({"image_tower": "image_towr"}, {}, r"expected the same parameters on both sides, found \['image_towr/"),
        ({"text_tower": "image_tower"}, {}, "expected the same parameters on both sides"),
        ({"text_projection": "text_projection"}, {"embedding": 24},
         r"expected text_projection/\w+ of shape \((32, )?24,?\), found \((32, )?16,?\)"),
    ],
    ids=str,
)  # fmt: skip
def test_init_reports_what_does_not_fit(config, tmp_path, first, mapping, change, match):
    config.task.update(change)
    with pytest.raises(AlignError, match=match) as error:
        warm(config, tmp_path / "run", first[1], mapping)
    assert "\n" not in str(error.value) and str(first[1]) in str(error.value)


def taking(config, source, mapping):
    """The vocabulary that a run with `mapping` from `source` is told to use."""
    checkpoint = {"checkpoint": str(source), "paths": mapping}
    with warm_start.make(checkpoints=(checkpoint,)).vocabulary(config) as path:
        return path


@pytest.mark.parametrize("mapping", [{"": ""}, {"text_tower": "text_tower"}], ids=str)
def test_a_word_embedding_brings_its_vocabulary(config, tmp_path, first, mapping):
    assert taking(config, first[1], mapping) == first[1] / "vocab.txt"
    config.data.vocab.path = str(first[1])
    assert taking(config, first[1], mapping) == first[1] / "vocab.txt"
    other = tmp_path / "other.txt"
    pieces = (first[1] / "vocab.txt").read_text()
    other.write_text(pieces.replace("square", "circle"))
    config.data.vocab.path = str(other)
    with pytest.raises(
        AlignError, match=r"vocab.path: expected the vocabulary of \S+, whose word embedding config.init"
    ):
        taking(config, first[1], mapping)
    other.write_text(pieces)
    assert taking(config, first[1], mapping)
    config.data.vocab.lowercase = False
    with pytest.raises(AlignError, match=r"config.data.vocab.lowercase: expected True, that of .*, found False"):
        taking(config, first[1], mapping)


def test_an_image_tower_brings_none(config, tmp_path, first):
    config.data.vocab.path = str(tmp_path / "any.txt")
    assert taking(config, first[1], {"image_tower": "image_tower", "text_projection": "text_projection"}) is None


def test_another_vocabulary_of_the_same_size_is_refused_by_a_run(config, tmp_path, first, monkeypatch):
    monkeypatch.setattr(states, "create", lambda *_, **__: pytest.fail("the mistake was found too late"))
    (tmp_path / "vocab.txt").write_text((first[1] / "vocab.txt").read_text().replace("square", "circle"))
    config.data.vocab.path = str(tmp_path / "vocab.txt")
    config.init.checkpoints = ({"checkpoint": str(first[1]), "paths": {"text_tower": "text_tower"}},)
    with pytest.raises(AlignError, match=rf"found another in .*; give --config.data.vocab.path={first[1]}"):
        main.run(config, tmp_path / "run")
    assert not (tmp_path / "run" / "config.json").exists()


def test_stages_run_one_after_the_other(config, tmp_path):
    workdir = tmp_path / "run"
    config.steps = 1
    first = Path(config.data.source.path)
    other = first.with_name("other.jsonl")  # its own vocabulary would be another
    other.write_text(first.read_text().replace("square", "quadrangle"))
    config.stages = (
        {"name": "one"},
        {"name": "two", "optim.learning_rate": 0.0, "freeze": ("image_tower",), "data.source.path": str(other)},
    )
    main.run(config, workdir)
    (one, at_one), (two, at_two) = stage_configs(config, workdir)
    assert (at_one, at_two) == (workdir / "one", workdir / "two")
    assert configs.load(at_two / "config.json").optim.learning_rate == 0.0
    # Without a learning rate the second stage ends where it began: at the end of the first.
    ended, began = state_of(one, at_one)[0], state_of(two, at_two)[0]
    assert not changed(ended, began)
    assert changed(state_of(one, at_one, fresh=True)[0], ended)
    assert (at_one / "vocab.txt").read_text() == (at_two / "vocab.txt").read_text()

    # Once more: nothing is left to do, and the parameters stand.
    main.run(config, workdir)
    assert steps(at_one) == steps(at_two) == [1]
    assert not changed(began, state_of(two, at_two)[0])
    assert align_jax.load(at_two).embed_texts(["a red square"]).shape == (1, 16)
