"""Real runs that are told to stop, hang, break or run out of disk: what was saved stands, and they go on from it."""

import http.server
import json
import os
import re
import resource
import signal
import stat
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path

import pytest
import shapes_run
import tiny_run
from test_resume import last_rows

from align_jax import main
from align_jax.types import AlignError
from align_jax.watch.preemption import PREEMPTED
from align_jax.watch.watchdog import HUNG


def events(workdir):
    return [json.loads(line) for line in (workdir / "events.jsonl").read_text().splitlines()]


def until(process, happened):
    """Waits for something that a running process does."""
    while not happened():
        assert process.poll() is None, process.communicate()
        time.sleep(0.02)


def test_sigterm_saves_at_a_step_boundary_and_the_run_goes_on(finished_run, tmp_path):
    config = finished_run.parent / "config.py"
    arguments = (f"--config={config}", f"--workdir={tmp_path}")
    process = shapes_run.start("align_jax.main", *arguments)
    until(process, lambda: (tmp_path / "metrics.jsonl").exists() and last_rows(tmp_path))
    process.send_signal(signal.SIGTERM)
    _, err = process.communicate(timeout=120)
    assert process.returncode == PREEMPTED, err
    last = events(tmp_path)[-1]
    assert last["event"] == "preempted" and "told to stop; saved at step" in err
    saved = max(int(path.name) for path in (tmp_path / "checkpoints").iterdir())
    assert 0 < saved < 12 and max(last_rows(tmp_path)) <= saved
    assert not (tmp_path / "eval.json").exists() and not (tmp_path / "export").exists(), "it is not at its end"

    _, err = shapes_run.finish("align_jax.main", *arguments)
    assert f"from step {saved} of 12" in err
    assert last_rows(tmp_path) == last_rows(finished_run)


class Metadata(http.server.BaseHTTPRequestHandler):
    """Google's metadata server, as far as it tells of maintenance: it holds the request until something changes."""

    coming = threading.Event()

    def do_GET(self):
        assert self.headers["Metadata-Flavor"] == "Google" and "wait_for_change=true" in self.path
        self.coming.wait(60)
        body = b"TERMINATE_ON_HOST_MAINTENANCE" if "maintenance-event" in self.path else b"FALSE"
        self.send_response(200)
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_):
        pass


def test_a_maintenance_notice_stops_the_run(finished_run, tmp_path, monkeypatch):
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Metadata)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    monkeypatch.setenv("GCE_METADATA_HOST", f"127.0.0.1:{server.server_port}")
    config = finished_run.parent / "config.py"
    process = shapes_run.start("align_jax.main", f"--config={config}", f"--workdir={tmp_path}", "--config.steps=100000")
    until(process, lambda: (tmp_path / "metrics.jsonl").exists() and last_rows(tmp_path))
    Metadata.coming.set()
    _, err = process.communicate(timeout=120)
    server.shutdown()
    server.server_close()
    assert process.returncode == PREEMPTED, err


def test_a_run_that_hangs_ends_with_its_stacks(finished_run, tmp_path):
    pictures = tmp_path / "pictures"
    pictures.mkdir()
    os.mkfifo(pictures / "never.png")  # who opens it waits for a writer
    (pictures / "pairs.jsonl").write_text('{"image": "never.png", "texts": ["a picture that never comes"]}\n' * 16)
    config = finished_run.parent / "config.py"
    process = shapes_run.start(
        "align_jax.main", f"--config={config}", f"--workdir={tmp_path / 'run'}", "--config.watch.minutes=0.05",
        f"--config.data.source.path={pictures / 'pairs.jsonl'}", "--config.evals={}",
    )  # fmt: skip
    _, err = process.communicate(timeout=120)
    assert process.returncode == HUNG, err
    assert "error: nothing was finished for 3 s (config.watch.minutes)" in err
    stacks = (tmp_path / "run" / "hung.log").read_text()
    assert "nothing was finished for 3 s; the stacks of all threads:" in stacks
    reader = re.search(r'storage\.py", line \d+ in read', stacks)
    assert "in train" in stacks and reader, "the loop, and the reader that it waits for"
    assert events(tmp_path / "run")[-1]["event"] == "hung"


def test_steps_that_are_not_finite_leave_bundles_and_end_the_run(tmp_path, capsys):
    config = tiny_run.config(tiny_run.manifest(tmp_path / "data"))
    config.optim.learning_rate, config.steps, config.checkpoint.every = 1e38, 20, 1
    with pytest.raises(AlignError, match=r"steps 2 to 4 were not finite, 3 in a row") as error:
        main.run(config, tmp_path / "run")
    assert "learning rate too high (it is 8.5e+37)" in str(error.value) and "parameters, such as" in str(error.value)
    assert sorted(path.name for path in (tmp_path / "run" / "replay").iterdir()) == ["step-2", "step-3", "step-4"]
    bundle = json.loads((tmp_path / "run" / "replay" / "step-2" / "bundle.json").read_text())
    assert bundle["step"] == 2 and bundle["seed"] == 0 and bundle["batch_size"] == 8 and len(bundle["rng"]) == 2
    assert bundle["metrics"]["loss"] == "nan" and len(bundle["norms"]) > 20
    ids = json.loads((tmp_path / "run" / "replay" / "step-2" / "ids.json").read_text())
    assert len(ids) == 8 and len(set(ids)) == 8 and set(ids) <= {f"n{i}" for i in range(16)}
    found = [event["event"] for event in events(tmp_path / "run")]
    assert found.count("non_finite") == 3 and found[-1] == "stopped"
    assert capsys.readouterr().err.count("was not finite") == 3


def test_a_full_disk_ends_the_run_and_the_last_checkpoint_stands(finished_run, tmp_path):
    """The kernel refuses larger files, as a full disk does, from the first checkpoint on."""
    config = finished_run.parent / "config.py"
    arguments = (f"--config={config}", f"--workdir={tmp_path}")
    process = shapes_run.start("align_jax.main", *arguments)
    until(process, lambda: (tmp_path / "checkpoints" / "4" / "_CHECKPOINT_METADATA").exists())
    resource.prlimit(process.pid, resource.RLIMIT_FSIZE, (20_000, 20_000))
    _, err = process.communicate(timeout=120)
    assert process.returncode == 2, err
    last = err.strip().splitlines()[-1]
    assert last.startswith("error: ") and "a checkpoint could not be written" in last, err
    assert "File too large" in last and re.search(r"the last whole one is of step [48]; make room", last), last

    shapes_run.finish("align_jax.main", *arguments)
    assert last_rows(tmp_path) == last_rows(finished_run)


def test_a_work_directory_that_cannot_be_written_is_known_first(tmp_path):
    config = tiny_run.config(tiny_run.manifest(tmp_path / "data"))
    (tmp_path / "file").touch()
    with pytest.raises(
        AlignError, match=r"--workdir: expected a folder to write into, found .*file/run: Not a directory"
    ):
        main.run(config, tmp_path / "file" / "run")
    with tempfile.TemporaryDirectory() as folder:
        Path(folder).chmod(stat.S_IRUSR | stat.S_IXUSR | stat.S_IROTH | stat.S_IXOTH)
        nobody = "os.setuid(65534)" if os.geteuid() == 0 else "pass"  # root may write everywhere
        code = (
            f"import os, pathlib; from align_jax import files; {nobody}; files.check_writable(pathlib.Path({folder!r}))"
        )
        done = subprocess.run(
            [sys.executable, "-c", code], capture_output=True, text=True, cwd=shapes_run.ROOT, timeout=120
        )
        Path(folder).chmod(stat.S_IRWXU)
    assert "AlignError: --workdir: expected a folder to write into" in done.stderr
    assert "Permission denied" in done.stderr
