"""A model of stored regions on pictures whose regions lie elsewhere than its config says."""

from pathlib import Path
from types import SimpleNamespace

import cross_run
import numpy as np
import pytest
import region_writers
from known_model import write_manifest
from region_writers import WIDTH
from test_regions import convert

from align_jax import config as configs
from align_jax import loading, rerank, search
from align_jax.data.source import BadExample, Record
from align_jax.evals.reranking import Plan
from align_jax.evaluate import evaluate_checkpoint
from align_jax.types import AlignError


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """(the folder of a run, whose regions are gone; stores; their images).

    Stores "old", "new", of other images, and "wide", of features of another width.
    """
    folder = tmp_path_factory.mktemp("regions")
    every = region_writers.images(6, regions=3)
    given = {"old": dict(list(every.items())[:3]), "new": dict(list(every.items())[3:])}
    given["wide"] = {key: image | {"features": np.ones((3, WIDTH + 1), np.float32)} for key, image in every.items()}
    stores = {name: str(folder / name) for name in given}
    for name, images in given.items():
        region_writers.openvqa_npz(folder / f"{name}.npz", images)
        convert("npz", folder / f"{name}.npz", folder / name)
    source = write_manifest(folder, [{"id": key, "image": "none.png", "text": f"text {key}"} for key in every])
    trained = folder / "trained"
    (folder / "old").rename(trained)
    section = {"path": str(trained), "width": WIDTH, "most": 3}
    cross_run.begin(Path(source["path"]), folder / "run", regions=section)
    trained.rename(folder / "old")
    return folder / "run", stores, given


def shown(parts, key):
    return parts.pairs.visual(Record(key, b"", (), ""))["regions"]


def test_stores_that_are_named_replace_those_of_the_config(made):
    folder, stores, given = made
    (old, *_), (new, *_) = given["old"], given["new"]
    before = (folder / "config.json").read_bytes()
    parts = loading.parts_of(folder, stores["new"])
    np.testing.assert_array_equal(shown(parts, new), given["new"][new]["features"].astype(np.float16))
    with pytest.raises(BadExample, match="no regions stored"):
        shown(parts, old)
    both = loading.parts_of(folder, [stores["old"], stores["new"]])
    np.testing.assert_array_equal(shown(both, new), shown(parts, new))
    np.testing.assert_array_equal(shown(both, old), given["old"][old]["features"].astype(np.float16))
    by_id = loading.parts_of(folder, {"0/": stores["old"], "v1.5/": stores["new"]})
    np.testing.assert_array_equal(shown(by_id, f"v1.5/{new}"), shown(parts, new))
    np.testing.assert_array_equal(shown(by_id, f"0/{old}"), shown(both, old))
    assert configs.plain(both.config.data.regions) | {"path": ""} == {"path": "", "width": WIDTH, "most": 3}
    assert (folder / "config.json").read_bytes() == before


@pytest.mark.parametrize(
    ("regions", "match"),
    [
        ("wide", f"config.data.regions: expected width={WIDTH + 1} and classes=0 as in .*wide, found {WIDTH} and 0"),
        ("gone", "gone: expected regions, found no regions.json; make them with align_jax.regions"),
        ((), "config.data.regions.path: expected a folder of align_jax.regions, found none"),
        (5, "config.data.regions.path: expected a text or a list of texts or a section, found 5"),
    ],
)
def test_stores_that_cannot_be_its_own_are_refused_at_once(made, regions, match):
    folder, stores, _ = made
    with pytest.raises(AlignError, match=match):
        loading.parts_of(folder, stores.get(regions, regions))


def test_a_model_of_pictures_is_shown_no_regions(made, tmp_path):
    _, stores, given = made
    rows = [{"id": key, "image": "none.png", "text": f"text {key}"} for key in given["new"]]
    source = write_manifest(tmp_path, rows)
    folder = tmp_path / "run"
    cross_run.begin(Path(source["path"]), folder)
    (folder / "model.safetensors").touch()  # an export's, which is not read before the regions are
    match = "^regions: expected a model that is shown stored regions, found none of config.data.regions in .*run; leave"
    new = stores["new"]
    with pytest.raises(AlignError, match=match):
        loading.load(folder, regions=new)
    with pytest.raises(AlignError, match=match):
        evaluate_checkpoint(folder, regions=[new])
    with pytest.raises(AlignError, match=match):
        rerank.rerank("none", str(folder), source, Plan((1,), (0.0,)), tmp_path / "out", regions=[new])


def test_what_is_found_on_other_regions_lies_apart(made, monkeypatch):
    """Beside the run stands what its own config asks of it."""
    folder, stores, _ = made
    own = configs.load(folder / "config.json")
    config = configs.override(own, {"evals": {"r": {"kind": "retrieval"}}}, where="test")
    monkeypatch.setattr(configs, "load", lambda path: config)
    monkeypatch.setattr("align_jax.evaluate.locate", lambda path: loading.Place(folder, 3))

    def stop(path, *, flag):
        raise AlignError(f"would write to {path}")

    monkeypatch.setattr("align_jax.files.check_writable", stop)
    with pytest.raises(AlignError, match=r"would write to .*/run$"):
        evaluate_checkpoint(folder)
    with pytest.raises(AlignError, match=r"would write to .*/run/evaluations/step-3$"):
        evaluate_checkpoint(folder, regions=stores["new"])


def test_a_search_has_regions_only_to_re_rank(monkeypatch):
    values = SimpleNamespace(
        data="name=emoji", index_options="", index_kind="exact", port=0, regions=["new"], rerank=""
    )  # fmt: skip
    monkeypatch.setattr("absl.flags.FLAGS", values)
    with pytest.raises(AlignError, match="--regions: expected with --rerank, whose model is shown them, found none"):
        search.main([])
