"""Features computed once: the run on them is the run on pictures and texts, and goes on bit for bit."""

import json

import jax
import numpy as np
import pytest
from tiny_run import config as tiny_config
from tiny_run import manifest

from align_jax import config as configs
from align_jax import features, main, paths
from align_jax import run as runs
from align_jax.evals import features as cache
from align_jax.types import AlignError


@pytest.fixture
def config(tmp_path, monkeypatch):
    """Locked towers, one crop, a picture and a text that cannot be used; the cache in a folder of its own."""
    monkeypatch.setattr(features, "cache_folder", lambda: tmp_path / "cache")
    monkeypatch.setattr(cache, "PIECE", 7)
    path = manifest(tmp_path / "data")
    rows = [json.loads(line) for line in path.read_text().splitlines()]
    (path.parent / "3.png").write_bytes(b"no picture")
    rows[5]["texts"] = ["\u200b", " "]  # no word in it, and nothing
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    config = tiny_config(path)
    config.steps, config.batch_size, config.data.max_bad_share = 4, 16, 1.0
    config.data.update({"resize": 32, "flip": False})
    config.task.image.update({"locked": -1, "stages": ((1, 3, 1, 16), (1, 3, 2, 24)), "strides": (4, 2)})
    config.task.text.locked = -1
    config.task.text_pooling = "mean"
    return config


def ended(config, workdir):
    """(losses, parameters by path, what was skipped) of a run."""
    assert main.run(config, workdir) == 0
    rows = [json.loads(line) for line in (workdir / "metrics.jsonl").read_text().splitlines()]
    losses = {row["step"]: row["loss"] for row in rows if "loss" in row}
    parts = runs.prepare(configs.load(workdir / "config.json"), workdir, None)
    with jax.set_mesh(parts.mesh):
        params = paths.flatten(parts.restored().params)
    return losses, {path: np.asarray(x) for path, x in params.items()}, (workdir / "skipped.jsonl").read_text()


def test_the_same_run_and_only_once(config, tmp_path, monkeypatch):
    losses, params, skipped = ended(config, tmp_path / "whole")
    assert "text empty" in skipped and len(set(json.loads(line)["reason"] for line in skipped.splitlines())) == 2
    config.data.features = True
    found, heads, same = ended(config, tmp_path / "rows")
    assert same == skipped and len(found) == 4
    np.testing.assert_allclose([found[step] for step in losses], list(losses.values()), rtol=2e-5)
    for path, value in params.items():
        np.testing.assert_allclose(heads[path], value, rtol=1e-3, atol=2e-5, err_msg=path)

    # Cut off after two steps, and once more: what was computed is read, and the bits are the same.
    def none(*_, **__):
        raise AssertionError("computed again")

    monkeypatch.setattr(features.Embedder, "texts", none)
    monkeypatch.setattr(features.Embedder, "images", none)
    config.checkpoint.every = 2
    monkeypatch.setattr("align_jax.watch.watch.Watch.stop", lambda self, step: step == 2)
    assert main.run(config, tmp_path / "cut") == 75
    monkeypatch.setattr("align_jax.watch.watch.Watch.stop", lambda self, step: False)
    again, bits, _ = ended(config, tmp_path / "cut")
    assert again == found and all(bits[path].tobytes() == value.tobytes() for path, value in heads.items())

    # From the towers of the first run, with all that they determine left to them; then without that run.
    config.task.image, config.task.text, config.data.vocab = {"locked": -1}, {"locked": -1}, {"path": ""}
    config.init.update({"image": str(tmp_path / "whole"), "text": str(tmp_path / "whole")})
    config.seed, config.steps = 5, 1
    ended(config, tmp_path / "other")
    (tmp_path / "whole").rename(tmp_path / "gone")
    _, other, _ = ended(config, tmp_path / "other")
    assert all(other[path].tobytes() == x.tobytes() for path, x in params.items() if "_tower/" in path)
    assert other["text_projection/kernel"].tobytes() != heads["text_projection/kernel"].tobytes()
    assert (tmp_path / "other" / "vocab.txt").read_text() == (tmp_path / "gone" / "vocab.txt").read_text()
    config.data.vocab.size = 65
    with pytest.raises(AlignError, match=r"holds a run with config\.data\.vocab\.size = 64"):
        main.run(config, tmp_path / "other")


def test_flipped_pictures_are_refused(config, tmp_path):
    config.data.update({"features": True, "flip": True})
    with pytest.raises(AlignError, match=r"config\.data\.flip: expected False with features=True"):
        main.run(config, tmp_path / "run")
