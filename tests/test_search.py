"""Search without the page: collections, their indexes and queries."""

import json
import shutil
import struct
import sys
import zlib

import faiss
import jax
import numpy as np
import pytest
import shapes_run
from PIL import Image

import align_jax
from align_jax import sharding
from align_jax.data import source as sources
from align_jax.data.source import BadExample
from align_jax.evals.blockwise import Blockwise
from align_jax.searching import index as indexes
from align_jax.searching import kinds
from align_jax.searching.collection import open_collection
from align_jax.searching.engine import Engine, Query
from align_jax.searching.exact import Exact
from align_jax.searching.index import Approximate, Index, open_index
from align_jax.data.options import parse, source_options
from align_jax.types import AlignError


@pytest.fixture(scope="module")
def model(finished_run):
    return align_jax.load(finished_run / "export")


@pytest.fixture(scope="module")
def collection(model, finished_run, tmp_path_factory):
    """The 16 shapes."""
    return opened(model, finished_run.parent / "pairs.jsonl", tmp_path_factory.mktemp("index"))


@pytest.fixture(scope="module")
def engine(model, collection):
    return Engine(model, collection, open_index(model, collection, "exact", {}, threads=1))


def opened(model, path, folder):
    return open_collection(model, source_options(str(path)), workdir=folder, folder=None)


def clustered(count, width, *, seed=0):
    """Unit rows around a few centres."""
    rng = np.random.default_rng(seed)
    rows = rng.normal(size=(32, width))[rng.integers(0, 32, count)] + 0.5 * rng.normal(size=(count, width))
    return (rows / np.linalg.norm(rows, axis=1, keepdims=True)).astype(np.float32)


@pytest.mark.parametrize("devices", [1, 8])
def test_exact_search_is_that_of_numpy_and_faiss(devices):
    rows, queries = clustered(1003, 24), clustered(5, 24, seed=1)
    rows[77] = rows[500]  # a tie: the first one comes first
    mesh = sharding.make_mesh(devices=devices, fsdp=devices)
    exact, flat = Exact(mesh, rows), faiss.IndexFlatIP(24)
    flat.add(rows)
    for query in [*queries, rows[500]]:
        scores, places = exact.search(query, 10)
        assert scores.shape == places.shape == (10,)
        np.testing.assert_array_equal(places, np.argsort(-(rows @ query), kind="stable")[:10])
        np.testing.assert_allclose(scores, flat.search(query[None], 10)[0][0], atol=1e-6)
    assert exact.search(rows[500], 2)[1].tolist() == [77, 500]
    scores, places = exact.search(queries[0], 5000)
    assert sorted(places) == list(range(1003)) and (np.diff(scores) <= 0).all()


@pytest.mark.parametrize(
    ("kind", "least"),
    [(kinds.Flat(), 1.0), (kinds.Hnsw(m=8, ef_search=64), 0.95), (kinds.Ivf(nlist=16, nprobe=8), 0.9)],
)
def test_recall_is_the_share_of_the_true_neighbours(kind, least):
    rows, queries = clustered(2000, 16), clustered(40, 16, seed=1)
    index = kind.new(16, 2000)
    if not index.is_trained:
        index.train(rows)
    index.add(rows)
    kind.tune(index)
    found = indexes.recall(Approximate(index), queries, Blockwise(sharding.make_mesh(devices=1), queries, rows))
    truth = np.argsort(-(queries @ rows.T), axis=1)[:, :10]
    assert found >= least
    places = [index.search(query[None], 10)[1][0] for query in queries]
    hits = [len(set(got) & set(wanted)) for got, wanted in zip(places, truth, strict=True)]
    assert found == pytest.approx(sum(hits) / 400)


def test_a_poor_search_has_a_poor_recall():
    rows, queries = clustered(2000, 16), clustered(40, 16, seed=1)
    kind = kinds.Ivf(nlist=64, nprobe=1)
    index = kind.new(16, 2000)
    index.train(rows)
    index.add(rows)
    kind.tune(index)
    found = indexes.recall(Approximate(index), queries, Blockwise(sharding.make_mesh(devices=1), queries, rows))
    assert 0.05 < found < 0.9


def test_an_index_is_built_once_and_measured_for_how_it_is_searched(model, collection, monkeypatch):
    built = open_index(model, collection, "hnsw", {"m": 4}, threads=1)
    assert built.recall == {"pictures": 1.0, "captions": 1.0} and "m 4" in built.described()
    path = collection.folder / "hnsw.faiss"
    facts = json.loads(path.with_suffix(".json").read_text())
    assert facts == {
        **collection.identity, "kind": "hnsw", "count": 16, "recall": built.recall,
        "options": {"m": 4, "ef_construction": 200, "ef_search": 128},
    }  # fmt: skip
    monkeypatch.setattr(indexes, "_build", lambda *_: pytest.fail("built again"))
    monkeypatch.setattr(indexes, "measure", lambda *_: {"pictures": 0.5})
    assert open_index(model, collection, "hnsw", {"m": 4}, threads=1) != built  # another object, the same facts
    assert open_index(model, collection, "hnsw", {"m": 4}, threads=1).recall == built.recall
    assert open_index(model, collection, "hnsw", {"m": 4, "ef_search": 4}, threads=1).recall == {"pictures": 0.5}
    with pytest.raises(pytest.fail.Exception, match="built again"):
        open_index(model, collection, "hnsw", {"m": 5}, threads=1)
    path.write_bytes(path.read_bytes()[:100])
    with pytest.raises(AlignError, match=r"hnsw\.faiss: expected an index of FAISS, found it damaged; delete it"):
        open_index(model, collection, "hnsw", {"m": 4, "ef_search": 4}, threads=1)


def test_an_index_is_described_as_it_is(model, collection):
    built = open_index(model, collection, "ivf", {}, threads=1)
    assert built.described().startswith("ivf index (nlist 1, nprobe 1), recall@10 1.000 for pictures")
    assert open_index(model, collection, "ivf", {}, threads=1).described() == built.described()
    found = open_index(model, collection, "ivf", {"nlist": 3, "nprobe": 2}, threads=1).described()
    assert found.startswith("ivf index (nlist 3, nprobe 2), recall@10 ")
    assert open_index(model, collection, "flat", {}, threads=1).described().startswith("flat index, recall@10 1.000")


@pytest.mark.parametrize(
    ("kind", "options", "match"),
    [
        ("hsnw", {}, "--index_kind: found 'hsnw'; did you mean 'hnsw'"),
        ("exact", {"m": 3}, "--index_options: --index_kind=exact has none"),
        ("hnsw", {"n": 3}, "--index_options: unknown key 'n'"),
        ("hnsw", {"m": 0}, "expected m of at least 1, found 0"),
        ("ivf", {"nlist": 17}, "expected nlist of at most the 16 pictures, found 17"),
        ("ivf", {"nprobe": "x"}, "nprobe: expected a whole number, found 'x'"),
    ],
)
def test_wrong_index_options(model, collection, kind, options, match):
    with pytest.raises(AlignError, match=match):
        open_index(model, collection, kind, options, threads=1)


def test_what_is_embedded_is_used_again(model, finished_run, tmp_path, monkeypatch):
    found = opened(model, finished_run.parent / "pairs.jsonl", tmp_path)
    monkeypatch.setattr(model.embedder, "begin", lambda *_: pytest.fail("embedded again"))
    again = opened(model, finished_run.parent / "pairs.jsonl", tmp_path)
    monkeypatch.undo()
    assert again.folder == found.folder and again.folder.parent == tmp_path / "search"
    expected = model.embed_images([finished_run.parent / found.about(place).id for place in range(16)])
    np.testing.assert_allclose(again.images[:], expected, atol=1e-5)
    assert not list(found.folder.rglob("text*")), "captions are not searched"


def test_a_folder_of_something_else_is_refused(model, finished_run, tmp_path):
    options, folder = source_options(str(finished_run.parent / "pairs.jsonl")), tmp_path / "index"
    open_collection(model, options, workdir=tmp_path, folder=folder)
    before = sorted((path, path.stat().st_mtime_ns) for path in folder.rglob("*"))
    data = json.loads((folder / "embeddings.json").read_text())["data"]
    other = align_jax.load(finished_run / "export")
    other.params = jax.tree.map(lambda leaf: leaf * 2, other.params)
    with pytest.raises(AlignError, match=r"made with another checkpoint: weights \w{16}, now \w{16}; give an"):
        open_collection(other, options, workdir=tmp_path, folder=folder)
    with pytest.raises(AlignError, match=rf"made with other data: data {data}, now \w{{16}}; give another --index"):
        open_collection(model, options | {"filter": [keep(tmp_path)]}, workdir=tmp_path, folder=folder)
    moved = shutil.copytree(finished_run.parent, tmp_path / "moved", ignore=shutil.ignore_patterns("run"))
    found = open_collection(model, source_options(f"{moved}/pairs.jsonl"), workdir=tmp_path, folder=folder)
    assert len(found) == 16, "where the same data lie does not matter"
    assert sorted((path, path.stat().st_mtime_ns) for path in folder.rglob("*")) == before
    with pytest.raises(AlignError, match=r"--index: expected a new folder, or embeddings, found .* with other files in it"):
        open_collection(model, options, workdir=tmp_path, folder=tmp_path)


def test_a_model_without_a_text_tower(finished_run, tmp_path):
    model = align_jax.load(finished_run / "export")
    model.functions = ("embed_images",)
    with pytest.raises(AlignError, match=r"expected a model with embed_texts, its task offers \['embed_images'\]"):
        opened(model, finished_run.parent / "pairs.jsonl", tmp_path)


def test_a_kill_while_an_index_is_written(model, finished_run, tmp_path, monkeypatch):
    """The facts of the old index never stand beside the new one."""
    collection = opened(model, finished_run.parent / "pairs.jsonl", tmp_path)
    open_index(model, collection, "hnsw", {"m": 4}, threads=1)
    monkeypatch.setattr(indexes, "measure", lambda *_: (_ for _ in ()).throw(KeyboardInterrupt))
    with pytest.raises(KeyboardInterrupt):
        open_index(model, collection, "hnsw", {"m": 8}, threads=1)
    assert (collection.folder / "hnsw.faiss").exists() and not (collection.folder / "hnsw.json").exists()


def keep(folder):
    (folder / "keep.txt").write_text("red_cross.png\nblue_line.png\n")
    return {"path": str(folder / "keep.txt")}


def test_what_cannot_be_searched_is_counted(model, finished_run, tmp_path):
    shutil.copytree(finished_run.parent, tmp_path / "data", ignore=shutil.ignore_patterns("run"))
    manifest = tmp_path / "data" / "pairs.jsonl"
    (tmp_path / "data" / "broken.png").write_bytes(b"no picture")
    rows = [json.loads(line) for line in manifest.read_text().splitlines()]
    rows.insert(2, {"image": "broken.png", "texts": ["a broken thing"]})
    rows += [{"image": "red_cross.png", "texts": ["again"]}, {"image": "blue_line.png", "id": "", "texts": []}]
    rows += [{"image": name, "id": "", "texts": []} for name in ("blue_cross.png", "nowhere.png", "red_cross.png")]
    rows += [{"image": "nowhere.png", "texts": []}]
    manifest.write_text("".join(json.dumps(row) + "\n" for row in rows))
    found = opened(model, manifest, tmp_path)
    assert dict(found.problems) == {
        "image unreadable": 1, "image file missing": 2, "id empty": 3, "id that came before ('red_cross.png')": 1,
    }  # fmt: skip
    assert found.left_out().startswith("3 id empty, 1 id that came before ('red_cross.png'), 2 image file missing")
    assert [found.about(place).id for place in range(16)] == [row["image"] for row in rows if row.get("label")]
    hnsw = Engine(model, found, open_index(model, found, "hnsw", {}, threads=1))
    exact = Engine(model, found, open_index(model, found, "exact", {}, threads=1))
    for engine in (hnsw, exact):
        hits = engine.search(Query(text="blue line", count=20)).hits
        assert len(hits) == 16 and all(hit.id for hit in hits)
    manifest.write_text(json.dumps({"image": "broken.png", "texts": []}))
    with pytest.raises(AlignError, match="--data: expected pictures to search, found none: 1 image unreadable"):
        opened(model, manifest, tmp_path)


def test_a_folder_of_pictures(model, tmp_path):
    folder = tmp_path / "photos"
    (folder / "deep").mkdir(parents=True)
    (tmp_path / "outside").mkdir()
    for path in (folder / "b.png", folder / "deep" / "a.JPG", tmp_path / "outside" / "secret.png", folder / ".hid.png"):
        Image.new("RGB", (20, 20), "red").save(path)
    (folder / "notes.txt").write_text("not a picture")
    (folder / "link.png").symlink_to(tmp_path / "outside" / "secret.png")
    (folder / "links").symlink_to(tmp_path / "outside")
    (folder / "inside.png").symlink_to(folder / "b.png")
    source = sources.make(**source_options(str(folder)))
    assert source.ids().to_pylist() == ["b.png", "deep/a.JPG", "inside.png"]
    assert dict(source.problems) == {"not a picture by its name": 1, "link out of the folder": 1}
    assert list(source.texts()) == [] and source[0].texts == () and source.about(1).id == "deep/a.JPG"
    (folder / "b.png").unlink()
    (folder / "b.png").symlink_to(tmp_path / "outside" / "secret.png")
    with pytest.raises(BadExample, match="image file missing"):
        source[0]
    with pytest.raises(AlignError, match="expected a folder, found no nowhere"):
        sources.make(name="folder", path="nowhere")
    index = open_index(model, opened(model, folder, tmp_path), "flat", {}, threads=1)
    assert index.recall == {"pictures": 1.0}, "without captions, pictures alone are asked for"


def test_a_text_finds_what_the_model_finds(engine, model, collection):
    for text in ("red cross", "a line in blue"):
        answer = engine.search(Query(text=text, count=5))
        scores = collection.images[:] @ model.embed_texts([text])[0]
        assert [hit.row for hit in answer.hits] == np.argsort(-scores, kind="stable")[:5].tolist()
        np.testing.assert_allclose([hit.score for hit in answer.hits], np.sort(scores)[::-1][:5], atol=1e-5)
        assert answer.notes == [] and set(answer.milliseconds) == {"embedding", "searching"}
    best = engine.search(Query(text="red cross", count=16)).hits
    names = {hit.id: hit for hit in best}
    assert names["red_cross.png"].captions == ("red cross", "a cross in red") and names["red_cross.png"].label == "red"


def test_pictures_plus_and_minus_texts(engine, model, collection, finished_run):
    path = finished_run.parent / "red_cross.png"
    assert engine.search(Query(image=path.read_bytes(), count=1)).hits[0].id == "red_cross.png"
    picture, (plus, minus) = model.embed_images([path])[0], model.embed_texts(["a line", "red"])
    wanted = 3 * picture + 2 * plus - 0.5 * minus
    query = Query(image=path.read_bytes(), image_weight=3, text="a line", without="red", without_weight=0.5, count=16)
    hits = engine.search(query).hits
    scores = collection.images[:] @ (wanted / np.linalg.norm(wanted))
    np.testing.assert_allclose([hit.score for hit in hits], np.sort(scores)[::-1], atol=1e-5)
    # Two texts to one picture, as in the paper.
    wanted = picture + 2 * plus
    hits = engine.search(Query(image=path.read_bytes(), text="a line", count=1)).hits
    np.testing.assert_allclose(hits[0].score, np.max(collection.images[:] @ wanted) / np.linalg.norm(wanted), atol=1e-5)


def test_filters(engine):
    everything = engine.search(Query(text="red cross", count=16)).hits
    floor = everything[4].score
    assert engine.search(Query(text="red cross", count=16, min_score=floor)).hits == everything[:5]
    reds = engine.search(Query(text="red cross", count=16, label="red")).hits
    assert [hit.id for hit in reds] == [hit.id for hit in everything if hit.label == "red"]
    assert len(engine.search(Query(text="red cross", count=3, label="red")).hits) == 3


@pytest.mark.parametrize(
    ("query", "match"),
    [
        ({}, "Give a text or a picture to look for"),
        ({"text": " \n"}, "Give a text or a picture"),
        ({"text": "red", "text_weight": 0}, "with a weight other than 0"),
        ({"text": "\u200b"}, "Expected a word in 'text', found none"),
        ({"text": "red", "without": "\u200b"}, "Expected a word in 'without'"),
        ({"text": "red " * 300}, "Expected a text of at most 1,000 characters, found 1,200"),
        ({"text": ["red"]}, "Expected a text of at most 1,000 characters"),
        ({"text": "red", "without": "red"}, "parts that do not cancel one another"),
        ({"image": b"no picture"}, r"This picture cannot be used: image unreadable\."),
        ({"image": b""}, r"This picture cannot be used: image empty\."),
        ({"text": "red", "count": 201}, "Expected a number of pictures from 1 to 200, found 201"),
        ({"text": "red", "count": 2.5}, "Expected a whole number of pictures, found 2.5"),
        ({"text": "red", "count": None}, "Expected a number of pictures from 1 to 200, found None"),
        ({"text": "red", "text_weight": float("nan")}, "Expected a text weight from 0 to 100, found nan"),
        ({"text": "red", "min_score": 2}, "Expected a least score from -1 to 1, found 2"),
        ({"text": "red", "label": "rad"}, "There is no class 'rad' here; did you mean 'red'"),
    ],
    ids=str,
)
def test_a_query_without_an_answer(engine, query, match):
    with pytest.raises(AlignError, match=match) as error:
        engine.search(Query(**query))
    assert "\n" not in str(error.value)


def test_a_decompression_bomb_is_refused(engine):
    def chunk(kind, data):
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header = chunk(b"IHDR", struct.pack(">IIBBBBB", 60_000, 60_000, 8, 2, 0, 0, 0))
    bomb = b"\x89PNG\r\n\x1a\n" + header + chunk(b"IDAT", zlib.compress(b"\0" * 1000)) + chunk(b"IEND", b"")
    with pytest.raises(AlignError, match="This picture cannot be used: image too large"):
        engine.search(Query(image=bomb))


def test_what_the_model_does_not_read_is_said(engine):
    notes = engine.search(Query(text="red cross " * 10)).notes
    assert len(notes) == 1 and notes[0].startswith("The model reads the first 6 word pieces of 'red cross")
    assert engine.search(Query(text="red 猫")).notes == ["The model has no pieces to spell 1 word of 'red 猫'."]


@pytest.mark.parametrize(
    ("data", "options"),
    [
        ("x/pairs.csv", {"name": "manifest", "path": "x/pairs.csv"}),
        ("emoji", {"name": "emoji"}),
        ("name=emoji,split=all,flags=False,size=36", {"name": "emoji", "split": "all", "flags": False, "size": 36}),
        ('{"name": "emoji", "captions": ["name"]}', {"name": "emoji", "captions": ["name"]}),
        (str(shapes_run.ROOT), {"name": "folder", "path": str(shapes_run.ROOT)}),
    ],
    ids=["csv", "name", "pairs", "json", "folder"],
)
def test_data_is_any_source(data, options):
    assert source_options(data) == options


@pytest.mark.parametrize(
    ("data", "match"),
    [
        ("emojis", "--data: expected a .jsonl or .csv file, .* found 'emojis'; did you mean 'emoji'"),
        ("{", "--data: expected JSON, found"),
        ("name=emoji,all", "--data: expected name=value,name=value or a JSON object, found 'all'"),
    ],
)
def test_data_that_is_none(data, match):
    with pytest.raises(AlignError, match=match):
        source_options(data)


def test_options_of_an_index():
    assert parse("m=32,ef_search=64", flag="--index_options") == {"m": 32, "ef_search": 64}
    assert parse("", flag="--index_options") == {}


def test_a_missing_library_is_named(monkeypatch):
    monkeypatch.setitem(sys.modules, "faiss", None)
    indexes.check("auto", {})
    with pytest.raises(AlignError, match=r'expected faiss, found it not installed; run: pip install -e ".\[search\]"'):
        indexes.check("hnsw", {})


def test_the_kind_follows_the_size(model, collection, monkeypatch):
    assert open_index(model, collection, "auto", {}, threads=1).kind == "exact"
    monkeypatch.setattr(indexes, "LARGE", 10)
    found = open_index(model, collection, "auto", {}, threads=1)
    assert isinstance(found, Index) and found.kind == "hnsw"
