"""Region features on disk: what other programs stored, what is wrong with it, and what a kill leaves."""

import json
import os
import pickle
import signal
import subprocess
import sys
from pathlib import Path

import h5py
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import region_writers
import shapes_run
from ml_collections import ConfigDict
from region_writers import CLASSES, SIZE, WIDTH, images, shares

from align_jax.data import visual
from align_jax.data.region_store import RegionStore, key_of, read_facts
from align_jax.data.source import BadExample, Record
from align_jax.data.storage import Stored
from align_jax.region_files import cleaning, fields
from align_jax.region_files.cleaning import CUT, NO_AREA, NOT_FINITE, SUREST
from align_jax.region_files.converting import Converted, open_reader
from align_jax.region_files.reading import digest_of
from align_jax.region_files.writing import TWICE, summary, write
from align_jax.types import AlignError


def convert(form, path, out, *, ids="", force=False, shard_size=2, **options):
    """The store of converted files."""
    reader = open_reader(form, [str(path)], ids=ids)
    converted = Converted(reader, origin={"format": form, "files": reader.digest}, **options)
    write(converted, out, force=force, shard_size=shard_size)
    return RegionStore(str(out))


# Format, name of the writer and its options, what it keeps besides features and boxes.
FORMATS = {
    "bottom_up_tsv": ("tsv", {}, ()),
    "lxmert_tsv": ("tsv", {}, ("labels", "scores")),
    "uniter_npz": ("npz", {}, ("labels", "scores", "probabilities")),
    "openvqa_npz": ("npz", {}, ()),
    "uniter_lmdb": ("lmdb", {}, ("labels", "scores", "probabilities")),
    "uniter_lmdb of npz": ("lmdb", {"compressed": True}, ("labels", "scores", "probabilities")),
    "hdf5_table": ("hdf5", {}, ("labels", "scores")),
    "hdf5_vqa": ("hdf5", {}, ()),
    "hdf5_groups": ("hdf5", {}, ("labels", "scores")),
    "parquet": ("parquet", {}, ("labels", "scores", "probabilities")),
    "parquet of flat lists": ("parquet", {"flat": True}, ("labels", "scores", "probabilities")),
}


@pytest.mark.parametrize("name", FORMATS)
def test_a_converted_store_equals_what_was_given(name, tmp_path):
    form, options, kept = FORMATS[name]
    given, path = images(), tmp_path / f"given.{form}"
    ids = getattr(region_writers, name.split()[0])(path, given, **options)
    dtype = "float16" if form in ("lmdb", "tsv") else "float32"
    store = convert(
        form, path, tmp_path / "out", ids=str(ids or ""), dtype=dtype, classes=CLASSES if "labels" in kept else None,
        probabilities="probabilities" in kept,
    )  # fmt: skip
    assert (len(store), store.width, store.classes) == (5, WIDTH, CLASSES if "labels" in kept else 0)
    assert store.keys().to_pylist() == sorted(given)
    assert store.facts.regions == sum(len(image["boxes"]) for image in given.values())
    assert not store.facts.refused and not store.facts.changed
    half = np.float16 if form == "lmdb" else np.float32  # of all arrays of that file
    for key, image in given.items():
        found = store[key]
        count = len(image["boxes"])
        np.testing.assert_array_equal(found.features, image["features"].astype(dtype).astype(np.float32))
        np.testing.assert_array_equal(found.boxes, shares(image["boxes"]).astype(half).astype(np.float32))
        scores = image["scores"].astype(half).astype(np.float32)
        np.testing.assert_array_equal(found.scores, scores if "scores" in kept else np.ones(count))
        if name not in ("uniter_lmdb", "uniter_lmdb of npz"):  # halves may make two classes equally likely
            np.testing.assert_array_equal(found.labels, image["labels"] if "labels" in kept else np.full(count, -1))
        if "probabilities" in kept:
            wanted = image["probabilities"].astype(half).astype(np.float32)[:, 1:]
            if form != "parquet":  # whose column has no background
                wanted = wanted / wanted.sum(axis=1, keepdims=True)
            np.testing.assert_array_equal(found.probabilities, wanted.astype(dtype).astype(np.float32))
        assert {array.dtype for array in (found.features, found.boxes, found.scores)} == {np.dtype(np.float32)}
        assert found.labels.dtype == np.int32


def npz(folder, **arrays):
    """Stores images as .npz: name -> what differs from a good image of two regions."""
    folder.mkdir()
    for name, changes in arrays.items():
        good = {
            "features": np.ones((2, WIDTH), np.float32), "boxes": [[10, 10, 90, 90], [0, 0, 640, 480]],
            "labels": np.array([0, 1]), "scores": np.array([0.5, 0.9]), "image_w": SIZE[0], "image_h": SIZE[1],
        }  # fmt: skip
        kept = {key: value for key, value in (good | changes).items() if value is not None}
        np.savez(folder / f"{name}.npz", **kept)
    return folder


def ones(*shape, **places):
    return np.ones(shape, np.float32)


def test_every_bad_input_is_counted(tmp_path):
    nan, far = ones(2, WIDTH), ones(2, WIDTH)
    nan[1, 2], far[0, 0] = np.nan, 70_000
    twice = ones(2, WIDTH) * 2
    path = npz(
        tmp_path / "given",
        a_good={}, a_twin={}, c_cut={"boxes": [[-5, 10, 90, 500], [0, 0, 640, 480]]},
        d_area={"boxes": [[10, 10, 10, 90], [0, 0, 640, 480]]}, e_outside={"boxes": [[700, 0, 800, 9], [0, 0, 64, 48]]},
        f_nan_box={"boxes": [[np.nan, 0, 9, 9], [0, 0, 64, 48]]},
        g_many={"features": twice, "scores": [0.1, 0.2, 0.3, 0.3], "labels": [0, 1, 2, 3], "boxes": [[0, 0, 9, 9]] * 4},
        g_more={"features": np.arange(32).reshape(4, 8), "scores": [0.1, 0.2, 0.3, 0.3], "labels": [0, 1, 2, 3],
                "boxes": [[0, 0, 9, 9]] * 4},
        h_no_boxes={"boxes": np.zeros((0, 4)), "features": np.zeros((0, WIDTH)), "labels": np.zeros(0),
                    "scores": np.zeros(0)},
        i_none_left={"boxes": [[9, 9, 9, 9], [7, 7, 3, 3]]}, j_nan={"features": nan}, k_inf={"features": nan * np.inf},
        l_width={"features": ones(2, WIDTH + 1)}, m_label={"labels": [0, CLASSES]}, n_label={"labels": [0, -2]},
        o_missing={"features": None}, p_missing={"boxes": None}, q_size={"image_w": None}, r_size={"image_h": 0},
        s_scores={"scores": [0.5, np.nan]}, t_far={"features": far}, u_labels={"labels": [0.5, 1]},
        v_scores={"scores": [1.0]}, w_number={"number": 1},
    )  # fmt: skip
    (path / "x_broken.npz").write_bytes(b"PK no zip")
    store = convert("npz", path, tmp_path / "out", classes=CLASSES, most=2)
    refused = {
        "no regions": 2, "region features not finite": 2, f"region features of width {WIDTH + 1}, not {WIDTH}": 1,
        "label outside the classes": 2, "features missing": 1, "boxes missing": 1, "image size missing": 1,
        "image size not above 0": 1, "region scores not finite": 1, "region features beyond float16": 1,
        "labels that are no whole numbers": 1, "arrays of different lengths": 2, "file unreadable": 1,
    }  # fmt: skip
    assert store.facts.refused == dict(sorted(refused.items()))
    assert store.facts.changed == {CUT: 1, NO_AREA: 2, NOT_FINITE: 1, SUREST: 2}
    assert len(store) == 8 and store.facts.regions == 13
    np.testing.assert_array_equal(store["c_cut"].boxes[0], np.float32([0, 10 / 480, 90 / 640, 1]))
    assert store["g_more"].labels.tolist() == [2, 3]  # the surest; of equals the first
    np.testing.assert_array_equal(store["g_more"].features, np.arange(16, 32).reshape(2, 8))
    for key in store.keys().to_pylist():
        store[key].check(width=WIDTH, classes=CLASSES)
    listed = pq.read_table(tmp_path / "out" / "refused.parquet").to_pylist()
    assert {"key": "m_label", "reason": "label outside the classes"} in listed and len(listed) == 17
    told = summary(store.facts, tmp_path / "out")
    assert all(f"{count:,}  refused: {reason}" in told for reason, count in refused.items())


def test_lines_that_cannot_be_read(tmp_path):
    path = tmp_path / "a.tsv"
    region_writers.bottom_up_tsv(path, images())
    lines = path.read_bytes().split(b"\r\n")
    columns = lines[3].split(b"\t")
    columns[5] = b"not base64!"
    lines[1], lines[3] = lines[1] + b"\tmore", b"\t".join(columns)
    lines[4] = lines[4].replace(b"\t6\t", b"\t600\t")
    path.write_bytes(b"\r\n".join(lines))
    store = convert("tsv", path, tmp_path / "out")
    assert store.facts.refused == {"line unreadable": 2, "line with another number of columns": 1}
    assert f"{path}, line 2" in pq.read_table(tmp_path / "out" / "refused.parquet")["key"].to_pylist()


def test_parquet_cells_that_do_not_fit(tmp_path):
    rows = [
        {"key": "good", "features": [[1.0, 2.0]], "boxes": [[0.0, 0.0, 0.5, 0.5]]},
        {"key": "ragged", "features": [[1.0, 2.0], [1.0]], "boxes": [[0.0, 0.0, 0.5, 0.5]] * 2},
        {"key": "null", "features": [[1.0, None]], "boxes": [[0.0, 0.0, 0.5, 0.5]]},
        {"key": "empty", "features": None, "boxes": [[0.0, 0.0, 0.5, 0.5]]},
        {"key": None, "features": [[1.0, 2.0]], "boxes": [[0.0, 0.0, 0.5, 0.5]]},
    ]
    pq.write_table(pa.Table.from_pylist(rows), tmp_path / "a.parquet")
    store = convert("parquet", tmp_path / "a.parquet", tmp_path / "out")
    assert store.keys().to_pylist() == ["good"]
    assert store.facts.refused == {
        "features missing": 1, "features with rows of different lengths": 1, "id missing": 1,
        "region features not finite": 1,
    }  # fmt: skip


def test_a_key_counts_once(tmp_path):
    (tmp_path / "given").mkdir()
    for folder in "ab":
        npz(tmp_path / "given" / folder, one={"features": ones(2, WIDTH) * ord(folder)}, two={})
    store = convert("npz", tmp_path / "given", tmp_path / "out", classes=2, key="stem", shard_size=1)
    assert store.facts.refused == {TWICE: 2} and len(store) == 2 and store.facts.regions == 4
    assert store["one"].features[0, 0] == ord("a")


def test_units_of_boxes():
    image = {"features": np.ones((2, 3)), "image_w": 10, "image_h": 20}
    small = np.array([[0, 0, 1, 1], [0, 0, 0.5, 1.2]])
    read = fields.regions_of
    np.testing.assert_array_equal(read({**image, "boxes": small}).boxes, small.astype(np.float32))
    in_pixels = read({**image, "boxes": small}, units="pixels")
    np.testing.assert_allclose(in_pixels.boxes, small / [10, 20, 10, 20], rtol=1e-6)
    np.testing.assert_allclose(read({**image, "boxes": small * 5}).boxes, small * 5 / [10, 20, 10, 20], rtol=1e-6)
    np.testing.assert_array_equal(read({**image, "norm_bb": small * 5}).boxes, np.float32(small * 5))
    np.testing.assert_array_equal(read({**image, "boxes": small * 5}, units="shares").boxes, np.float32(small * 5))
    across = read({"features": np.ones((3, 2)), "boxes": small.T})  # both lie across
    np.testing.assert_array_equal(across.boxes, small.astype(np.float32))
    assert across.features.shape == (2, 3)


def test_the_background_is_no_class():
    odds = np.float32([[0.5, 0.2, 0.3], [1, 0, 0]])
    image = {"features": np.ones((2, 3)), "norm_bb": np.zeros((2, 4)), "soft_labels": odds}
    found = fields.regions_of(image)
    np.testing.assert_allclose(found.probabilities, [[0.4, 0.6], [0, 0]])
    assert found.labels.tolist() == [1, -1] and found.scores.tolist() == [np.float32(0.3), 0]


@pytest.mark.parametrize("odds", [[-0.1, 0.5], [0.9, 0.4]])
def test_probabilities_that_are_none(odds):
    image = {"features": np.ones((1, 3)), "norm_bb": [[0, 0, 1, 1]], "probabilities": [odds]}
    rules = cleaning.Rules(width=3, classes=2, most=1, dtype="float32", probabilities=True)
    with pytest.raises(BadExample, match="region probabilities that are none"):
        cleaning.clean(fields.regions_of(image), rules)


def test_keys():
    name = "val2014/COCO_val2014_000000391895.jpg"
    assert [key_of(name, rule) for rule in ("id", "stem", "number")] == [
        name, "COCO_val2014_000000391895", "391895"
    ]  # fmt: skip
    assert key_of("0", "number") == "0"
    with pytest.raises(BadExample, match="no number"):
        key_of("a/b.jpg", "number")
    with pytest.raises(AlignError, match="key: expected one of id, stem, number, found 'name'"):
        key_of(name, "name")


def test_a_store_says_what_is_wrong(tmp_path):
    region_writers.bottom_up_tsv(tmp_path / "a.tsv", images())
    out = tmp_path / "out"
    store = convert("tsv", tmp_path / "a.tsv", out)
    assert "coco_val2014_000000391895" in store and "zebra" not in store and "" not in store
    with pytest.raises(BadExample, match=r"^no regions stored$"):
        store["zebra"]
    again = pickle.loads(pickle.dumps(store))
    np.testing.assert_array_equal(again["coco_val2014_000000391896"].boxes, store["coco_val2014_000000391896"].boxes)
    shard = out / "shards" / "regions-00000-of-00003.array_record"
    shard.write_bytes(shard.read_bytes()[:-100])
    with pytest.raises(AlignError, match=r"regions-00000-of-00003.*make the regions again"):
        again = RegionStore(str(out))
        [again[key] for key in again.keys().to_pylist()]
    shard.unlink()
    with pytest.raises(AlignError, match=r"expected a shard of regions, found none"):
        RegionStore(str(out))["coco_val2014_000000391895"]
    facts = out / "regions.json"
    facts.write_text(json.dumps(json.loads(facts.read_text()) | {"version": 9}))
    with pytest.raises(AlignError, match="expected version 2, found 9"):
        RegionStore(str(out))
    with pytest.raises(AlignError, match=r"found no regions.json; make them with align_jax.regions"):
        RegionStore(str(tmp_path))


def test_each_part_of_a_mixture_has_regions_of_its_own(tmp_path):
    """Of images that both parts name alike; what has no part is asked for in the last store."""
    given = [images(regions=2, seed=seed) for seed in range(3)]
    for number, found in enumerate(given):
        region_writers.bottom_up_tsv(tmp_path / f"{number}.tsv", found)
        convert("tsv", tmp_path / f"{number}.tsv", tmp_path / str(number))
    path = ConfigDict({"0/": str(tmp_path / "0"), "1/": str(tmp_path / "1"), "": str(tmp_path / "2")})
    shown = visual.regions(path=path, width=WIDTH, most=2, key="stem")
    name = "val2014/coco_val2014_000000391895.jpg"
    for number, start in enumerate(("0/", "1/", "")):
        row = shown.evaluate(Record(start + name, b"", (), group=""))
        stored = given[number]["coco_val2014_000000391895"]["features"].astype(np.float16)
        np.testing.assert_array_equal(row["regions"], stored)
    with pytest.raises(BadExample, match="no regions stored"):
        visual.regions(path={"0/": path["0/"]}, width=WIDTH, key="stem").evaluate(Record(f"1/{name}", b"", (), ""))
    with pytest.raises(AlignError, match=r"the regions of 0/val.* in one store, found .* in .*; give each part"):
        visual.regions(path=list(path.values()), width=WIDTH, key="stem").evaluate(Record(f"0/{name}", b"", (), ""))


def stored(path, given):
    """The facts of a store of these images, its source written anew, and its digest as a run knows it."""
    region_writers.bottom_up_tsv(path.with_suffix(".tsv"), given)
    facts = convert("tsv", path.with_suffix(".tsv"), path, force=True).facts
    return facts, visual.regions(path=str(path), width=WIDTH).digest


def test_the_digest_of_a_store_follows_its_contents(tmp_path):
    facts, digest = stored(tmp_path / "a", images())
    again, same = stored(tmp_path / "a", images())
    assert again.origin != facts.origin, "the source was written anew"
    assert (again.contents, same) == (facts.contents, digest)
    given = images()
    given["coco_val2014_000000391899"]["features"][0, 0] += 1
    other, changed = stored(tmp_path / "a", given)
    sizes = ("images", "regions", "width", "classes", "refused", "changed")
    assert [getattr(other, name) for name in sizes] == [getattr(facts, name) for name in sizes]
    assert other.contents != facts.contents and changed != digest
    assert stored(tmp_path / "elsewhere", given)[1] == changed


def test_a_conversion_that_goes_on_has_the_digest_of_the_whole(tmp_path, monkeypatch):
    path, read = tmp_path / "a.tsv", Converted._read
    region_writers.bottom_up_tsv(path, images())
    whole = convert("tsv", path, tmp_path / "whole").facts

    def broken(self, index):
        if index == 3:
            raise KeyboardInterrupt
        return read(self, index)

    monkeypatch.setattr(Converted, "_read", broken)
    with pytest.raises(KeyboardInterrupt):
        convert("tsv", path, tmp_path / "out")
    monkeypatch.setattr(
        Converted, "_read", lambda self, index: read(self, index) if index > 1 else pytest.fail("again")
    )
    assert convert("tsv", path, tmp_path / "out").facts == whole


def test_a_source_rewritten_in_its_place_is_another(tmp_path):
    path = tmp_path / "a.tsv"
    region_writers.bottom_up_tsv(path, images())
    convert("tsv", path, tmp_path / "out")
    size = path.stat().st_size
    region_writers.bottom_up_tsv(path, images(seed=1))
    assert path.stat().st_size == size
    with pytest.raises(
        AlignError, match=r"expected regions with origin.files .*, found .*; give another --out, or --f"
    ):
        convert("tsv", path, tmp_path / "out")
    written = region_writers.hdf5_vqa(tmp_path / "a.h5", images())
    before = open_reader("hdf5", [str(tmp_path / "a.h5")], ids=str(written)).digest
    os.utime(written, (1, 1))
    assert open_reader("hdf5", [str(tmp_path / "a.h5")], ids=str(written)).digest != before
    remote = [Stored("memory://bucket/a.tsv", 9, mark) for mark in ("one", "two")]
    assert digest_of(remote[:1]) == digest_of(remote[1:])


def test_a_folder_of_something_else_is_refused(tmp_path):
    region_writers.bottom_up_tsv(tmp_path / "a.tsv", images())
    out = tmp_path / "out"
    out.mkdir()
    (out / "thesis.txt").write_text("years of work")
    for force in (False, True):
        with pytest.raises(AlignError, match=r"--out: expected a new folder, or regions, found .* with other files"):
            convert("tsv", tmp_path / "a.tsv", out, force=force)
    (out / "thesis.txt").unlink()
    first = convert("tsv", tmp_path / "a.tsv", out)
    stamp = (out / "regions.json").stat().st_mtime_ns
    convert("tsv", tmp_path / "a.tsv", out)  # all is there
    assert (out / "regions.json").stat().st_mtime_ns == stamp
    with pytest.raises(AlignError, match=r"expected regions with most 3, found 100; give another --out, or --force"):
        convert("tsv", tmp_path / "a.tsv", out, most=3)
    with pytest.raises(AlignError, match=r"expected regions with origin.key"):
        convert("tsv", tmp_path / "a.tsv", out, key="stem")
    request = out / "request.json"
    request.write_text(
        json.dumps({key: value for key, value in json.loads(request.read_text()).items() if key != "version"})
    )
    with pytest.raises(
        AlignError, match=r"expected regions with version 2, found null; give another --out, or --force"
    ):
        convert("tsv", tmp_path / "a.tsv", out)
    smaller = convert("tsv", tmp_path / "a.tsv", out, most=3, force=True)
    assert smaller.facts.regions < first.facts.regions and smaller.facts.changed == {SUREST: 6}


@pytest.mark.parametrize(
    ("form", "options", "expected"),
    [
        ("tsv", {}, r"a.tsv: expected 6 columns of bottom-up attention or 10 of LXMERT, found 1; check --read"),
        ("hdf5", {}, r"expected an HDF5 file, found .*; check --read and --path"),
        ("parquet", {}, r"expected parquet, found .*; check --read and --path"),
        ("lmdb", {}, r"expected an LMDB, found .*; check --read and --path"),
        ("npz", {}, r"--path: expected images, found none among 1 \(file unreadable\)"),
        ("tsv", {"ids": "a.json"}, r"--ids: expected --read=hdf5, .* found --read=tsv"),
    ],
)
def test_files_of_another_format(form, options, expected, tmp_path):
    path = tmp_path / "a.tsv"
    path.write_text("nothing of the kind\n")
    with pytest.raises(AlignError, match=expected):
        convert(form, path, tmp_path / "out", **options)


def test_what_only_the_user_can_say(tmp_path):
    region_writers.lxmert_tsv(tmp_path / "a.tsv", images())
    with pytest.raises(AlignError, match=r"--classes: expected a file .* since images have labels up to"):
        convert("tsv", tmp_path / "a.tsv", tmp_path / "out")
    with pytest.raises(AlignError, match=r"--probabilities: expected files with the probabilities"):
        convert("tsv", tmp_path / "a.tsv", tmp_path / "out", classes=9, probabilities=True)
    with pytest.raises(AlignError, match=r"expected images with features of width 9, found none among 5"):
        convert("tsv", tmp_path / "a.tsv", tmp_path / "out", classes=9, width=9)
    with pytest.raises(AlignError, match=r"expected an image with regions, found none: 5 label outside the classes"):
        convert("tsv", tmp_path / "a.tsv", tmp_path / "out", classes=0)
    ids = region_writers.hdf5_vqa(tmp_path / "a.h5", images())
    with pytest.raises(AlignError, match=r"expected ids as image_ids, .* or by --ids, found none"):
        convert("hdf5", tmp_path / "a.h5", tmp_path / "none")
    names = tmp_path / "ids.txt"
    names.write_text("one\ntwo\n")
    with pytest.raises(AlignError, match=r"expected an id for each of 5 images, found 2 ids"):
        convert("hdf5", tmp_path / "a.h5", tmp_path / "none", ids=str(names))
    ids.write_bytes(pickle.dumps(os.system))
    with pytest.raises(AlignError, match=r"it holds posix.system, which is not loaded from files of others"):
        convert("hdf5", tmp_path / "a.h5", tmp_path / "none", ids=str(ids))
    with h5py.File(tmp_path / "b.h5", "w") as file:
        file["features"], file["boxes"], file["ids"] = np.ones((3, 2, 5)), np.ones((2, 2, 4)), [1, 2, 3]
    with pytest.raises(AlignError, match=r"expected 3 rows of boxes, found 2"):
        convert("hdf5", tmp_path / "b.h5", tmp_path / "none")


# The verb, which kills itself once it has begun the third shard.
KILLED = """
import os, runpy, signal, sys
from align_jax.region_files import converting
read = converting.Converted._read
def dying(self, index):
    if index == 2100:
        os.kill(os.getpid(), signal.SIGKILL)
    return read(self, index)
converting.Converted._read = dying
sys.argv = ["regions", *sys.argv[1:]]
runpy.run_module("align_jax.regions", run_name="__main__")
"""


def test_the_verb_goes_on_after_a_kill(tmp_path):
    given = images(2500, regions=2)
    region_writers.bottom_up_tsv(tmp_path / "a.tsv", given)
    lines = (tmp_path / "a.tsv").read_bytes().splitlines(keepends=True)
    (tmp_path / "a.tsv").write_bytes(b"".join([*lines[:1200], b"broken\n", *lines[1200:]]))
    out = tmp_path / "out"
    arguments = ["--read=tsv", f"--path={tmp_path / 'a.tsv'}", f"--out={out}", "--key=number"]
    killed = subprocess.run(
        [sys.executable, "-c", KILLED, *arguments], cwd=Path(__file__).parent.parent, capture_output=True, timeout=120
    )
    assert killed.returncode == -signal.SIGKILL, killed.stderr
    shards = sorted((out / "shards").iterdir())
    finished = {path: path.stat().st_mtime_ns for path in shards if not path.name.endswith(".partial")}
    assert len(finished) == 2 and not (out / "regions.json").exists()
    told, _ = shapes_run.finish("align_jax.regions", *arguments)
    assert "5,000 regions of 2,500 images, 8 numbers each in float16" in told
    assert "1  refused: line with another number of columns" in told
    assert {path: path.stat().st_mtime_ns for path in finished} == finished
    assert not (out / "work").exists() and len(list((out / "shards").iterdir())) == 3
    store = RegionStore(str(out))
    for number, image in enumerate(given.values()):
        np.testing.assert_array_equal(
            store[str(391895 + number)].features, image["features"].astype(np.float16).astype(np.float32)
        )
    assert read_facts(str(out)).origin["format"] == "tsv"
