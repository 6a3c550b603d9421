"""A cross-encoder in use: `align_jax.load`, `Model.score`, its evaluator, and the verb that measures re-ranking."""

import json
import shutil
from pathlib import Path

import cross_run
import jax
import numpy as np
import pytest
import region_writers
import shapes_run
from known_model import write_manifest
from PIL import Image
from test_regions import convert

import align_jax
from align_jax import config as configs
from align_jax import evals, sharding
from align_jax import run as runs
from align_jax.data import source as sources
from align_jax.evals.pair_scores import PairScores
from align_jax.evaluate import evaluate_checkpoint
from align_jax.searching.collection import open_collection
from align_jax.searching.engine import Engine, Query
from align_jax.searching.index import open_index
from align_jax.searching.reranker import Reranker
from align_jax.searching.results import Pages, as_json
from align_jax.types import AlignError

TEXTS = ["a red cross", "blue line", "a red cross"]


@pytest.fixture(scope="module")
def cross(finished_run, tmp_path_factory):
    """The work directory of a cross-encoder of the same pictures."""
    return cross_run.write(finished_run.parent / "pairs.jsonl", tmp_path_factory.mktemp("cross") / "run")


@pytest.fixture(scope="module")
def model(cross):
    return align_jax.load(cross)


@pytest.fixture(scope="module")
def photos(finished_run):
    return sorted(finished_run.parent.glob("*.png"))


def test_score_is_one_pass_for_each_pair(model, photos, monkeypatch):
    monkeypatch.setattr("align_jax.model.IMAGES", 4)
    found = model.score(photos[:6], TEXTS)
    assert found.shape == (6, 3) and found.dtype == np.float32
    assert np.array_equal(found[:, 0], found[:, 2]) and len(np.unique(found)) > 6
    images = np.stack([model.embedder.pairs.image(str(photo)) for photo in photos[:6]])
    for column, text in enumerate(TEXTS):
        rows = model.embedder.pairs.texts([text] * 6) | {"image": images}
        np.testing.assert_allclose(model.run("score_pairs", rows), found[:, column], atol=1e-5)
    assert model.score(Image.open(photos[0]), "a red cross").shape == (1, 1)


def test_what_it_cannot_do_it_says(model, finished_run, photos):
    with pytest.raises(AlignError, match=r"similarity: expected a model with embed_texts, found one with .*score_toke"):
        model.similarity(photos, TEXTS)
    with pytest.raises(AlignError, match=r"embed_images: the model has no such function, only .*score_tokens"):
        model.embed_images(photos)
    with pytest.raises(AlignError, match="embedding_size: expected a model with embed_images"):
        _ = model.embedding_size
    with pytest.raises(AlignError, match="expected at least one picture, found none"):
        model.score([], TEXTS)
    with pytest.raises(AlignError, match="text 1: expected at least one word"):
        model.score(photos, ["a", " "])
    with pytest.raises(AlignError, match="score: expected a model with score_tokens, found one with embed_images"):
        align_jax.load(finished_run).score(photos, TEXTS)
    assert model.text_length == 8
    assert "images (central 32 px of 36 x 36) and texts of 8 word pieces -> a score of each pair" in repr(model)


def test_scores_of_a_run_are_the_same_on_one_and_eight_devices(cross, model, tmp_path):
    alone = runs.prepare(configs.load(cross / "config.json"), cross, None)
    weights = jax.device_put(
        jax.tree.map(np.asarray, (model.params, model.model_state)), sharding.replicated(alone.mesh)
    )  # fmt: skip
    options = configs.plain(alone.config.data.source)
    texts = list(dict.fromkeys(alone.embedder.open(options).texts()))
    every = np.arange(16), np.arange(len(texts))
    one = PairScores(alone.embedder, *weights, options, texts, folder=tmp_path / "1").every(*every)
    given = model.params, model.model_state, options, texts
    eight = PairScores(model.embedder, *given, folder=tmp_path / "8").every(*every)
    assert (alone.mesh.size, model.mesh.size) == (1, 8)
    np.testing.assert_allclose(one, eight, rtol=0, atol=1e-6)


def test_its_evaluator_opens_the_dual_encoder(finished_run, cross, tmp_path):
    source = {"name": "manifest", "path": str(finished_run.parent / "pairs.jsonl")}
    section = {"kind": "scored_retrieval", "source": source, "dual": str(finished_run), "top": 4, "fusion": 0.5}
    evals = tmp_path / "evals.py"
    evals.write_text(f"from ml_collections import ConfigDict\ndef get_config(): return ConfigDict({{'re': {section}}})")
    evaluate_checkpoint(cross, evals=str(evals), out=tmp_path)
    found = json.loads((tmp_path / "eval.json").read_text())
    assert f"the 4 best of the dual encoder {finished_run} (weights " in found[0]["protocol"]
    with pytest.raises(AlignError, match="expected a work directory with checkpoints/"):
        evaluate_checkpoint(cross, evals=str(evals), overrides=["--evals.re.dual=nowhere"], out=tmp_path)


def test_the_verb_measures_and_goes_on(finished_run, cross, tmp_path):
    arguments = [
        f"--dual={finished_run}", f"--cross={cross}", f"--data={finished_run.parent / 'pairs.jsonl'}", "--k=1,4",
        "--fusion=0,1", f"--out={tmp_path}",
    ]  # fmt: skip
    out, _ = shapes_run.finish("align_jax.rerank", *arguments)
    found = json.loads((tmp_path / "rerank.json").read_text())
    assert [(row["k"], row["fusion"]) for row in found["rows"]] == [(0, 1), (1, 0), (1, 1), (4, 0), (4, 1)]
    assert found["pairs_per_second"] > 0 and "pairs/s" in out and str(tmp_path / "rerank.html") in out
    assert found["rows"][4]["results"] == [
        {**result, "protocol": other["protocol"]}
        for result, other in zip(found["rows"][0]["results"], found["rows"][4]["results"], strict=True)
    ]
    assert "Cost against K" in (tmp_path / "rerank.html").read_text("utf-8")


def test_a_search_can_be_re_ranked(finished_run, model, tmp_path):
    dual = align_jax.load(finished_run / "export")
    options = {"name": "manifest", "path": str(finished_run.parent / "pairs.jsonl")}
    collection = open_collection(dual, options, workdir=tmp_path, folder=None)
    index = open_index(dual, collection, "exact", {}, threads=1)
    engine = Engine(dual, collection, index, Reranker(model, collection.source, 5))
    engine.warm_up()
    plain = Engine(dual, collection, index).search(Query(text="red cross", count=16))
    found = engine.search(Query(text="red cross", count=16))
    first = [hit.row for hit in plain.hits[:5]]
    matches = model.score([collection.source[row].image for row in first], "red cross")[:, 0]
    assert [hit.row for hit in found.hits[:5]] == [first[i] for i in np.argsort(-matches)]
    np.testing.assert_allclose([hit.match for hit in found.hits[:5]], np.sort(matches)[::-1], atol=1e-5)
    assert found.hits[5:] == plain.hits[5:] and found.milliseconds["re-ranking"] > 0
    assert as_json(found)["results"][0]["match"] == found.hits[0].match
    assert 'class="match"' in Pages(engine).answer(found)
    few = engine.search(Query(text="red cross", count=2))
    assert few.hits == found.hits[:2], "more are looked at than are shown"
    for weight in (1.0, 0.0):
        apart = engine.search(Query(text="red cross", text_weight=weight, without="line", count=3))
        assert [hit.match for hit in apart.hits] == [None] * 3, "no query of a text alone: it is the dual encoder's own"
    with pytest.raises(AlignError, match="--rerank: expected a cross-encoder, with image_tokens; found"):
        Reranker(dual, collection.source, 5)


def test_stored_regions_are_scored_by_their_records(tmp_path):
    given = region_writers.images(5)
    region_writers.openvqa_npz(tmp_path / "given.npz", given)
    convert("npz", tmp_path / "given.npz", tmp_path / "regions")
    keys = [*given, "nobody"]
    rows = [{"id": key, "image": "none.png", "text": f"a scene of {number}"} for number, key in enumerate(keys)]
    source = write_manifest(tmp_path, rows)
    section = {"path": str(tmp_path / "regions"), "width": region_writers.WIDTH, "most": 4}
    model = align_jax.load(cross_run.write(Path(source["path"]), tmp_path / "run", regions=section))
    records = [sources.make(**source)[number] for number in range(5)]
    scores = model.score(records, ["a scene of 0", "a scene of 1"])
    assert scores.shape == (5, 2) and len(np.unique(scores)) == 10
    assert np.array_equal(model.score(records[3], "a scene of 1"), model.score(records[3:4], "a scene of 1"))
    with pytest.raises(AlignError, match="expected records whose regions are stored, found a picture alone"):
        model.score(str(tmp_path / "none.png"), "a")
    assert "the surest 4 regions of" in repr(model)
    copy = shutil.copytree(section["path"], tmp_path / "elsewhere")
    moved = align_jax.load(tmp_path / "run", regions=str(copy))
    np.testing.assert_array_equal(moved.score(records, ["a scene of 0", "a scene of 1"]), scores)
    assert f"the surest 4 regions of {copy} (digest" in repr(moved)
    made = evals.make(
        {"r": {"kind": "scored_retrieval", "source": source}}, model.embedder, functions=model.functions,
        workdir=tmp_path,
    )  # fmt: skip
    with jax.set_mesh(model.mesh):
        found = [result for evaluator in made for result in evaluator.run(model.params, model.model_state)]
    assert found[0].n == 5 and "1 images left out: nobody (" in found[0].protocol
    assert f"the surest 4 regions of {section['path']} (digest " in found[0].protocol
