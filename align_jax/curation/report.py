"""What was dropped by which rule: report.json for programs, report.html for people, self-contained.

Alt-text is hostile input: the page is a template whose every value is escaped.
"""

import base64
import hashlib
import heapq
import io
import json
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import jinja2
import numpy as np
import pyarrow.parquet as pq
from PIL import Image

from align_jax.curation import layout
from align_jax.curation.facts import read_images
from align_jax.curation.settings import Settings
from align_jax.data.source import Source

SIDES = (0, 50, 100, 150, 200, 250, 300, 400, 500, 600, 800, 1000, 1500, 2000, 3000)  # pixels; the last bin is open
WORDS = tuple(range(32))
THUMBNAIL = 112  # pixels of the longer side


class Example(NamedTuple):
    """A pair to be shown."""

    id: str
    text: str
    detail: str  # size, or why it cannot be read
    picture: str  # data URI, or ""


class Gathered:
    """Counts and examples over all shards, one sidecar in memory at a time."""

    def __init__(self, order: Sequence[str], examples: int):
        self.records = dict.fromkeys(order, 0)  # rule -> records that it dropped
        self.texts = dict.fromkeys(order, 0)  # rule -> texts, those of dropped records among them
        self.reasons: Counter[str] = Counter()
        self.read = self.kept = self.texts_read = self.texts_kept = 0
        self.sides, self.words = np.zeros((2, len(SIDES)), int), np.zeros((2, len(WORDS)), int)  # of all, of the kept
        self._examples = examples
        self._chosen: dict[str, list[tuple[int, Path, int, str]]] = {}  # rule -> (-hash, folder, row, text) heaps

    def add(self, keep: Path, folder: Path) -> None:
        """One shard."""
        columns = ["id", "width", "height", "reason", "texts", "words"]
        records = pq.read_table(folder / "records.parquet", columns=columns).to_pylist()
        for row, (record, verdict) in enumerate(zip(records, pq.read_table(keep).to_pylist(), strict=True)):
            self._count(record, verdict)
            text = next(iter(verdict["texts"] or record["texts"]), "")
            self._choose(verdict["rule"], folder, row, text, record["id"])
            for text, rule in zip(record["texts"], verdict["text_rules"], strict=True):
                if rule and not verdict["rule"]:  # a text that its record could do without
                    self._choose(f"{rule} (text)", folder, row, text, record["id"])

    def _count(self, record: Mapping[str, Any], verdict: Mapping[str, Any]) -> None:
        kept = not verdict["rule"]
        self.read += 1
        self.kept += kept
        self.texts_read += len(record["texts"])
        if record["reason"]:
            self.reasons[record["reason"]] += 1
        else:
            side = np.searchsorted(SIDES, min(record["width"], record["height"]), "right") - 1
            self.sides[0, side] += 1
            self.sides[1, side] += kept
        if not kept:
            self.records[verdict["rule"]] += 1
        for rule, words in zip(verdict["text_rules"], record["words"], strict=True):
            self.words[0, min(words, WORDS[-1])] += 1
            if rule:
                self.texts[rule] += 1
            else:
                self.texts_kept += 1
                self.words[1, min(words, WORDS[-1])] += 1

    def _choose(self, rule: str, folder: Path, row: int, text: str, name: str) -> None:
        """Keeps the examples whose hash is smallest: the same on every run, and from everywhere in the data."""
        heap = self._chosen.setdefault(rule, [])
        place = -int.from_bytes(hashlib.blake2b(name.encode("utf-8", "surrogatepass"), digest_size=8).digest(), "big")
        if len(heap) < self._examples:
            heapq.heappush(heap, (place, folder, row, text))
        elif self._examples and place > heap[0][0]:
            heapq.heapreplace(heap, (place, folder, row, text))

    def examples(self) -> dict[str, list[Example]]:
        """Rule, "RULE (text)" or "" for what is kept -> examples."""
        return {
            rule: [_example(folder, row, text) for _, folder, row, text in sorted(heap, reverse=True)]
            for rule, heap in self._chosen.items()
        }


def write(workdir: Path, chosen: Settings, source: Source, facts: Mapping[str, Sequence[Path]]) -> None:
    """Writes report.html, then report.json, which says that all is done. `facts`: set -> folder of each shard."""
    gathered = Gathered(chosen.rules.order, chosen.examples)
    for folder in facts[layout.RAW]:
        gathered.add(workdir / "keep" / f"{folder.name}.parquet", folder)
    shards = sorted((workdir / "shards").glob(f"shard-*-of-*.{chosen.output.ending}"))
    found = {
        "records": {"read": gathered.read, "kept": gathered.kept, "dropped": gathered.records},
        "texts": {"read": gathered.texts_read, "kept": gathered.texts_kept, "dropped": gathered.texts},
        "unreadable": dict(gathered.reasons.most_common()),
        "problems": dict(source.problems),  # what the source found to be no record: not among those read
        "rules": chosen.rules.described(),
        "evaluation": {Path(name).name: _evaluation(facts[name]) for name in facts if name != layout.RAW},
        "shorter_side": _histogram(SIDES, gathered.sides),
        "words": _histogram(WORDS, gathered.words),
        "shards": {path.name: path.stat().st_size for path in shards},
        "seconds": _seconds(workdir / "work" / "seconds.jsonl"),
        "inputs": json.loads((workdir / "inputs.json").read_text("utf-8")),
        "config": json.loads((workdir / "config.json").read_text("utf-8")),
    }
    with layout.whole(workdir / "report.html") as partial:
        partial.write_text(page(found, gathered.examples()), encoding="utf-8", errors="backslashreplace")
    layout.write_json(workdir / "report.json", found)


def page(found: Mapping[str, Any], examples: Mapping[str, Sequence[Example]]) -> str:
    """The page of report.json and examples."""
    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("align_jax.curation", ""), autoescape=True, undefined=jinja2.StrictUndefined,
        trim_blocks=True, lstrip_blocks=True,
    )  # fmt: skip
    return environment.get_template("report.html.jinja").render(report=found, examples=examples)


def _example(folder: Path, row: int, text: str) -> Example:
    columns = ["id", "width", "height", "reason"]
    facts = pq.read_table(folder / "records.parquet", columns=columns).slice(row, 1).to_pylist()[0]
    if facts["reason"]:
        return Example(facts["id"], text, facts["reason"], "")
    picture = Image.open(io.BytesIO(read_images(folder, [row])[0]))
    scale = THUMBNAIL / max(facts["width"], facts["height"])  # the stored square has lost the aspect
    size = tuple(max(1, round(side * scale)) for side in (facts["width"], facts["height"]))
    file = io.BytesIO()
    picture.resize((size[0], size[1]), Image.Resampling.BILINEAR).save(file, "JPEG", quality=80)
    uri = "data:image/jpeg;base64," + base64.b64encode(file.getvalue()).decode()
    return Example(facts["id"], text, f"{facts['width']} x {facts['height']}", uri)


def _evaluation(folders: Sequence[Path]) -> dict[str, int]:
    """Pictures of one evaluation source. What cannot be read cannot be kept out of the training data either."""
    reasons = [
        reason
        for folder in folders
        for reason in pq.read_table(folder / "records.parquet", columns=["reason"])["reason"].to_pylist()
    ]
    return {"pictures": len(reasons), "unreadable": sum(map(bool, reasons))}


def _histogram(edges: Sequence[int], counts: np.ndarray) -> dict[str, list[int]]:
    return {"from": list(edges), "read": counts[0].tolist(), "kept": counts[1].tolist()}


def _seconds(path: Path) -> dict[str, float]:
    """Step -> seconds, over all runs that finished it or a part of it; a run that was killed in a step left none."""
    found: Counter[str] = Counter()
    for line in path.read_text("utf-8").splitlines() if path.exists() else ():
        row = json.loads(line)
        found[row["step"]] += row["seconds"]
    return {step: round(seconds, 3) for step, seconds in found.items()}
