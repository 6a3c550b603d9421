"""Embeddings on disk: their layout, those who make them together, kills, and the tools that read them."""

import dataclasses
import json
import logging
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from collections import Counter

import numpy as np
import pyarrow.parquet as pq
import pytest
import shapes_run
from autofaiss import build_index
from embedding_reader import EmbeddingReader

import align_jax
from align_jax import sharding
from align_jax.data import source as sources
from align_jax.data.options import source_options
from align_jax.data.source import BadExample
from align_jax.embeddings import making
from align_jax.embeddings.layout import Layout, claim, clear
from align_jax.embeddings.parts import Part, Piece
from align_jax.embeddings.reader import Embeddings, Rows, summary
from align_jax.evals.embedding import Embedder, begun
from align_jax.loading import locate, parts_of, weights_at
from align_jax.model import Model
from align_jax.types import AlignError

FIRST = ("img_emb", "text_emb", "metadata")


@pytest.fixture(scope="module")
def model(finished_run):
    return align_jax.load(finished_run / "export")


@pytest.fixture(scope="module")
def pairs(finished_run, tmp_path_factory):
    """The manifest of the run with a broken picture, an empty text and a picture without any put in."""
    folder = tmp_path_factory.mktemp("embed") / "pictures"
    shutil.copytree(finished_run.parent, folder, ignore=shutil.ignore_patterns("run"))
    (folder / "broken.png").write_bytes(b"no picture")
    lines = (folder / "pairs.jsonl").read_text().splitlines()
    lines.insert(3, json.dumps({"image": "broken.png", "texts": ["a broken thing", " "], "label": "red"}))
    lines.insert(5, json.dumps({"image": "red_cross.png", "id": "mute", "texts": ["\u200b"]}))
    lines[0] = json.dumps(json.loads(lines[0]) | {"texts": [" ", "red ellipse", "an ellipse in red"]})
    (folder / "pairs.jsonl").write_text("\n".join(lines) + "\n")
    return folder / "pairs.jsonl"


def made(model, data, out, *, process=0, processes=1, **options):
    """The folder, made in this process; its source as --data has it."""
    given = source_options(str(data))
    source = sources.make(**given)
    facts = making.facts_of(model, source, given, **options)
    making.embed_source(model, source, out, facts=facts, process=process, processes=processes)
    return out


@pytest.fixture(scope="module")
def whole(model, pairs, tmp_path_factory):
    """The 18 records in 9 parts, by nobody disturbed."""
    return made(model, pairs, tmp_path_factory.mktemp("embed") / "whole", part_size=2)


def test_rows_are_samples(model, pairs, whole):
    found = Embeddings(whole)
    rows = found.metadata().to_pylist()
    assert len(found) == len(rows) == found.images.shape[0] == found.texts.shape[0] == 16
    assert rows[0] == {
        "image_path": str(pairs.parent / "red_ellipse.png"), "caption": "red ellipse", "id": "red_ellipse.png",
        "group": "red_ellipse.png", "label": 3, "class": "red", "row": 0,
    }  # fmt: skip
    assert [row["row"] for row in rows] == [0, 1, 2, 4, *range(6, 18)]
    expected = model.embed_images([row["image_path"] for row in rows])
    np.testing.assert_allclose(found.images[:], expected, atol=1e-5)
    np.testing.assert_allclose(found.texts[:], model.embed_texts([row["caption"] for row in rows]), atol=1e-5)
    assert pq.read_table(whole / "left_out").to_pylist() == [
        {"row": 3, "id": "broken.png", "reason": "image unreadable"},
        {"row": 5, "id": "mute", "reason": "caption missing"},
    ]
    assert summary(whole).endswith(
        "whole: 16 pairs of 18 records, 9 parts; left out: 1 caption missing, 1 image unreadable; texts left out: "
        "16 after the first, 2 of pictures left out, 2 without a word"
    )
    assert {path.name for path in whole.iterdir()} == {*FIRST, "left_out", "parts", "embeddings.json"}


def test_all_captions_and_none(model, pairs, whole, tmp_path):
    every = Embeddings(made(model, pairs, tmp_path / "all", captions="all", part_size=7))
    rows = every.metadata().to_pylist()
    assert len(every) == 32 and every.texts_left_out == {"of pictures left out": 2, "without a word": 2}
    assert [row["caption"] for row in rows[:3]] == ["red ellipse", "an ellipse in red", "red rectangle"]
    np.testing.assert_allclose(every.texts[:], model.embed_texts([row["caption"] for row in rows]), atol=1e-5)
    np.testing.assert_allclose(every.images[::2], Embeddings(whole).images[:], atol=1e-5)
    np.testing.assert_array_equal(every.images[1::2], every.images[::2])
    none = Embeddings(made(model, pairs, tmp_path / "none", captions="none", dtype="float16"))
    assert len(none) == 17 and none.left_out == {"image unreadable": 1} and not none.texts_left_out
    assert "caption" not in none.metadata().column_names and not (tmp_path / "none" / "text_emb").exists()
    assert np.load(tmp_path / "none" / "img_emb" / "img_emb_0.npy").dtype == np.float16
    np.testing.assert_allclose(none.images[np.array([0, 1, 2])], Embeddings(whole).images[:3], atol=1e-3)
    with pytest.raises(AlignError, match="expected embeddings of captions, found those of pictures alone"):
        none.texts  # noqa: B018


def test_pictures_without_captions(model, pairs, tmp_path, monkeypatch):
    """Of a source without, and of a model that reads none."""
    folder = made(model, pairs.parent, tmp_path / "folder")
    assert summary(folder).endswith("folder: 16 pictures of 17 records, 1 part; left out: 1 image unreadable")
    monkeypatch.setattr(model, "functions", ("embed_images",))
    mute = Embeddings(made(model, pairs, tmp_path / "mute"))
    assert mute.facts.captions == "none" and len(mute) == 17


def test_two_processes_of_which_one_is_killed(model, pairs, whole, finished_run, tmp_path):
    """The second waits for ever for the picture of its last part, until it is killed; the first ends all the same."""
    folder, out = shutil.copytree(pairs.parent, tmp_path / "pictures"), tmp_path / "out"
    hangs = folder / json.loads((folder / "pairs.jsonl").read_text().splitlines()[14])["image"]
    hangs.unlink()
    os.mkfifo(hangs)
    environment = shapes_run.environment(
        JAX_NUM_CPU_DEVICES="8", JAX_COORDINATOR_ADDRESS="127.0.0.1:1", JAX_NUM_PROCESSES="2"
    )
    command = [sys.executable, "-m", "align_jax.embed", f"--model={finished_run / 'export'}", "--part_size=2"]
    command += [f"--data={folder / 'pairs.jsonl'}", f"--out={out}", "--batch_size=8"]
    first, second = (
        subprocess.Popen(
            command, cwd=shapes_run.ROOT, env=environment | {"JAX_PROCESS_ID": str(process)}, text=True,
            stdout=subprocess.PIPE, stderr=subprocess.PIPE,
        )
        for process in (0, 1)
    )  # fmt: skip
    try:
        said, heard = first.communicate(timeout=120)
        assert first.returncode == 0, heard
        until = time.monotonic() + 60
        while not (out / "parts" / "part_1.json").exists():
            assert second.poll() is None and time.monotonic() < until, second.communicate()[1]
            time.sleep(0.05)
    finally:
        second.send_signal(signal.SIGKILL)
        second.communicate()
    assert "process 0 of 2: 10 pictures and 9 texts in " in said and " pictures/s, " in said, said
    assert re.search(r"out: \d of 9 parts are finished; the others are those of other processes", said), said
    with pytest.raises(AlignError, match=r"expected 9 finished parts, found \d; start what makes"):
        Embeddings(out)
    before = {path: path.stat().st_mtime_ns for path in (out / "img_emb").iterdir()}
    hangs.unlink()
    shutil.copyfile(pairs.parent / hangs.name, hangs)
    made(model, folder / "pairs.jsonl", out, process=1, processes=2, part_size=2)
    assert {path: path.stat().st_mtime_ns for path in before} == before, "what is finished stays"
    assert_equal(out, whole)


def assert_equal(folder, other):
    """The same files, of the same bytes; pictures may lie elsewhere."""
    found, expected = ({path.relative_to(top): path for path in top.rglob("*.*")} for top in (folder, other))
    assert set(found) == set(expected)
    for name, path in found.items():
        if name.parts[0] == "metadata":
            assert table(path) == table(expected[name])
        else:
            assert path.read_bytes() == expected[name].read_bytes(), name


def table(path):
    return pq.read_table(path).drop_columns("image_path").to_pylist()


class Unreadable(sources.Source):
    """A source of which not even the texts of a record can be read."""

    def __init__(self, source):
        self.source = source

    def __len__(self):
        return 2

    def __getitem__(self, index):
        if index:
            raise BadExample("row group unreadable")
        return dataclasses.replace(self.source[0], label=-1)

    def about(self, index):
        return self[index]

    def ids(self):
        return self.source.ids()

    def texts(self):
        return self.source.texts()

    def files(self):
        return self.source.files()


def test_a_record_that_cannot_be_read_is_named(model, pairs, tmp_path):
    source = Unreadable(sources.make(**source_options(str(pairs))))
    facts = making.facts_of(model, source, {"name": "mine"})
    making.embed_source(model, source, tmp_path / "out", facts=facts)
    assert pq.read_table(tmp_path / "out" / "left_out").to_pylist() == [
        {"row": 1, "id": "red_rectangle.png", "reason": "row group unreadable"}
    ]


class Killed(sources.Source):
    """A source whose reader is killed at a record, once."""

    def __init__(self, source, at):
        self.source, self.at, self.read, self.classes = source, at, [], source.classes

    def __len__(self):
        return len(self.source)

    def __getitem__(self, index):
        self.read.append(index)
        if index == self.at:
            self.at = None
            raise KeyboardInterrupt
        return self.source[index]

    def about(self, index):
        return self.source.about(index)

    def texts(self):
        return self.source.texts()

    def files(self):
        return self.source.files()


def test_a_kill_within_a_part_costs_little(model, pairs, tmp_path, monkeypatch):
    """Here each batch is saved. What lies in a piece is not read again, and the part is as without a kill."""
    monkeypatch.setattr(making, "SAVED_EVERY", 0.0)
    monkeypatch.setattr(making, "READ_AHEAD", 0)
    monkeypatch.setattr(making, "COMPUTED_AHEAD", 0)
    given = source_options(str(pairs))
    source = Killed(sources.make(**given), 17)
    facts = making.facts_of(model, source, given)
    with pytest.raises(KeyboardInterrupt):
        making.embed_source(model, source, tmp_path / "out", facts=facts, batch_size=8)
    pieces = sorted(path.name for path in (tmp_path / "out" / "parts" / "part_0.unfinished").iterdir())
    assert pieces == ["0-8.npz", "8-16.npz"] and not (tmp_path / "out" / "img_emb").exists()
    (tmp_path / "out" / "parts" / "part_0.unfinished" / "16-18.partial.npz").write_bytes(b"half")
    source.read.clear()
    speed = making.embed_source(model, source, tmp_path / "out", facts=facts, batch_size=8)
    assert sorted(source.read) == [16, 17] and speed.pictures == 2
    source.read.clear()
    making.embed_source(model, source, tmp_path / "new", facts=facts, batch_size=8)
    assert sorted(source.read) == list(range(18)), "each record is read once"
    assert_equal(tmp_path / "out", tmp_path / "new")
    assert str(making.embed_source(model, source, tmp_path / "new", facts=facts)) == "nothing was left to embed"


def test_a_kill_before_the_end_of_a_part(model, pairs, whole, tmp_path):
    """All its records are in pieces, some of its files stand: it is ended without reading any."""
    out = shutil.copytree(whole, tmp_path / "out")
    given = source_options(str(pairs))
    source = Killed(sources.make(**given), None)
    facts = making.facts_of(model, source, given, part_size=2)
    layout = Layout(out, facts)
    rows = [np.load(path) for path in (layout.images(4), layout.texts(4))]
    samples = pq.read_table(layout.metadata(4)).to_pylist()
    for path in (layout.counts(4), layout.images(4), layout.left_out(4)):
        path.unlink()
    part = Part(layout, 4)
    part.add(Piece(*rows, samples, [], Counter({"after the first": 2})), 10)
    part.save()
    making.embed_source(model, source, out, facts=facts)
    assert not source.read
    assert_equal(out, whole)


@pytest.mark.parametrize(
    ("change", "match"),
    [
        (
            {"weights": "f" * 16},
            r"another checkpoint: weights f{16}, now \w{16}; give another --out, or delete",
        ),
        ({"data": "f" * 16}, r"made with other data: data f{16}, now \w{16}; give another --out"),
        ({"records": 3}, "made with other data: records 3, now 18"),
        ({"captions": "all"}, "made with other options: captions all, now first"),
        ({"dtype": "float16"}, "made with other options: dtype float16, now float32"),
        ({"part_size": 5}, "made with other options: part_size 5, now 2"),
    ],
)
def test_a_folder_of_something_else_is_refused(whole, tmp_path, change, match):
    facts = Embeddings(whole).facts
    claim(tmp_path / "out", dataclasses.replace(facts, **change), flag="--out")
    with pytest.raises(AlignError, match=match):
        claim(tmp_path / "out", facts, flag="--out")
    clear(tmp_path / "out", facts)
    assert not (tmp_path / "out").exists()
    claim(tmp_path / "out", facts, flag="--out")
    clear(tmp_path / "out", facts)
    assert (tmp_path / "out" / "embeddings.json").exists()


def test_a_folder_of_other_files_is_refused(whole, tmp_path):
    facts = Embeddings(whole).facts
    (tmp_path / "embeddings.partial3.json").write_text("half")  # another process is about to
    claim(tmp_path, facts, flag="--out")
    (tmp_path / "embeddings.json").write_text("{}")
    with pytest.raises(AlignError, match=r"embeddings.json: expected the facts of embeddings, found .*; delete"):
        claim(tmp_path, facts, flag="--out")
    (tmp_path / "embeddings.json").rename(tmp_path / "mine.json")
    with pytest.raises(AlignError, match=r"--out: expected a new folder, or embeddings, found .* with other files in"):
        claim(tmp_path, facts, flag="--out")
    with pytest.raises(AlignError, match=r"expected embeddings, found no embeddings.json; make them with align_jax.e"):
        Embeddings(tmp_path)


def test_damage_is_named(whole, tmp_path):
    out = shutil.copytree(whole, tmp_path / "out")
    (out / "img_emb" / "img_emb_2.npy").write_bytes(b"x")
    with pytest.raises(AlignError, match=r"img_emb_2.npy: expected 1 rows, found .*; delete that folder"):
        Embeddings(out).images  # noqa: B018
    np.save(out / "img_emb" / "img_emb_2.npy", np.zeros((3, 16)))
    with pytest.raises(AlignError, match=r"img_emb_2.npy: expected 1 rows, found 3"):
        Embeddings(out).images  # noqa: B018


def test_a_part_without_a_row_has_no_files(model, pairs, tmp_path):
    """Of clip-retrieval's layout: its reader would lose step between embeddings and metadata at an empty file."""
    manifest = tmp_path / "pairs.jsonl"
    lines = pairs.read_text().splitlines()
    manifest.write_text("\n".join([lines[0], lines[3], lines[5], lines[1]]) + "\n")
    data = json.dumps({"name": "manifest", "path": str(manifest), "images": str(pairs.parent)})
    out = made(model, data, tmp_path / "out", part_size=1)
    assert sorted(path.name for path in (out / "img_emb").iterdir()) == ["img_emb_0.npy", "img_emb_3.npy"]
    found = Embeddings(out)
    assert len(found) == 2 and found.metadata(["row"]).to_pylist() == [{"row": 0}, {"row": 3}]
    expected = model.embed_images([pairs.parent / "red_ellipse.png", pairs.parent / "red_rectangle.png"])
    np.testing.assert_allclose(found.images[:], expected, atol=1e-5)
    manifest.write_text(lines[3] + "\n")
    nothing = Embeddings(made(model, data, tmp_path / "none"))
    with pytest.raises(AlignError, match="none: expected embeddings, found no row: 1 image unreadable"):
        nothing.metadata()


def test_embedding_reader_reads_them(whole):
    found = Embeddings(whole)
    images = EmbeddingReader(str(whole / "img_emb"), file_format="npy")
    assert (images.count, images.dimension) == (16, 16)
    rows = np.concatenate([rows for rows, _ in images(batch_size=5, show_progress=False)])
    np.testing.assert_array_equal(rows, found.images[:])
    texts = EmbeddingReader(
        str(whole / "text_emb"), file_format="parquet_npy", metadata_folder=str(whole / "metadata"),
        meta_columns=["image_path", "caption", "row"],
    )  # fmt: skip
    (both,) = list(texts(batch_size=16, show_progress=False))
    np.testing.assert_array_equal(both[0], found.texts[:])
    kept = found.metadata(["image_path", "caption", "row"]).to_pydict()
    assert {name: both[1][name].tolist() for name in kept} == kept


def test_autofaiss_indexes_them(whole, tmp_path):
    """As `clip-retrieval index` calls it, but for writing: with numpy 2 autofaiss cannot write its measurements."""
    for kind, rows in (("img_emb", Embeddings(whole).images[:]), ("text_emb", Embeddings(whole).texts[:])):
        index, _ = build_index(
            embeddings=str(whole / kind), save_on_disk=False, max_index_memory_usage="4G",
            current_memory_available="16G", nb_cores=1, verbose=logging.ERROR,
        )  # fmt: skip
        assert index is not None and (index.ntotal, index.d) == (16, 16)
        scores, places = index.search(rows, 3)
        exact = np.sort(rows @ rows.T, axis=1)[:, ::-1][:, :3]
        np.testing.assert_allclose(scores, exact, atol=1e-5)
        np.testing.assert_allclose(np.take_along_axis(rows @ rows.T, places, axis=1), exact, atol=1e-5)


def test_one_device_gives_what_eight_give(model, pairs, whole, finished_run, tmp_path):
    place, mesh = locate(finished_run / "export"), sharding.make_mesh(devices=1)
    parts = parts_of(place.folder)
    embedder = Embedder(parts.task.functions(), parts.pairs, mesh=mesh, batch_size=8)
    alone = Model(dataclasses.replace(parts, mesh=mesh, embedder=embedder), weights_at(place, parts))
    found = Embeddings(made(alone, pairs, tmp_path / "one", part_size=2))
    np.testing.assert_allclose(found.images[:], Embeddings(whole).images[:], atol=1e-5)
    np.testing.assert_allclose(found.texts[:], Embeddings(whole).texts[:], atol=1e-5)


def test_rows_of_many_arrays_are_as_one():
    rows = np.arange(24, dtype=np.float32).reshape(12, 2)
    parts = Rows([rows[:5], rows[5:6], rows[6:]])
    halves = Rows([rows[:7].astype(np.float16), rows[7:].astype(np.float16)])
    order = np.array([11, 0, 5, 5, 3])
    for found, whole in (
        (parts, rows), (halves, rows), (parts.choose(order), rows[order]),
        (parts.choose(order).choose(np.array([4, 0])), rows[order][[4, 0]]),
    ):  # fmt: skip
        assert found.shape == whole.shape and len(found) == len(whole)
        for key in (slice(None), slice(1, 4), slice(1, 99), slice(3, 3), slice(-2, None), slice(None, None, 2),
                    np.array([1, 0, 1]), np.array([], int), np.arange(len(whole)) % 2 == 0):  # fmt: skip
            taken = found[key]
            assert taken.dtype == np.float32
            np.testing.assert_array_equal(taken, whole[key], err_msg=str(key))
    assert np.shares_memory(parts[1:4], rows), "nothing is copied of one part"


def test_jobs_begin_ahead():
    drawn = []
    jobs = begun((drawn.append(i) or i for i in range(6)), 2)
    assert next(jobs) == 0 and drawn == [0, 1, 2]
    assert list(jobs) == [1, 2, 3, 4, 5]
    assert list(begun(iter("ab"), 5)) == ["a", "b"] and not list(begun(iter(()), 1))
