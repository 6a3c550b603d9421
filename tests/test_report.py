"""The page of a run: its numbers are those of the files, whatever stands in them, and nothing in it executes."""

import copy
import json
import math
import time
from html.parser import HTMLParser

import numpy as np
import pytest
from PIL import Image

from align_jax import report
from align_jax.reporting.charts import powers, round_values
from align_jax.reporting.reading import read
from align_jax.reporting.series import BINS, Series, binned
from align_jax.reporting.text import duration, visible
from align_jax.reporting.timeline import parts, state
from align_jax.types import AlignError

VOID = {"meta", "img", "br", "link", "input", "hr"}
DRAWING = {"svg", "path", "polyline", "polygon", "circle", "rect", "text"}
KNOWN_TAGS = DRAWING | {
    "html", "head", "meta", "title", "style", "body", "header", "section", "footer", "h1", "h2", "h3", "p", "strong",
    "dl", "dt", "dd", "div", "span", "table", "tr", "th", "td", "data", "figure", "figcaption", "details", "summary",
    "pre", "img",
}  # fmt: skip
HOSTILE = (
    "<script>alert(1)</script>", '"onload="alert(1)', "' onerror='alert(1)", "</title><img src=x onerror=alert(1)>",
    "{{7*7}}{% raw %}", "\u202egpj.exe", "]]>--></style></svg><svg onload=alert(1)>", "javascript:alert(1)",
    "a\x00b\x1b[31m", "\ud800", "&lt;script&gt;",
)  # fmt: skip


class Page(HTMLParser):
    """What a browser would make of the page: elements, texts by section, numbers by section."""

    def __init__(self, html):
        super().__init__(convert_charrefs=True)
        self.open, self.tags, self.attributes, self.text = [], [], [], ""
        self.section, self.sections, self.data, self.cells, self.in_head = "head", {}, {}, {}, True
        self.feed(html)
        self.close()
        assert not self.open

    def handle_starttag(self, tag, attrs):
        attrs = dict(attrs)
        self.tags.append(tag)
        self.attributes += [(tag, name, value) for name, value in attrs.items()]
        if tag not in VOID:
            self.open.append(tag)
        if tag == "section":
            self.section = attrs["id"]
        if tag == "data":
            self.data.setdefault(self.section, []).append(attrs["value"])
        if tag == "td":
            self.cells.setdefault(self.section, []).append("")

    def handle_startendtag(self, tag, attrs):
        self.handle_starttag(tag, attrs)
        if tag not in VOID:
            self.handle_endtag(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag, f"</{tag}> closes another"

    def handle_data(self, data):
        if self.open and self.open[-1] == "style":
            return
        self.sections[self.section] = self.sections.get(self.section, "") + data
        self.text += data
        if "td" in self.open:
            self.cells[self.section][-1] += data

    def rows(self, section, width):
        cells = [cell.strip() for cell in self.cells.get(section, [])]
        return [tuple(cells[i : i + width]) for i in range(0, len(cells), width)]

    def points(self, title):
        """How many points the curve of that title has."""
        at = self.attributes.index(("svg", "aria-label", f"{title} by step"))
        return len(next(value for tag, _, value in self.attributes[at:] if tag == "polyline" and "," in value).split())


def page(workdir):
    report.write(workdir)
    return Page((workdir / "report.html").read_text("utf-8"))


def lines(path, rows):
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))


def event(at, step, kind, **facts):
    return {"time": 1_790_000_000.0 + at, "step": step, "event": kind, **facts}


def training(step, loss=1.0, **values):
    return {"step": step, "loss": loss, "non_finite_steps": 0.0, "pairs_per_second": 80.0, "data_wait": 0.25, **values}


FILES = {
    "config.json": {
        "seed": 3, "steps": 40, "batch_size": 8, "task": {"name": "align", "image": {"variant": "b3"}}, "evals": {},
        "optim": {"name": "lamb"}, "data": {"source": {"name": "manifest", "path": "pairs.jsonl"}},
        "freeze": ["a", "b"],
    },
    "eval.json": [
        {"name": "held_out/R@1", "value": 0.12345678, "n": 1500, "protocol": "ties pessimistic"},
        {"name": "held_out/R@5", "value": 0.5, "n": 1500, "protocol": "ties pessimistic"},
    ],
    "run.json": {
        "versions": {"jax": "0.11.0"}, "code": "00ff", "device": "TPU v4", "devices": 8, "processes": 2,
        "data": {"records": 30000, "problems": {"zero bytes": 7},
                 "files": [{"name": "a.tar", "records": 20000, "bytes": 5000000, "digest": "crc32c:1"},
                           {"name": "b.tar", "records": 10000, "bytes": 2500000, "digest": "crc32c:2"}]},
    },
    "metrics.jsonl": [
        *(training(step, loss=5 - step / 10, gradient_norm=10.0**-step) for step in (10, 20, 30)),
        {"step": 20, "eval/held_out/R@1": 0.1}, {"step": 40, "eval/held_out/R@1": 0.12345678},
        training(40, loss=1.2345678, non_finite_steps=2.0),
    ],
    "events.jsonl": [
        event(0, 0, "start", from_step=0, steps=40, devices=8, processes=2), event(15, 10, "save", seconds=0.5),
        event(17, 20, "evaluate", seconds=1.0), event(19, 25, "save", seconds=0.25),
        event(25, 27, "doctor", sign="starving", text="raise data.threads"),
        event(30, 10, "start", from_step=10), event(40, 20, "evaluate", seconds=2.0),
        event(42, 31, "doctor", sign="starving", text="raise data.threads again"),
        event(45, 35, "non_finite", path="replay/35"), event(50, 40, "save", seconds=0.5), event(52, 40, "end"),
    ],
    "skipped.jsonl": [{"step": step, "position": 8 * step, "id": f"r{step}", "reason": "empty"} for step in (1, 2, 1)],
    "skipped-1.jsonl": [{"step": 3, "position": 25, "id": "r9", "reason": "not an image"}],
    "replay/35/bundle.json": {"step": 35, "loss": math.nan, "ids": ["x", "y"]},
}  # fmt: skip


def run(folder, contents=FILES):
    for name, content in contents.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        if name.endswith(".jsonl"):
            lines(folder / name, content)
        else:
            (folder / name).write_text(json.dumps(content))
    (folder / "parameters.txt").write_text("| kernel | (3, 4) |\nTotal: 1,234,567.0 -- 4,938,268.0 bytes\n")
    Image.new("RGB", (8, 8)).save(folder / "contact_sheet.png")
    return folder


def seconds(workdir):
    return {part.name: part.seconds for part in parts(read(workdir))}


def test_the_numbers_are_those_of_the_files(tmp_path):
    found = page(run(tmp_path))
    head = found.sections["head"]
    assert "align, 1,234,567 parameters, batches of 8, lamb, seed 3" in head
    assert "30,000 records, manifest, pairs.jsonl" in head and "TPU v4, devices 8, processes 2, code 00ff" in head
    assert "Finished at step 40" in head and "started again 1 time" in head
    assert "2026-09-21 14:13:20 UTC to 2026-09-21 14:14:12 UTC" in head
    steps, wall, pairs, speed, loss, share = map(float, found.data["head"])
    assert (steps, wall, pairs, speed, loss) == (40, 52, 320, 80, 1.2345678) and "1.235" in head
    assert share == seconds(tmp_path)["training"] / 52
    assert [float(value) for value in found.data["evaluation"]] == [0.12345678, 0.5]
    assert found.cells["evaluation"] == ["held_out/R@1", "0.1235", "1,500", "ties pessimistic", "held_out/R@5", "0.5"]
    assert found.points("Loss") == 4 and found.points("Gradient norm") == 3 and found.points("held_out/R@1") == 2
    assert found.rows("skipped", 3) == [
        ("2", "empty", "r1 (step 1), r2 (step 2)"),
        ("1", "not an image", "r9 (step 3)"),
    ]
    assert found.data["skipped"] == ["3", "2", "1"] and found.data["non-finite"] == ["2"]
    assert found.rows("non-finite", 3) == [("35", "replay/35", "loss NaN, ids: 2 entries")]
    assert found.rows("doctor", 5) == [("starving", "2", "27", "31", "raise data.threads again")]
    assert found.rows("data", 2)[:1] == [("zero bytes", "7")]
    assert found.cells["data"][2:] == [
        "a.tar", "20,000", "5,000,000", "crc32c:1", "b.tar", "10,000", "2,500,000", "crc32c:2",
        "all files", "30,000", "7.5 MB", "",
    ]  # fmt: skip
    assert found.rows("versions", 2) == [("jax", "0.11.0")]
    assert dict(found.rows("config", 2)) == {
        "seed": "3", "steps": "40", "batch_size": "8", "task.name": "align", "task.image.variant": "b3", "evals": "{}",
        "optim.name": "lamb", "data.source.name": "manifest", "data.source.path": "pairs.jsonl", "freeze": '["a", "b"]',
    }  # fmt: skip
    assert "kernel" in found.sections["parameters"] and "img" in found.tags
    assert "See below: 3 skipped samples, 2 non-finite steps, 1 sign of trouble." in head
    assert "damaged" not in head


def test_where_the_time_went(tmp_path):
    """40 steps of 8 pairs at 80 pairs/s are 4 s, a quarter of it waiting; what was done again is lost."""
    found = page(run(tmp_path))
    assert seconds(tmp_path) == {
        "training": 4 - 1 - 1.0, "waiting for data": 1.0, "checkpoints": 1.0, "evaluation": 2.0, "restarts": 15.0,
        "start-up and the rest": 52 - 21.0,
    }  # fmt: skip
    assert [float(value) for value in found.data["time"]] == list(seconds(tmp_path).values())
    shares = [float(row[2].removesuffix(" %")) for row in found.rows("time", 4)]
    assert sum(shares) == pytest.approx(100, abs=0.3) and shares[4] == 28.8
    widths = [float(v) for tag, name, v in found.attributes if (tag, name) == ("rect", "width")]
    assert sum(widths) == pytest.approx(1000, abs=0.1) and widths[4] == pytest.approx(288.46)
    dashed = [value for tag, name, value in found.attributes if (tag, name, value) == ("path", "class", "restart")]
    assert len(dashed) == found.tags.count("figure")


def test_two_restarts_from_one_step_do_not_count_twice(tmp_path):
    rows = [event(0, 0, "start", from_step=0), event(10, 10, "save", seconds=1), event(20, 10, "start", from_step=10),
            event(30, 15, "evaluate", seconds=3), event(40, 0, "start", from_step=0),
            event(60, 9, "evaluate", seconds=4), event(65, 9, "preempted"),
            event(100, 9, "start", from_step=9)]  # fmt: skip
    lines(tmp_path / "events.jsonl", rows)
    found = seconds(tmp_path)
    assert found["restarts"] == 40 + 35 and found["evaluation"] == 4 and found["checkpoints"] == 0
    assert sum(found.values()) == 100


def test_a_clock_that_goes_back_takes_no_time(tmp_path):
    rows = [event(0, 0, "start", from_step=0), event(100, 10, "save", seconds=-4), event(40, 20, "save", seconds=2),
            event(50, 30, "end")]  # fmt: skip
    lines(tmp_path / "events.jsonl", rows)
    found = page(tmp_path)
    assert float(found.data["head"][1]) == 110 and seconds(tmp_path)["checkpoints"] == 2
    assert all(value >= 0 for value in seconds(tmp_path).values())
    assert "The clock went back once, by up to 1 min 0 s; no time passed then." in found.sections["head"]


@pytest.mark.parametrize(
    ("ends", "word", "sentence"),
    [
        ([], "open", "Running, or killed without a word: at step 30, no end is written"),
        ([event(9, 1234, "end")], "finished", "Finished at step 1,234"),
        (
            [event(9, 30, "stopped", text="3 in a row"), event(9, 30, "end")],
            "stopped",
            "Stopped at step 30: 3 in a row",
        ),
        ([event(9, 30, "hung")], "hung", "Hung at step 30"),
        ([event(9, 30, "preempted")], "preempted", "Preempted at step 30: started again, it goes on from there"),
        ([event(9, 30, "preempted"), event(20, 30, "start", from_step=30)], "open", "Running, or killed"),
    ],
)
def test_how_it_stands(tmp_path, ends, word, sentence):
    lines(tmp_path / "events.jsonl", [event(0, 0, "start", from_step=0), event(8, 30, "save", seconds=1), *ends])
    found = page(tmp_path)
    assert state(read(tmp_path))[0] == word and sentence in found.sections["head"]
    assert ("div", "data-state", word) in found.attributes


def test_the_last_row_of_a_step_counts(tmp_path):
    before = [training(step, loss=9.0, non_finite_steps=1.0) for step in (10, 20, 30)]
    after = [training(step, loss=step / 10) for step in (20, 30)]
    lines(tmp_path / "metrics.jsonl", [*before, {"step": 30, "eval/a": 1.0}, *after, {"step": 30, "eval/a": 0.25}])
    found, metrics = page(tmp_path), read(tmp_path).metrics
    assert [part.tolist() for part in metrics["loss"].settled()] == [[10, 20, 30], [9, 2, 3]]
    assert found.data["head"][-1] == "3.0" and found.data["non-finite"] == ["1"]
    assert found.data["evaluation"] == ["0.25"] and "eval.json, with protocols, is not there" in found.text
    assert found.tags.count("path") and ("path", "class", "restart") in found.attributes  # told by the rows alone


def test_damaged_lines_are_counted(tmp_path):
    run(tmp_path)
    good = page(tmp_path)
    for name in ("metrics.jsonl", "events.jsonl", "skipped.jsonl"):
        with (tmp_path / name).open("ab") as file:
            file.write(
                b'{"step": 50, "lo\n\x00\x00\x00\n\xff\xfe\n[]\nnull\n{"step": -1}\n{"step": 1e9}\n' + b"[" * 100_000
            )
    found = page(tmp_path)
    for name in ("metrics.jsonl", "events.jsonl", "skipped.jsonl"):
        assert f"{name}: 8 damaged lines; only what is whole counts." in found.sections["head"]
    assert found.data == good.data


def test_the_good_values_of_a_damaged_row_stay(tmp_path):
    (tmp_path / "metrics.jsonl").write_text('{"step": 5, "a": "x", "loss": 2.5, "b": null}\n{"step": 6, "loss": 1e999}')
    found = page(tmp_path)
    assert "metrics.jsonl: 1 damaged line; only what is whole counts." in found.sections["head"]
    assert found.points("Loss") == 1 and "1 not finite, left out" in found.sections["curves"]
    assert "at step 6" in found.sections["head"]


def test_files_that_cannot_be_read_are_told(tmp_path):
    for name in ("config.json", "metrics.jsonl", "contact_sheet.png"):
        (tmp_path / name).mkdir()
    (tmp_path / "eval.json").write_text("{}")
    (tmp_path / "run.json").write_text('{"versions": ' + "[" * 40 + "]" * 40 + "}")
    head = page(tmp_path).sections["head"]
    for name in ("config.json", "metrics.jsonl", "contact_sheet.png"):
        assert f"{name}: cannot be read" in head
    assert "eval.json: expected a list" in head and "run.json: is damaged" in head


@pytest.mark.parametrize("at", [-1, 253402300800, math.nan, "now"])
def test_a_time_without_a_date_is_damage(tmp_path, at):
    lines(tmp_path / "events.jsonl", [event(0, 0, "start", from_step=0), {"time": at, "step": 1, "event": "end"}])
    head = page(tmp_path).sections["head"]
    assert "events.jsonl: 1 damaged line;" in head and "Running, or killed" in head


def leaves(value, path=()):
    yield path
    inner = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, child in inner:
        yield from leaves(child, (*path, key))


@pytest.mark.parametrize("name", FILES)
def test_any_value_may_be_another(tmp_path, name):
    """Each value of each file in turn is of another type, or too large: there is a page every time."""
    run(tmp_path)
    for value in (None, "x", -1, 10**400, 1e308, math.nan, -math.inf, True, [], {}, ["y"], {"z": [[1]]}):
        rows = []
        for path in leaves(FILES[name]):
            content = copy.deepcopy([FILES[name]])
            holder = content
            for key in (0, *path)[:-1]:
                holder = holder[key]
            holder[(0, *path)[-1]] = value
            if not name.endswith(".jsonl"):
                run(tmp_path, {name: content[0]})
                page(tmp_path)
            elif path:  # one file with all variants of its rows
                rows += content[0][path[0] : path[0] + 1]
        if rows:
            run(tmp_path, {name: rows})
            page(tmp_path)


def test_nothing_hostile_executes(tmp_path):
    """Every text of every file, keys included, tries to leave its place; so does the folder's own name."""
    contents = {}
    for number, (name, content) in enumerate(FILES.items()):
        text = HOSTILE[number % len(HOSTILE)]
        contents[name] = content
        if name == "run.json":
            contents[name] = {key: {**value, **dict.fromkeys(HOSTILE, text)} if isinstance(value, dict) else text
                              for key, value in content.items()}  # fmt: skip
            contents[name]["data"]["problems"] = dict.fromkeys(HOSTILE, 1)
            contents[name]["data"]["files"] = [
                dict.fromkeys(("name", "records", "bytes", "digest"), t) for t in HOSTILE
            ]
        if name == "config.json":
            contents[name] = {**content, **{t: {t: [t, t]} for t in HOSTILE}, "task": {"name": HOSTILE[3]}}
            contents[name]["data"] = {"source": dict.fromkeys(("name", "path", "split"), HOSTILE[0])}
    contents["eval.json"] = [{"name": t, "value": 0.5, "n": t, "protocol": t} for t in HOSTILE]
    contents["metrics.jsonl"] = [{"step": step, **{f"{way}{t}": 1.0 for t in HOSTILE for way in ("", "eval/")}}
                                 for step in (1, 2)]  # fmt: skip
    contents["skipped.jsonl"] = [{"step": 1, "position": i, "id": t, "reason": t} for i, t in enumerate(HOSTILE)]
    contents["events.jsonl"] = [event(0, 0, "start", from_step=0)] + [
        event(1, 1, kind, sign=t, text=t, path=t) for t in HOSTILE for kind in ("doctor", "non_finite", "stopped", t)
    ]  # fmt: skip
    contents["replay/35/bundle.json"] = dict(zip(HOSTILE, HOSTILE, strict=True)) | {"step": HOSTILE[0]}
    workdir = tmp_path / "<img src=x onerror=alert(1)>{{7*7}}"
    workdir.mkdir()
    found = page(run(workdir, contents))
    assert set(found.tags) <= KNOWN_TAGS and "script" not in found.tags
    assert not [name for _, name, _ in found.attributes if name.startswith("on") or name in ("href", "srcdoc", "style")]
    sources = [value for _, name, value in found.attributes if name == "src"]
    assert len(sources) == 1 and sources[0].startswith("data:image/png;base64,")
    assert {"default-src 'none'; style-src 'unsafe-inline'; img-src data:"} <= {v for _, _, v in found.attributes}
    for text in HOSTILE:  # each is there to read
        for section in ("evaluation", "curves", "skipped", "doctor", "data", "versions", "config", "non-finite"):
            assert visible(text) in found.sections[section], (section, text)
    assert "<img src=x onerror=alert(1)>{{7*7}}" in found.text and "49" not in found.sections["skipped"]
    assert not set(found.text) & set("\u202e\x00\x1b\ud800\ufffd")


def test_hidden_characters_are_seen():
    assert visible("a\u202eb\x07\ud83d\u200b\u2066") == "a\\u202eb\\u0007\\ud83d\\u200b\\u2066"
    assert visible("👩‍🚀 ️é 汉\n") == "👩‍🚀 ️é 汉\n"
    assert visible("x" * 5000) == "x" * 2000 + "… (5,000 characters)"


def test_many_rows_make_a_small_page_soon(tmp_path):
    """200,000 rows; a spike of one step stays visible; the numbers behind a curve are exact."""
    loss = 5 * np.exp(-np.arange(1, 200_001) / 5e4)
    loss[123_456] = 77.5
    with (tmp_path / "metrics.jsonl").open("w") as file:
        file.writelines(
            f'{{"step": {step}, "gradient_norm": 1.5, "learning_rate": 0.001, "loss": {value}, "data_wait": 0.01}}\n'
            for step, value in enumerate(loss.tolist(), 1)
        )
    many = [{"step": 1, "position": i, "id": f"{i:09d}", "reason": f"kind {i % 1000}"} for i in range(20_000)]
    lines(tmp_path / "skipped.jsonl", many)
    files = [{"name": f"{i:05d}.tar", "records": 10, "bytes": 10**9, "digest": "0" * 64} for i in range(10_000)]
    (tmp_path / "run.json").write_text(json.dumps({"data": {"files": files}}))
    began = time.process_time()
    found = page(tmp_path)
    assert time.process_time() - began < 15  # 2 on an idle machine
    assert (tmp_path / "report.html").stat().st_size < 500_000
    assert found.points("Loss") == BINS and "200,000 values in 240 bins" in found.sections["curves"]
    assert "100,000" in found.cells["data"][-3] and "and 9,500 more, in run.json" in found.text
    assert found.data["skipped"][0] == "20000" and "and 800 more, in skipped.jsonl" in found.text
    bins = binned(np.arange(1, 200_001), loss)
    assert bins.high.max() == 77.5 and bins.low.min() == loss.min()
    assert np.all(bins.low <= bins.mean) and np.all(bins.mean <= bins.high)


def test_bins_hold_every_value_once():
    steps = np.unique(np.random.default_rng(0).integers(0, 10_000, 3000))
    values = np.sin(steps / 300)
    values[5] = np.nan
    bins = binned(steps, values)
    assert bins.total == len(steps) - 1 and bins.left_out == 1 and len(bins.steps) <= BINS
    edges = np.linspace(steps[0], steps[-1], BINS, endpoint=False)
    for number in (0, 100, BINS - 1):
        upper = edges[number + 1] if number + 1 < BINS else np.inf
        inside = values[(steps >= edges[number]) & (steps < upper) & np.isfinite(values)]
        assert bins.mean[number] == pytest.approx(inside.mean()) and bins.high[number] == inside.max()


def test_a_series_refuses_what_is_no_number():
    series = Series()
    for step, value in ((2**70, 1.0), (1, "1"), (1, None), (1, 10**400)):
        with pytest.raises((TypeError, OverflowError)):
            series.add(step, value)
    assert [len(part) for part in series.settled()] == [0, 0]


def test_ticks_and_times():
    assert round_values(0, 60) == [0, 20, 40, 60] and round_values(0.07, 0.0725) == pytest.approx(
        [0.07, 0.0705, 0.071, 0.0715, 0.072, 0.0725]
    )
    assert round_values(0, 2, least=1) == [0, 1, 2] and round_values(0, 9, least=1) == [0, 2, 4, 6, 8]
    assert powers(0.005, 200) == pytest.approx([0.01, 0.1, 1, 10, 100]) and powers(1, 10) == [1, 2, 5, 10]
    times = [duration(s) for s in (0, 59.94, 59.97, 60, 3599, 3600, 90_000, 1e9)]
    assert times == ["0.0 s", "59.9 s", "1 min 0 s", "1 min 0 s", "59 min 59 s", "1 h 0 min", "1 d 1 h", "11,574 d 1 h"]


def test_the_verb(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr("absl.flags.FLAGS", type("Flags", (), {"workdir": str(tmp_path)})())
    with pytest.raises(
        AlignError, match=r"expected the folder of a run \(config.json, .*found none of its files"
    ) as error:
        report.main([])
    assert "\n" not in str(error.value) and not (tmp_path / "report.html").exists()
    (tmp_path / "config.json").write_text("{}")
    report.main([])
    assert capsys.readouterr().out == f"{tmp_path / 'report.html'}\n"
    found = Page((tmp_path / "report.html").read_text())
    assert "Before its first logged step" in found.sections["head"]
    assert [path.name for path in tmp_path.iterdir() if "partial" in path.name] == []
