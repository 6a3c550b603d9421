"""Evaluators against plain references, with a model whose embeddings are known."""

import json

import jax.numpy as jnp
import numpy as np
import pytest
from ml_collections import ConfigDict
from PIL import Image

from align_jax import evals, sharding
from align_jax.data.pairs import Pairs
from align_jax.data.text import SPECIAL, WordPiece
from align_jax.evals.embedding import Embedder
from align_jax.types import AlignError

COLOURS = {"red": (255, 0, 0), "green": (0, 255, 0), "blue": (0, 0, 255)}


def unit(x):
    return x / jnp.linalg.norm(x, axis=-1, keepdims=True)


def embed_images(params, model_state, inputs):
    """The mean colour."""
    return unit(jnp.mean(inputs["image"].astype(jnp.float32), axis=(1, 2)) + jnp.float32(1e-3))


def embed_texts(params, model_state, inputs):
    """The sum of a vector per word: colours their own, other words little."""
    rows = params[inputs["text_ids"]] * inputs["text_mask"][..., None].astype(jnp.float32)
    return unit(jnp.sum(rows, axis=1))


FUNCTIONS = {"embed_images": embed_images, "embed_texts": embed_texts}
PIECES = (*SPECIAL, *COLOURS, "a", "thing", "one", "colour")
PARAMS = np.full((len(PIECES), 3), 0.01, np.float32)
PARAMS[len(SPECIAL) : len(SPECIAL) + 3] = np.eye(3)


def embedder(devices=1, batch_size=8):
    pairs = Pairs(WordPiece(PIECES), resize=8, crop=8, flip=False, text_length=6)
    return Embedder(FUNCTIONS, pairs, mesh=sharding.make_mesh(devices=devices), batch_size=batch_size)


@pytest.fixture
def source(tmp_path):
    """13 pictures: the colours in turn, two of each group, the last one unreadable."""
    rows = []
    for i in range(13):
        colour = list(COLOURS)[i % 3]
        Image.new("RGB", (8, 8), COLOURS[colour]).save(tmp_path / f"{i}.png")
        texts = [f"a {colour} thing", f"{colour} colour", "one thing" if i % 2 else f"{colour} one", " "]
        rows.append({"image": f"{i}.png", "texts": texts, "label": colour, "group": colour})
    (tmp_path / "12.png").write_bytes(b"no picture")
    (tmp_path / "pairs.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return {"name": "manifest", "path": str(tmp_path / "pairs.jsonl")}


def results(sections, tmp_path, params=PARAMS, devices=1):
    made = evals.make(sections, embedder(devices), functions=FUNCTIONS, workdir=tmp_path)
    return {result.name: result for evaluator in made for result in evaluator.run(params, {})}


@pytest.mark.parametrize(
    ("section", "message"),
    [
        ({"kind": "retrievel"}, "did you mean 'retrieval'"),
        ({}, "found None"),
        ({"kind": "retrieval", "sorce": {}}, "did you mean 'source'"),
        ({"kind": "retrieval"}, "missing key 'source'"),
    ],
)
def test_a_wrong_section_is_refused(section, message, tmp_path):
    with pytest.raises(AlignError, match=message):
        results({"mine": section}, tmp_path)


def test_sources_are_shared_by_their_options_alone(source):
    """Also where the options come from a config, which is no dict to json."""
    one = embedder()
    first, again = one.open(source), one.open(ConfigDict(source))
    assert first is again and len(first) == 13
    assert len(one.open(ConfigDict({**source, "share": 0.5}))) < 13


def test_a_function_that_the_task_lacks_is_refused_before_anything_runs(source, tmp_path):
    sections = {"mine": {"kind": "retrieval", "source": source}}
    with pytest.raises(AlignError, match=r"evals\.mine: needs 'embed_texts'"):
        evals.make(sections, embedder(), functions={"embed_images": embed_images}, workdir=tmp_path)


def test_the_contact_sheet_shows_what_was_found(source, tmp_path):
    sheet = {"kind": "contact_sheet", "source": source, "title": "Colours", "queries": 3, "top": 20}
    assert results({"sheet": sheet}, tmp_path) == {}
    with Image.open(tmp_path / "sheet.png") as picture:
        colours = {colour for _, colour in picture.getcolors(1 << 24) or []}
    assert colours >= set(COLOURS.values()), "each picture is there"
    assert (31, 157, 87) in colours, "the right ones stand in green"
