"""A sweep of tiny runs: what is the same trains once, what is done stays, mistakes are known before anything trains."""

import json

import pytest
from ml_collections import ConfigDict
from tiny_run import config as tiny_config
from tiny_run import manifest

from align_jax import sweep
from align_jax.reporting.sweep import Group, Row, render
from align_jax.types import AlignError

COLUMNS = {"to text": "pairs/image_to_text/R@1", "to <image>": "pairs/text_to_image/R@1"}


@pytest.fixture
def config(tmp_path):
    config = tiny_config(manifest(tmp_path / "data"))
    config.steps = 1
    config.evals = ConfigDict({"pairs": {"kind": "retrieval", "source": config.data.source}})
    return config


def plan(*rows, columns=COLUMNS):
    return ConfigDict({"columns": columns, "seeds": (0,), "rows": rows})


ROWS = (
    {"group": "rate", "name": "0.01"},
    {"group": "rate", "name": "none", "optim.learning_rate": 0.0},
    {"group": "other", "name": "as it is"},
)


def test_runs_that_are_the_same_train_once_and_what_is_done_stays(config, tmp_path):
    workdir = tmp_path / "sweep"
    groups = sweep.sweep(config, plan(*ROWS), workdir)
    assert [(group.name, [row.name for row in group.rows]) for group in groups] == [
        ("rate", ["0.01", "none"]), ("other", ["as it is"]),
    ]  # fmt: skip
    folders = sorted(path.name for path in workdir.iterdir() if path.is_dir())
    assert folders == ["rate-0.01-0", "rate-none-0"], "the third run is the first"
    assert groups[0].rows[0].values == groups[1].rows[0].values
    trained = {path: path.stat().st_mtime_ns for path in workdir.rglob("metrics.jsonl")}
    rows = json.loads((workdir / "sweep.json").read_text())
    assert [row["name"] for row in rows] == ["0.01", "none", "as it is"]
    first = json.loads((workdir / "rate-0.01-0" / "eval.json").read_text())
    assert rows[0]["values"] == {r["name"]: [r["value"]] for r in first if r["name"] in COLUMNS.values()}

    assert sweep.sweep(config, plan(*ROWS), workdir) == groups
    assert {path: path.stat().st_mtime_ns for path in workdir.rglob("metrics.jsonl")} == trained
    assert "rate: none" in sweep.table(groups)


@pytest.mark.parametrize(
    ("rows", "columns", "message"),
    [
        (({"group": "g", "name": "n", "optim.learning_rat": 1.0},), COLUMNS, r"rows\[0\]: unknown key 'optim.learn"),
        (({"group": "g"},), COLUMNS, r"rows\[0\]: missing key 'name'"),
        (ROWS, {"x": "pears/R@1"}, r"columns: expected results of config.evals \['pairs'\], found 'pears/R@1'"),
        ((), COLUMNS, "expected rows, seeds and columns"),
    ],
)
def test_what_is_wrong_is_known_before_anything_trains(config, tmp_path, rows, columns, message):
    with pytest.raises(AlignError, match=message):
        sweep.sweep(config, plan(*rows, columns=columns), tmp_path / "sweep")
    assert not (tmp_path / "sweep").exists()


def test_the_page_shows_every_number_and_escapes_every_name():
    groups = [Group("<b>g</b>", [Row("one", {"to text": (0.25, 0.75, 0.5)}), Row("two", {"to text": (0.1,)})])]
    page = render(groups, facts="7 steps", measured={"to text": "pairs/R@1"})
    assert "&lt;b&gt;g&lt;/b&gt;" in page and "<b>g</b>" not in page
    assert "50.0" in page and "(25.0 to 75.0)" in page and "10.0" in page
