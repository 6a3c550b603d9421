"""A trained model in use: loaded from a run or an export, evaluated and exported again."""

import io
import json
import shutil

import numpy as np
import pytest
import shapes_run
from PIL import Image

import align_jax
from align_jax.data.source import BadExample
from align_jax.types import AlignError


@pytest.fixture(scope="module")
def model(finished_run):
    return align_jax.load(finished_run)


def test_a_run_and_its_export_give_the_same_embeddings(model, finished_run):
    export = align_jax.load(finished_run / "export")
    images, texts = sorted(map(str, finished_run.parent.glob("*.png"))), ["red cross", "a line in blue"]
    np.testing.assert_array_equal(model.embed_images(images), export.embed_images(images))
    np.testing.assert_array_equal(model.embed_texts(texts), export.embed_texts(texts))


def test_every_kind_of_image_gives_the_same_row(model, finished_run):
    path = finished_run.parent / "red_cross.png"
    with Image.open(path) as picture:
        kinds = [path, str(path), picture.copy(), np.asarray(picture), path.read_bytes()]
    rows = model.embed_images(kinds)
    assert rows.shape == (5, 16) and rows.dtype == np.float32
    np.testing.assert_allclose(np.linalg.norm(rows, axis=1), 1.0, atol=1e-5)
    for row in rows:
        np.testing.assert_array_equal(row, rows[0])


def test_order_is_kept_over_many_batches(model, finished_run):
    paths = sorted(finished_run.parent.glob("*.png"))[:11]  # batches of 8 rows
    rows = model.embed_images(paths)
    for i in (0, 7, 8, 10):
        np.testing.assert_allclose(model.embed_images([paths[i]])[0], rows[i], atol=1e-5)
    texts = [f"{colour} {shape}" for colour in shapes_run.COLOURS for shape in shapes_run.SHAPES]
    rows = model.embed_texts(texts)
    for i in (0, 7, 8, 15):
        np.testing.assert_allclose(model.embed_texts([texts[i]])[0], rows[i], atol=1e-5)


def test_what_cannot_be_embedded_is_named(model, finished_run):
    good = finished_run.parent / "red_cross.png"
    with pytest.raises(BadExample, match=r"image 1 \(nowhere.png\): image file missing"):
        model.embed_images([good, "nowhere.png"])
    with pytest.raises(BadExample, match=r"image 0 .*: image unreadable"):
        model.embed_images([io.BytesIO(b"none").getvalue()])
    with pytest.raises(AlignError, match="text 1: expected at least one word"):
        model.embed_texts(["red", " "])
    with pytest.raises(AlignError, match="expected at least one input"):
        model.embed_images([])
    with pytest.raises(AlignError, match="found none of these in"):
        align_jax.load(finished_run.parent)


def test_the_evaluate_verb_finds_what_training_found(finished_run, tmp_path):
    workdir = shutil.copytree(finished_run, tmp_path / "run")
    (workdir / "eval.json").unlink()
    out, _ = shapes_run.finish("align_jax.evaluate", f"--checkpoint={workdir}")
    results = json.loads((finished_run / "eval.json").read_text())
    assert json.loads((workdir / "eval.json").read_text()) == results
    assert all(result["name"] in out for result in results) and len(results) == 12


def test_the_export_verb_writes_what_training_wrote(finished_run, tmp_path):
    workdir = shutil.copytree(finished_run, tmp_path / "run")
    shutil.rmtree(workdir / "export")
    out, _ = shapes_run.finish("align_jax.export", f"--workdir={workdir}")
    assert str(workdir / "export") in out
    files = sorted(path.relative_to(finished_run) for path in (finished_run / "export").rglob("*") if path.is_file())
    assert len(files) == 11
    for name in files:
        if name.suffix != ".parquet":
            assert (workdir / name).read_bytes() == (finished_run / name).read_bytes(), name


VERBS = ("main", "evaluate", "export", "embed", "curate", "search", "convert", "regions", "mine", "rerank")


@pytest.mark.parametrize("verb", VERBS)
def test_help_has_an_example(verb):
    out, _ = shapes_run.finish(f"align_jax.{verb}", "--help", status=1)  # absl's status for it
    assert f"python -m align_jax.{verb} --" in out
