"""Recall and cost against K, with a dual encoder and a cross-encoder that are known."""

import dataclasses
import json

import known_cross_encoder
import pytest
from known_cross_encoder import Dual, embedder
from known_model import write_pairs

from align_jax import rerank
from align_jax.evals import page, reranking
from align_jax.evals.reranking import Plan, Reranking
from align_jax.types import AlignError


@dataclasses.dataclass
class Cross(Dual):
    """What `align_jax.load` would give of the cross-encoder."""

    functions = tuple(known_cross_encoder.FUNCTIONS)
    devices: int = 1

    def __post_init__(self):
        self.embedder = embedder(self.devices)
        self.mesh = self.embedder.mesh


@pytest.fixture(scope="module")
def source(tmp_path_factory):
    return write_pairs(tmp_path_factory.mktemp("pairs"), 24, 2)


@pytest.fixture(scope="module")
def curve(source, tmp_path_factory):
    """(what was measured, its folder)."""
    folder = tmp_path_factory.mktemp("rerank")
    plan = Plan(ks=(5, 1, 100), fusions=(0.0, 1.0), texts="all")
    return Reranking(Dual(), Cross(devices=8), source, plan, folder=folder, path="runs/align").run(), folder


def test_rows_stand_in_order(curve):
    rows = curve[0].rows
    assert [(row.k, row.fusion) for row in rows] == [(0, 1), (1, 0), (1, 1), (5, 0), (5, 1), (100, 0), (100, 1)]
    for row in rows[1:]:
        for way, difference in row.differences.items():
            gain = row.results[f"{way}/R@1"].value - rows[0].results[f"{way}/R@1"].value
            assert difference.value == pytest.approx(gain) and difference.low <= gain <= difference.high
            assert row.adjusted[way] >= difference.p
        if row.fusion == 1 or row.k == 1:
            assert {way: found.value for way, found in row.differences.items()} == dict.fromkeys(row.differences, 0.0)
    assert rows[-2].differences["text_to_image"].value != 0


def test_the_shortlist_bounds_what_can_be_found(curve):
    alone, *rows = curve[0].rows
    for row in rows:
        for way, ceiling in row.ceiling.items():
            assert row.results[f"{way}/R@1"].value <= ceiling
            if row.k in (1, 5):
                assert ceiling == alone.results[f"{way}/R@{row.k}"].value
    assert dict(rows[-1].ceiling) == {"image_to_text": 1.0, "text_to_image": 1.0}


def test_cost_is_counted_in_pairs(curve):
    measured, _ = curve
    pairs = {row.k: row.pairs for row in measured.rows}
    assert pairs[0] == 0 and 48 <= pairs[1] <= 48 + 24 and pairs[100] == 48 * 24
    for row in measured.rows:
        assert row.seconds == pytest.approx(row.pairs / measured.rate)


def test_the_same_again_scores_nothing(curve, source, monkeypatch):
    measured, folder = curve
    monkeypatch.setattr("align_jax.evals.pair_scores.Scorer", None)
    plan = Plan(ks=(1, 5, 100), fusions=(0.0, 1.0), texts="all")
    again = Reranking(Dual(), Cross(), source, plan, folder=folder, path="runs/align").run()
    assert again.rate == measured.rate
    assert [row.results["mean_recall"].value for row in again.rows] == [
        row.results["mean_recall"].value for row in measured.rows
    ]


def test_what_is_shown(curve, tmp_path):
    measured, _ = curve
    lines = rerank.table(measured).splitlines()
    assert "R@1 gain, text to image" in lines[0] and len(lines) == 1 + len(measured.rows) + 2
    assert lines[1].split()[0] == "none" and lines[5].split()[:2] == ["5", "1"]
    found = json.loads(json.dumps(rerank.as_json(measured, dual="a", cross="b")))
    assert found["rows"][3]["differences"]["text_to_image"].keys() == {"value", "low", "high", "p", "p_holm"}
    protocol = found["rows"][3]["results"][0]["protocol"]
    assert "the 5 best of the dual encoder runs/align (weights " in protocol and "fusion 0," in protocol
    assert "the dual encoder runs/align" in found["rows"][0]["results"][0]["protocol"]
    panels = list(reranking.panels(measured))
    assert [len(panel.lines) for panel in panels] == [4, 4, 1]
    assert panels[2].lines["scoring"] == [(row.k, row.seconds) for row in measured.rows if row.fusion == 0]
    page.write(tmp_path / "rerank.html", title="Re-rank", facts={}, results=[], panels=panels)
    assert "recall of the shortlist" in (tmp_path / "rerank.html").read_text("utf-8")


@pytest.mark.parametrize(
    ("ks", "fusions", "message"),
    [
        ((), (0.0,), "--k: expected whole numbers above 0"),
        ((5, 0), (0.0,), "--k: expected whole numbers above 0, found"),
        ((5,), (2.0,), r"--fusion: expected numbers from 0 to 1, found \[2.0\]"),
    ],
)
def test_a_wrong_plan_is_refused(ks, fusions, message):
    with pytest.raises(AlignError, match=message):
        Plan(ks=ks, fusions=fusions)


def test_models_in_each_others_place_are_refused(source, tmp_path):
    plan = Plan(ks=(5,), fusions=(0.0,))
    with pytest.raises(AlignError, match="--dual: expected a dual encoder, with embed_images"):
        Reranking(Cross(), Cross(), source, plan, folder=tmp_path, path="a")
    with pytest.raises(AlignError, match="--cross: expected a cross-encoder, with image_tokens"):
        Reranking(Dual(), Dual(), source, plan, folder=tmp_path, path="a")
