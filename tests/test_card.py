"""Result cards: what they hold, how they render, what is refused; and the comparison of two."""

import json
import math

import jax.numpy as jnp
import numpy as np
import pytest
import shapes_run
from markdown_it import MarkdownIt
from ml_collections import ConfigDict

from align_jax import card as cards
from align_jax import compare, evaluate
from align_jax.card import Card, Measured
from align_jax.evals import statistics
from align_jax.types import AlignError, Outcome, Result
from align_jax.weights import Weights

HOSTILE = (
    "| a | pipe", "`code` ``x``", "<script>alert(1)</script>", "[x](https://a.b) ![y](z.png)", "https://a.b www.a.b",
    "*bold* _soft_ __b__ ~~gone~~", "# head\n- item\n> quote", "&lt;b&gt; &amp;", "$x$", "\u202egpj.exe", "\ud800",
    "trailing \\", "a\r\nb", "@someone",
)  # fmt: skip
RNG = np.random.default_rng(0)
N = 300
HITS = (RNG.random(N) < 0.5).astype(np.float32)


def card(*results, digest="aa", code="c0de"):
    """Of results with their own intervals."""
    measured = [
        Measured(result, statistics.interval(result.outcome) if result.outcome else None, code) for result in results
    ]
    return Card("runs/a/checkpoints/12", 12, True, digest, {"name": "align"}, {"text_tower": 7}, {"jax": "1"}, measured)


def result(name, values, *, protocol="test split", facts=None, **outcome):
    """A rate over the same examples in each card."""
    found = Outcome(np.asarray(values, np.float32), **{"ids": "same"} | outcome)
    told = {"data": "d1", "prompts": "p"} if facts is None else facts
    return Result(name, statistics.estimate(found), len(values), protocol, found, told)


def parsed(markdown):
    """(texts of the cells by row, kinds of all inline tokens) as a reader of Markdown with tables has them."""
    tokens = MarkdownIt("commonmark").enable("table").enable("strikethrough").parse(markdown)
    rows, kinds = [], set()
    for i, token in enumerate(tokens):
        if token.type == "tr_open":
            rows.append([])
        if token.type == "inline":
            kinds |= {child.type for child in token.children}
            if tokens[i - 1].type in ("td_open", "th_open"):
                rows[-1].append("".join(child.content for child in token.children))
    return rows, kinds | {token.type for token in tokens}


def test_a_card_is_read_as_it_was_written(tmp_path):
    units, parts = np.arange(N) // 5 + 2**40, np.arange(N) % 3
    ours = card(
        result("r/R@1", HITS, units=units, parts=parts), result("m/median", RNG.random(N) * 9, kind="median"),
        Result("z/majority", 0.1, 10, "blind"), Result("z/none", math.nan, 0, "nothing"),
    )  # fmt: skip
    cards.add(ours, ours.results, tmp_path)
    read = cards.read(tmp_path / "card.json")
    for one, other in zip(ours.results, read.results, strict=True):
        assert one.interval == other.interval and one.code == other.code
        for name in ("name", "n", "protocol", "facts"):
            assert getattr(one.result, name) == getattr(other.result, name), name
        np.testing.assert_equal(one.result.value, other.result.value)
        assert (one.result.outcome is None) == (other.result.outcome is None)
        if one.result.outcome:
            for name in ("values", "units", "parts", "kind", "ids"):
                np.testing.assert_array_equal(*(getattr(x.result.outcome, name) for x in (one, other)), strict=True)
    assert (tmp_path / "card.json").stat().st_size < N * (4 + 8 + 8 + 4) / 2, "half of what the arrays take"
    json.loads((tmp_path / "card.json").read_text(), parse_constant=pytest.fail)  # nan is no JSON


def test_a_card_tells_the_model_and_how_it_was_measured(tmp_path):
    task = {"name": "align", "embedding": 16, "image": {"variant": "b3"}, "text": {"size": "mini"}}
    params = {"image_tower": {"kernel": jnp.zeros((3, 4))}, "log_temperature": jnp.zeros(())}
    weights = Weights(params, {}, path=tmp_path / "checkpoints" / "12", step=12, averaged=False)
    found = cards.of(weights, ConfigDict({"task": task}))
    hits = Measured(result("r/R@1", HITS, facts={"data": "d1", "crop": "central 32"}), (0.25, 0.5), "c0de")
    cards.add(found, [hits], tmp_path)
    text = (tmp_path / "card.md").read_text()
    rows, _ = parsed(text)
    shown = {row[0]: row[1] for row in rows}
    assert shown["task"] == "name=align, embedding=16"
    assert shown["image tower"] == "variant=b3" and shown["text tower"] == "size=mini"
    assert shown["parameters"] == "13: image_tower 12, log_temperature 1"
    assert shown["checkpoint"] == f"{tmp_path}/checkpoints/12, step 12"
    assert shown["weights"] == f"last, digest {weights.digest}" and shown["code"] == "c0de"
    assert "jax " in shown["versions"]
    assert ["r/R@1", f"{100 * HITS.mean():.2f} %", "[25.00, 50.00] %", "300"] in rows
    assert "test split; data d1; crop central 32" in text


def test_hostile_texts_stay_texts():
    names = [f"{text} {i}" for i, text in enumerate(HOSTILE)]
    results = [result(name, HITS, protocol=f"by {name}", facts={"data": name}) for name in names]
    ours = card(*results)
    rows, kinds = parsed(cards.markdown(ours))
    assert kinds <= {
        "text", "text_special", "inline", "heading_open", "heading_close", "paragraph_open", "paragraph_close",
        *(f"{part}_{end}" for part in ("table", "thead", "tbody", "tr", "th", "td") for end in ("open", "close")),
    }, "no HTML, link, picture, code or emphasis"  # fmt: skip
    found = [row for row in rows if row[-1] == "300"]
    assert len(found) == len(HOSTILE) and all(len(row) == 4 for row in found)
    for text, row in zip(HOSTILE, found, strict=True):
        if text.isprintable():
            assert row[0].startswith(text), "as it was"
    comparison = compare.compare(ours, card(*[one._replace(facts={}) for one in results]))
    assert all(line.isprintable() for line in compare.text(comparison).split("\n"))
    _, kinds = parsed(compare.markdown(comparison))
    assert not kinds & {"html_inline", "html_block", "link_open", "image", "code_inline", "em_open", "strong_open"}


def test_results_of_the_same_weights_stay(tmp_path):
    first = cards.add(card(), card(result("a/R@1", HITS), result("b/R@1", HITS)).results, tmp_path)
    again = cards.add(card(), card(result("a/R@5", HITS), code="new").results, tmp_path)
    assert [measured.result.name for measured in first.results] == ["a/R@1", "b/R@1"]
    assert [measured.result.name for measured in again.results] == ["b/R@1", "a/R@5"], "what a measured before is gone"
    assert "| code | c0de, new |" in (tmp_path / "card.md").read_text()
    other = cards.add(card(digest="bb"), card(result("c/R@1", HITS)).results, tmp_path)
    assert [measured.result.name for measured in other.results] == ["c/R@1"]
    (tmp_path / "card.json").write_text("half")
    assert len(cards.add(card(), first.results, tmp_path).results) == 2, "a damaged one is replaced"


def damaged(change):
    """The text of a card in which something is wrong."""
    packed = {"name": "r", "value": 0.5, "interval": None, "n": 2, "protocol": "", "facts": {}, "code": "",
              "outcome": {"kind": "mean", "ids": "x", "count": 2, "values": "eJxjYIAAAAAIAAE=", "units": None,
                          "parts": None}}  # fmt: skip
    head = {"card_version": 1, "checkpoint": "c", "step": 1, "averaged": True, "digest": "d", "task": {},
            "parameters": {}, "versions": {}, "results": [packed]}  # fmt: skip
    change(head)
    return json.dumps(head)


@pytest.mark.parametrize(
    ("text", "match"),
    [
        (None, "expected a card.json, found .*card.json: No such file"),
        ("no json", "found no JSON in"),
        ("[" * 100_000, "found no JSON in"),
        ("[]", "found another file in"),
        ("{}", "that `align_jax.evaluate` wrote, found another file"),
        ('{"card_version": 2}', "expected a card of version 1, found 2; evaluate that model anew"),
        ('{"card_version": 1}', "the card is damaged .KeyError: 'checkpoint'"),
        (damaged(lambda head: head["results"][0].pop("n")), "damaged .KeyError: 'n'"),
        (damaged(lambda head: head["results"][0]["outcome"].update(values="!")), "damaged"),
        (damaged(lambda head: head["results"][0]["outcome"].update(count=3)), "ValueError: expected 3 outcomes"),
        (damaged(lambda head: head["results"][0]["outcome"].update(count=1)), "ValueError: expected 1 outcomes"),
        (damaged(lambda head: head.update(task=3)), "damaged .TypeError"),
    ],
)  # fmt: skip
def test_what_is_no_card_is_refused_in_one_line(text, match, tmp_path):
    path = tmp_path / "card.json"
    if text is not None:
        path.write_text(text)
    with pytest.raises(AlignError, match=match) as error:
        cards.read(path)
    assert len(str(error.value).splitlines()) == 1


def test_the_damaged_card_is_whole_but_for_that(tmp_path):
    (tmp_path / "card.json").write_text(damaged(lambda head: None))
    assert cards.read(tmp_path / "card.json").results[0].result.outcome.values.tolist() == [0.0, 0.0]


def test_a_planted_difference_is_found_and_none_is_not():
    flip = RNG.permutation(N)[:60]
    better = HITS.copy()
    better[flip] = 1.0
    noise = np.where(RNG.random(N) < 0.2, RNG.permutation(HITS), HITS)
    found = compare.compare(card(result("a", HITS), result("b", HITS)), card(result("a", better), result("b", noise)))
    planted, none = found.rows
    assert planted.adjusted < 0.01 and planted.difference.low > 0 and planted.reason == ""
    assert planted.difference.value == pytest.approx(better.mean() - HITS.mean(), abs=1e-6)
    assert none.adjusted > 0.05 and none.difference.low < 0 < none.difference.high
    assert planted.adjusted == pytest.approx(min(1, 2 * planted.difference.p)), "two tests"
    text = compare.text(found)
    assert "2 tests." in text
    row = next(line for line in text.splitlines() if line.startswith("a ")).split()
    assert row[1:5] == [f"{100 * HITS.mean():.2f}", "%", f"{100 * better.mean():.2f}", "%"]
    assert row[5] == f"{100 * (better.mean() - HITS.mean()):+.2f}" and row[-1] == "300"


@pytest.mark.parametrize(
    ("other", "reason"),
    [
        (result("a", HITS, protocol="train split"), "the protocols differ: A by 'test split', B by 'train split'"),
        (result("a", HITS, facts={"data": "d2", "prompts": "p"}), "the data differ: A has digest d1, B d2"),
        (result("a", HITS, facts={"data": "d1"}), "the prompts differ: A has digest p, B None"),
        (result("a", HITS, ids="others"), "the examples differ: expected outcomes of the same examples"),
        (result("a", HITS)._replace(outcome=None), "what each example gave is not known"),
    ],
)
def test_what_was_measured_otherwise_is_shown_and_not_tested(other, reason):
    found = compare.compare(card(result("a", HITS), result("b", HITS)), card(other, result("b", HITS)))
    row = found.rows[0]
    assert row.difference is None and row.adjusted is None and row.reason.startswith(reason)
    text = compare.text(found)
    assert f"not tested: a: {reason}" in text and "1 test." in text
    assert "not tested" in next(line for line in text.splitlines() if line.startswith("a "))


def test_results_of_one_card_alone_are_listed():
    found = compare.compare(card(result("a", HITS), result("b", HITS)), card(result("c", HITS), result("b", HITS)))
    assert [row.first.result.name for row in found.rows] == ["b"]
    for page in (compare.text(found), compare.markdown(found)):
        assert "in A alone: a" in page and "in B alone: c" in page
    rows, _ = parsed(compare.markdown(found))
    assert len(rows) == 2 and all(len(row) == 8 for row in rows)


def test_values_that_are_no_rates_stay_as_they_are():
    ranks = RNG.integers(1, 50, N)
    found = compare.compare(card(result("m", ranks, kind="median")), card(result("m", ranks + 7, kind="median")))
    row = next(line for line in compare.text(found).splitlines() if line.startswith("m "))
    assert "%" not in row and "+7" in row


def test_the_compare_verb(tmp_path):
    for name, values in (("a", HITS), ("b", 1 - HITS)):
        cards.add(card(), card(result("r/R@1", values)).results, tmp_path / name)
    paths = [str(tmp_path / name / "card.json") for name in ("a", "b")]
    out, _ = shapes_run.finish("align_jax.evaluate", "--compare", *paths, f"--out={tmp_path / 'c' / 'compare.md'}")
    assert "r/R@1" in out and "1 test." in out
    assert "| r/R@1 |" in (tmp_path / "c" / "compare.md").read_text()
    with pytest.raises(AlignError, match=r"--compare: expected two files, .* found 1"):
        evaluate.compare_cards(paths[:1])
