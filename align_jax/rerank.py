"""Measures retrieve-then-re-rank: a dual encoder proposes K candidates, a cross-encoder orders them anew.

python -m align_jax.rerank --dual=runs/align --cross=runs/imagebert --data=name=emoji_scenes,split=held_out

Prints recall and cost for each K and fusion, with the dual encoder alone first and each difference from it with its
95 % interval; writes rerank.json and rerank.html. Pairs are scored once, for the largest K, and kept: start the same
command again after a kill and it goes on.

--data: pairs.jsonl or pairs.csv (align_jax/data/manifest.py), a folder of pictures, or any source of the project as
name=value,name=value or JSON (align_jax/data/source.py).
--regions: where those of --data lie, for a cross-encoder that is shown stored regions: one store or several with
commas, in place of config.data.regions.path of its run.
--fusion: weights of the dual encoder's score in [0, 1] (align_jax/evals/shortlist.py says how scores are fused).
--texts, --captions, --folds: as of the evaluator "retrieval" (align_jax/evals/retrieval.py).
"""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import jax
from absl import flags

from align_jax import files
from align_jax.cli import main_of
from align_jax.data.options import source_options
from align_jax.evals import page, reranking, statistics
from align_jax.evals.pools import CANDIDATES, WAYS
from align_jax.evals.ranking import AT
from align_jax.evals.reranking import Curve, Plan, Reranking, Row
from align_jax.loading import Stores, load
from align_jax.reporting.text import duration
from align_jax.types import AlignError, Result

KS, FUSIONS = "1,5,10,20,50,100,200", "0,0.25,0.5"


def rerank(
    dual: str, cross: str, options: dict[str, Any], plan: Plan, out: Path, *, regions: Stores | None = None
) -> Curve:
    """Measures, and writes <out>/rerank.json and <out>/rerank.html.

    Args:
      dual, cross: as `loading.load` takes them.
      options: of the source.
      regions: of the cross-encoder, as `loading.load` takes them.
    """
    files.check_writable(out, flag="--out")
    second = load(cross, regions=regions)
    measuring = Reranking(load(dual), second, options, plan, folder=out, path=dual)
    with jax.set_mesh(second.mesh):
        curve = measuring.run()
    files.write_json(out / "rerank.json", as_json(curve, dual=dual, cross=cross))
    facts = {
        "dual encoder": f"{dual}, weights {curve.weights[0]}", "cross-encoder": f"{cross}, weights {curve.weights[1]}",
        "scoring": f"{curve.rate:,.1f} pairs/s on {second.mesh.size} {jax.devices()[0].platform} device(s)",
    }  # fmt: skip
    # One number of each way: all others stand in rerank.json, and would hide the curves below them.
    shown = [_named(row, row.results[f"{way}/R@{AT[0]}"]) for row in curve.rows for way in WAYS]
    if files.is_writer():
        page.write(
            out / "rerank.html", title="Retrieve, then re-rank", facts=facts, results=shown,
            panels=list(reranking.panels(curve)),
        )  # fmt: skip
    return curve


def _named(row: Row, result: Result) -> Result:
    before = f"K {row.k}, fusion {row.fusion:g}" if row.k else "dual encoder alone"
    return result._replace(name=f"{before}: {result.name.partition('/')[2]}")


def as_json(curve: Curve, *, dual: str, cross: str) -> dict[str, Any]:
    """{"dual", "cross", "pairs_per_second", "rows"}; of each row K (0: the dual encoder alone), fusion, results as in
    eval.json, the recall of the shortlist, pairs, seconds, and the differences of R@1 from the dual encoder alone."""
    return {
        "dual": {"path": dual, "weights": curve.weights[0]},
        "cross": {"path": cross, "weights": curve.weights[1]},
        "pairs_per_second": curve.rate,
        "rows": [
            {
                "k": row.k, "fusion": row.fusion, "pairs": row.pairs, "seconds": row.seconds,
                "recall_of_shortlist": dict(row.ceiling),
                "results": [
                    {"name": name, "value": result.value, "n": result.n, "protocol": result.protocol,
                     "interval": result.outcome and statistics.interval(result.outcome)}
                    for name, result in row.results.items()
                ],
                "differences": {
                    way: found._asdict() | {"p_holm": row.adjusted[way]} for way, found in row.differences.items()
                },
            }
            for row in curve.rows
        ],
    }  # fmt: skip


def table(curve: Curve) -> str:
    """As the screen shows it: recalls in percent, differences of R@1 in points with their 95 % intervals."""
    titles = {way: way.replace("_", " ") for way in WAYS}
    ways = [f"{titles[way]} R@{'/'.join(map(str, AT))}" for way in WAYS]
    header = ["K", "fusion", *ways, "in the shortlist", *(f"R@1 gain, {titles[way]}" for way in WAYS), "pairs", "time"]
    lines = [header, *(_cells(row) for row in curve.rows)]
    widths = [max(len(line[column]) for line in lines) for column in range(len(header))]
    shown = ["  ".join(f"{cell:>{width}}" for cell, width in zip(line, widths, strict=True)) for line in lines]
    notes = (
        f"Scored {curve.rate:,.1f} pairs/s. Gains over the dual encoder alone, in points, with 95 % intervals of a "
        "paired bootstrap and p of a paired permutation test, adjusted for the number of tests (Holm)."
    )
    return "\n".join([*shown, "", notes])


def _cells(row: Row) -> list[str]:
    recalls = ["/".join(f"{100 * row.results[f'{way}/R@{k}'].value:.1f}" for k in AT) for way in WAYS]
    if not row.k:
        return ["none", "", *recalls, "", "", "", "0", ""]
    gains = [
        f"{100 * found.value:+.1f} [{100 * found.low:+.1f}, {100 * found.high:+.1f}] p {row.adjusted[way]:.2g}"
        for way, found in row.differences.items()
    ]
    ceiling = "/".join(f"{100 * row.ceiling[way]:.1f}" for way in WAYS)
    return [f"{row.k:,}", f"{row.fusion:g}", *recalls, ceiling, *gains, f"{row.pairs:,}", duration(row.seconds)]


def _list(text: str, of: Callable[[str], Any], *, flag: str) -> Sequence[Any]:
    try:
        return [of(part) for part in text.split(",")]
    except ValueError as error:
        raise AlignError(f"{flag}: expected numbers with commas between them, found {text!r}") from error


def main(_: list[str]) -> None:
    """Checks the flags."""
    values = flags.FLAGS
    plan = Plan(
        _list(values.k, int, flag="--k"), _list(values.fusion, float, flag="--fusion"),
        texts=values.texts, captions=values.captions, folds=values.folds,
    )  # fmt: skip
    out = Path(values.out) if values.out else Path(values.cross) / "rerank"
    curve = rerank(values.dual, values.cross, source_options(values.data), plan, out, regions=values.regions)
    if files.is_writer():
        print(f"{table(curve)}\n{out / 'rerank.html'}")


if __name__ == "__main__":
    flags.DEFINE_string("dual", None, "a work directory, a checkpoint or an export of a dual encoder", required=True)
    flags.DEFINE_string("cross", None, "the same of a cross-encoder", required=True)
    flags.DEFINE_string("data", None, "a manifest, a folder, or a source's options", required=True)
    flags.DEFINE_list("regions", None, "stores of the regions of --data; by default those of the cross-encoder's run")
    flags.DEFINE_string("k", KS, "candidates of each query that are re-ranked")
    flags.DEFINE_string("fusion", FUSIONS, "weights of the dual encoder's score")
    flags.DEFINE_string("out", None, "folder for what is found; by default rerank/ in that of the cross-encoder")
    flags.DEFINE_enum("texts", "unique", list(CANDIDATES), "what a candidate text is")
    flags.DEFINE_integer("captions", 0, "the first so many of each image; 0 for all", lower_bound=0)
    flags.DEFINE_integer("folds", 1, "stretches of the images that are asked apart", lower_bound=1)
    main_of(main)
