"""A trained model in use: loaded from a run or an export, embedding to disk, evaluated and exported again."""

import io
import json
import shutil

import numpy as np
import pyarrow.parquet as pq
import pytest
import shapes_run
from PIL import Image

import align_jax
from align_jax import embed
from align_jax.data import source as sources
from align_jax.data.source import BadExample
from align_jax.types import AlignError


@pytest.fixture(scope="module")
def model(finished_run):
    return align_jax.load(finished_run)


@pytest.fixture
def pairs(finished_run, tmp_path):
    """The manifest of the run with a broken picture and an empty text put in."""
    folder = tmp_path / "pictures"
    shutil.copytree(finished_run.parent, folder, ignore=shutil.ignore_patterns("run"))
    (folder / "broken.png").write_bytes(b"no picture")
    lines = (folder / "pairs.jsonl").read_text().splitlines()
    lines.insert(3, json.dumps({"image": "broken.png", "texts": ["a broken thing", " "], "label": "red"}))
    (folder / "pairs.jsonl").write_text("\n".join(lines) + "\n")
    return folder / "pairs.jsonl"


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
    with pytest.raises(AlignError, match="neither in"):
        align_jax.load(finished_run.parent)


def check_embeddings(out, model, manifest):
    """Rows align with ids and texts; the broken picture is flagged."""
    images, texts = np.load(out / "images.npy"), np.load(out / "texts.npy")
    table, words = pq.read_table(out / "images.parquet").to_pylist(), pq.read_table(out / "texts.parquet").to_pylist()
    assert [row["id"] for row in table] == [json.loads(line)["image"] for line in manifest.read_text().splitlines()]
    assert [row["id"] for row in table if row["skipped"]] == ["broken.png"]
    assert table[3] == {"id": "broken.png", "group": "broken.png", "label": 3, "skipped": "image unreadable"}
    assert images.shape == (17, 16) and not images[3].any()
    good = [i for i in range(17) if i != 3]
    expected = model.embed_images([manifest.parent / table[i]["id"] for i in good])
    np.testing.assert_allclose(images[good], expected, atol=1e-5)
    assert len(words) == len(texts) == 33, "two texts a picture; the empty one is left out"
    np.testing.assert_allclose(texts, model.embed_texts([row["text"] for row in words]), atol=1e-5)
    assert words[6] == {"id": "broken.png", "text": "a broken thing"}
    assert not list(out.glob("pieces*")) and not list(out.glob("*.partial"))


def test_embedding_goes_on_after_a_kill(model, pairs, tmp_path, monkeypatch):
    monkeypatch.setattr(embed, "PIECE", 5)
    source = sources.make(name="manifest", path=str(pairs))
    real, calls = embed._embed_piece, []

    def killed_at_the_third(model, reader, folder):
        calls.append(folder.name)
        if len(calls) == 3:
            folder.mkdir()
            (folder / "images.npy").write_bytes(b"half")
            raise KeyboardInterrupt
        real(model, reader, folder)

    monkeypatch.setattr(embed, "_embed_piece", killed_at_the_third)
    with pytest.raises(KeyboardInterrupt):
        embed.embed_source(model, source, tmp_path / "out")
    assert not (tmp_path / "out" / "images.npy").exists()
    embed.embed_source(model, source, tmp_path / "out")
    assert calls == ["0.partial", "5.partial", "10.partial", "10.partial", "15.partial"]
    check_embeddings(tmp_path / "out", model, pairs)


def test_each_image_is_read_once(model, pairs, tmp_path):
    class Counting(sources.Source):
        def __init__(self, source):
            self.source, self.read = source, []

        def __len__(self):
            return len(self.source)

        def __getitem__(self, index):
            self.read.append(index)
            return self.source[index]

        def about(self, index):
            return self.source.about(index)

    source = Counting(sources.make(name="manifest", path=str(pairs)))
    embed.embed_source(model, source, tmp_path / "out")
    assert sorted(source.read) == list(range(17))


def test_the_embed_verb(model, finished_run, pairs, tmp_path):
    out = tmp_path / "out"
    shapes_run.finish("align_jax.embed", f"--model={finished_run / 'export'}", f"--manifest={pairs}", f"--out={out}")
    check_embeddings(out, model, pairs)


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
    assert len(files) == 9
    for name in files:
        if name.suffix != ".parquet":
            assert (workdir / name).read_bytes() == (finished_run / name).read_bytes(), name


@pytest.mark.parametrize("verb", ["main", "evaluate", "export", "embed", "curate", "search"])
def test_help_has_an_example(verb):
    out, _ = shapes_run.finish(f"align_jax.{verb}", "--help", status=1)  # absl's status for it
    assert f"python -m align_jax.{verb} --" in out
