"""What a run writes down, read back."""

import json
from types import SimpleNamespace

import jax.numpy as jnp
import numpy as np
import pytest
from tensorboardX.proto.event_pb2 import Event  # pyright: ignore[reportAttributeAccessIssue]

from align_jax.metrics import Recorder, duration, table, write_parameters
from align_jax.types import Mean, Result


def metrics(loss, bad=0):
    one = jnp.float32(1)
    return {"loss": Mean(jnp.float32(loss), one), "non_finite_steps": Mean(jnp.float32(bad), one)}


def record(workdir, start=0, steps=6, every=2):
    with Recorder(workdir, start=start, steps=steps, rows=8, every=every) as recorder:
        for step in range(start + 1, steps + 1):
            recorder.step(step, metrics(step / 4))
        recorder.flush()
        recorder.results(steps, [Result("mine/R@1", 0.5, 10, "a protocol")])


def test_rows_and_screen(tmp_path, capsys):
    record(tmp_path, steps=5)
    rows = [json.loads(line) for line in (tmp_path / "metrics.jsonl").read_text().splitlines()]
    speeds = [row.pop("pairs_per_second", None) for row in rows]
    assert [row.pop("data_wait", None) for row in rows] == [0.0, 0.0, 0.0, None]
    assert rows == [
        {"step": 2, "loss": 0.5, "non_finite_steps": 0}, {"step": 4, "loss": 1.0, "non_finite_steps": 0},
        {"step": 5, "loss": 1.25, "non_finite_steps": 0},
        {"step": 5, "eval/mine/R@1": 0.5},
    ]  # fmt: skip
    assert all(speed > 0 for speed in speeds[:3]) and speeds[3] is None
    err = capsys.readouterr().err
    assert "step 4/5, loss 1.0000, " in err and "pairs/s, 0:00 left" in err
    assert "mine/R@1    0.5  10  a protocol" in err


def test_bad_steps_between_logged_ones_are_counted(tmp_path):
    with Recorder(tmp_path, start=0, steps=8, rows=8, every=4) as recorder:
        for step in range(1, 9):
            recorder.step(step, metrics(1, bad=step in (2, 3)))
    rows = [json.loads(line) for line in (tmp_path / "metrics.jsonl").read_text().splitlines()]
    assert [row["non_finite_steps"] for row in rows] == [2, 0]


def test_the_first_step_is_not_timed(tmp_path, monkeypatch):
    """It holds the compilation: 8 rows in 30 s; the steps after it take 2 s each."""
    times = iter([130.0, 132.0, 134.0])
    monkeypatch.setattr("align_jax.metrics.time", SimpleNamespace(perf_counter=lambda: next(times)))
    with Recorder(tmp_path, start=0, steps=3, rows=8, every=1) as recorder:
        for step in (1, 2, 3):
            recorder.step(step, metrics(1))
    rows = [json.loads(line) for line in (tmp_path / "metrics.jsonl").read_text().splitlines()]
    assert [row.get("pairs_per_second") for row in rows] == [None, 4.0, 4.0]


def test_a_terminal_gets_a_bar(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr("sys.stderr.isatty", lambda: True)
    record(tmp_path, every=1)
    err = capsys.readouterr().err
    assert "6/6 steps" in err and "loss 1.5000" in err and "pairs/s" in err and "left" in err


def events(folder):
    """(step, tag, value) of every scalar; a record is length, checksum, bytes, checksum."""
    found = []
    for file in sorted(folder.glob("events.*")):
        data = file.read_bytes()
        while data:
            size = int.from_bytes(data[:8], "little")
            event = Event.FromString(data[12 : 12 + size])
            found += [(event.step, value.tag, value.simple_value) for value in event.summary.value]
            data = data[16 + size :]
    return found


def test_tensorboard_reads_it(tmp_path):
    record(tmp_path)
    found = events(tmp_path / "tensorboard")
    assert [(step, value) for step, tag, value in found if tag == "loss"] == [(2, 0.5), (4, 1.0), (6, 1.5)]
    assert (6, "eval/mine/R_at_1", 0.5) in found


def test_the_parameter_table(tmp_path):
    params = {"tower": {"kernel": np.zeros((3, 4), np.float32)}}
    write_parameters(tmp_path / "parameters.txt", params, {"tower/kernel": 0.25})
    text = (tmp_path / "parameters.txt").read_text()
    assert "tower/kernel" in text and "(3, 4)" in text and "Total: 12" in text
    assert text.splitlines()[-1].split() == ["tower/kernel", "0.25"]


@pytest.mark.parametrize(("seconds", "text"), [(5, "0:05"), (125.4, "2:05"), (3723, "1:02:03")])
def test_durations(seconds, text):
    assert duration(seconds) == text


def test_tables_line_up():
    lines = table([Result("a", 0.25, 10, "p"), Result("longer", 1.0, 5, "q")]).splitlines()
    assert lines == ["        value   n  protocol", "a        0.25  10  p", "longer      1   5  q"]
