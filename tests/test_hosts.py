"""Several processes: where each stands, the meeting before they start, and real ones on this machine."""

import json
import os
import signal
import socket
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from types import SimpleNamespace

import pytest
import shapes_run

from align_jax import sharding
from align_jax.hosts import meeting, start
from align_jax.hosts.place import Place, find
from align_jax.types import AlignError
from align_jax.watch.preemption import PREEMPTED

SLURM = {"SLURM_JOB_ID": "4097", "SLURM_PROCID": "3", "SLURM_STEP_NUM_TASKS": "8"}
SHORT = ("--config.batch_size=16", "--config.steps=4")
BARE = ("--config.export=False", "--config.evals={}")


@pytest.mark.parametrize(
    ("nodes", "first"), [("node7", "node7"), ("a1,b2", "a1"), ("node[007-12,20],x", "node007"), ("n[3,5]", "n3")]
)
def test_slurm(nodes, first):
    assert find(SLURM | {"SLURM_STEP_NODELIST": nodes}, None) == Place(f"{first}:61441", 8, 3)


def test_plain_addresses_come_first():
    plain = {"JAX_COORDINATOR_ADDRESS": "10.0.0.1:99", "JAX_NUM_PROCESSES": "2", "JAX_PROCESS_ID": "1"}
    assert find(plain | SLURM | {"SLURM_STEP_NODELIST": "x"}, None) == Place("10.0.0.1:99", 2, 1)


def test_one_process_is_no_cluster():
    assert find({}, None) is None
    assert find({"TPU_WORKER_HOSTNAMES": "localhost", "TPU_WORKER_ID": "0"}, None) is None
    assert find({"SLURM_JOB_ID": "1", "SLURM_NTASKS": "4"}, None) is None, "a batch script is no job step"


def test_slices_on_kubernetes():
    pod = {"TPU_WORKER_HOSTNAMES": "a,b", "TPU_WORKER_ID": "1", "MEGASCALE_NUM_SLICES": "4", "MEGASCALE_SLICE_ID": "2",
           "MEGASCALE_COORDINATOR_ADDRESS": "lead:8080"}  # fmt: skip
    assert find(pod, None) == Place("lead:8482", 8, 5)


@pytest.mark.parametrize("workers", ["x:0:10.0.0.4,y:1:10.0.0.5", "10.0.0.4,10.0.0.5"])
def test_tpu_vm(workers):
    told = {"tpu-env": "ZONE: 'z'\n", "worker-network-endpoints": workers, "agent-worker-number": "1"}
    assert find({}, told.__getitem__) == Place("10.0.0.4:8482", 2, 1)


@pytest.mark.parametrize(
    ("environment", "says"),
    [
        ({"JAX_PROCESS_ID": "0"}, "expected all of JAX_COORDINATOR_ADDRESS, JAX_NUM_PROCESSES, JAX_PROCESS_ID or none"),
        ({"JAX_COORDINATOR_ADDRESS": "a:1", "JAX_NUM_PROCESSES": "2", "JAX_PROCESS_ID": "2"}, "process 2 of 2"),
        ({"JAX_COORDINATOR_ADDRESS": "a:99999", "JAX_NUM_PROCESSES": "2", "JAX_PROCESS_ID": "1"}, "host:port"),
        ({"JAX_COORDINATOR_ADDRESS": "a", "JAX_NUM_PROCESSES": "2", "JAX_PROCESS_ID": "1"}, "host:port"),
        ({"JAX_COORDINATOR_ADDRESS": "a:1", "JAX_NUM_PROCESSES": "x", "JAX_PROCESS_ID": "1"}, "a number in JAX_NUM_PR"),
    ],
)
def test_a_wrong_environment(environment, says):
    with pytest.raises(AlignError, match=says):
        find(environment, None)


def free_port():
    with socket.create_server(("127.0.0.1", 0)) as server:
        return server.getsockname()[1]


def met(facts, *, count=None, seconds=5.0, processes=None):
    """What each of some threads hears in a meeting: its hosts, or the error."""
    address = f"127.0.0.1:{free_port()}"
    processes = processes or range(len(facts))

    def one(process, own):
        try:
            return meeting.meet(Place(address, count or len(facts), process), own, seconds=seconds)
        except AlignError as error:
            return str(error)

    with ThreadPoolExecutor(len(facts)) as pool:
        return list(pool.map(one, processes, facts))


def test_all_meet():
    assert met([{"jax": "1"}] * 4) == [[socket.gethostname()] * 4] * 4


def test_all_hear_who_differs():
    heard = met([{"config.steps": 2}, {"config.steps": 2}, {"config.steps": 3}])
    assert len(set(heard)) == 1
    host = socket.gethostname()
    assert heard[0].startswith(f"process 2 ({host}) has config.steps 3, 2 of 3 have 2; start all with the same")


def test_all_hear_who_is_missing():
    begun = time.monotonic()
    heard = met([{}, {}], count=4, processes=(0, 2), seconds=1.0)
    assert time.monotonic() - begun < 10
    assert len(set(heard)) == 1 and "waited 1 s for process 1, 3 of 4; here are 0 on" in heard[0]


def test_a_leader_that_never_comes():
    (heard,) = met([{}], count=2, processes=(1,), seconds=0.5)
    assert "process 1 waited 0.5 s for process 0 at 127.0.0.1" in heard


def test_a_number_given_twice():
    heard = met([{}, {}, {}], processes=(0, 1, 1))
    assert all("process 1 came 2 times" in text for text in heard)


def test_strangers_at_the_port_change_nothing():
    address = f"127.0.0.1:{free_port()}"
    host, port = address.split(":")
    with ThreadPoolExecutor(2) as pool:
        lead = pool.submit(meeting.meet, Place(address, 2, 0), {}, seconds=20.0)
        for noise in (b"GET / HTTP/1.1\r\n\r\n", b'["json"]\n', b""):
            for _ in range(100):
                try:
                    with socket.create_connection((host, int(port)), timeout=1) as connection:
                        connection.sendall(noise)
                    break
                except ConnectionRefusedError:
                    time.sleep(0.05)
        assert meeting.meet(Place(address, 2, 1), {}, seconds=20.0) == lead.result()


def test_devices_are_the_same_everywhere():
    start.same_devices({0: 4, 1: 4, 2: 4}, ["a", "b", "c"])
    with pytest.raises(AlignError, match=r"process 1 \(b\) has 3 devices, the others have 4"):
        start.same_devices({0: 4, 1: 3, 2: 4}, ["a", "b", "c"])


def test_a_mesh_goes_by_slice_and_process():
    """jax may list devices in any order, and rows of a process are neighbours."""
    devices = [
        SimpleNamespace(id=i, process_index=process, slice_index=part)
        for i, (part, process) in enumerate([(1, 2), (0, 1), (0, 0), (1, 3), (0, 0), (0, 1), (1, 2), (1, 3)])
    ]
    assert [device.id for device in sorted(devices, key=sharding.order)] == [2, 4, 1, 5, 0, 6, 3, 7]


def cluster(processes, devices, config, workdir, *arguments):
    """The finished `local_cluster.sh` of the main program."""
    command = ["bash", "launch/local_cluster.sh", f"--port={free_port()}", str(processes), str(devices)]
    command += [sys.executable, "-m", "align_jax.main", f"--config={config}", f"--workdir={workdir}", *arguments]
    return subprocess.run(
        command, cwd=shapes_run.ROOT, env=shapes_run.environment(), capture_output=True, text=True, timeout=300
    )


def rows(workdir):
    """{step: {name: value}} without what no two runs share."""
    found = {}
    for line in (workdir / "metrics.jsonl").read_text().splitlines():
        row = json.loads(line)
        row.pop("pairs_per_second", None)
        row.pop("data_wait", None)
        found.setdefault(row["step"], {}).update(row)
    return found


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("cluster")


@pytest.fixture(scope="module")
def config(folder):
    """The run of whole processes, over all devices; one block, since four processes compile on few cores."""
    path = shapes_run.write_config(folder)
    text = path.read_text()
    for old, new in (
        ('"mesh": {"devices": 1}', '"mesh": {"fsdp": 2}'),
        (
            '"stages": ((1, 3, 1, 16), (1, 3, 6, 80)), "strides": (1, 2)',
            '"stages": ((1, 3, 6, 64),), "strides": (2,)',
        ),
    ):
        assert old in text
        text = text.replace(old, new)
    path.write_text(text)
    return path


def test_processes_train_as_one(config, folder):
    """Two by two and one by four devices; checkpoints, evaluation and export included. Four by one: soak_hosts.py."""
    done = cluster(2, 2, config, folder / "by2", *SHORT)
    assert done.returncode == 0, done.stdout + done.stderr
    alone = cluster(1, 4, config, folder / "by1", *SHORT, *BARE)
    assert alone.returncode == 0, alone.stderr
    two, one = (rows(folder / f"by{processes}") for processes in (2, 1))
    for step in (1, 2, 3):
        assert one[step]["loss"] == pytest.approx(two[step]["loss"], rel=1e-5)
    assert one[1]["gradient_norm"] == pytest.approx(two[1]["gradient_norm"], rel=1e-5)
    written = {path.name for path in (folder / "by2").iterdir()}
    assert {"eval.json", "evaluation.html", "card.json", "sheet.png", "export", "metrics.jsonl", "vocab.txt"} <= written
    assert len(list((folder / "by2" / "tensorboard").iterdir())) == 1, "one process writes"
    assert not list((folder / "by2").rglob("*.partial*"))


def test_processes_of_different_configs_end_at_once(config, folder):
    code = (
        "import os, sys\n"
        "from align_jax import main\n"
        "sys.argv.append('--config.seed=' + os.environ['JAX_PROCESS_ID'])\n"
        "from absl import flags\n"
        "main.main_of(main.main)\n"
    )
    environment = os.environ | {"XDG_CACHE_HOME": str(folder)}
    command = ["bash", "launch/local_cluster.sh", f"--port={free_port()}", "2", "1", sys.executable, "-c", code]
    done = subprocess.run(
        [*command, f"--config={config}", f"--workdir={folder / 'odd'}"],
        cwd=shapes_run.ROOT, env=environment, capture_output=True, text=True, timeout=120,
    )  # fmt: skip
    assert done.returncode == 2
    lines = sorted(done.stderr.splitlines())
    assert len(lines) == 2, done.stderr
    assert all("has config.seed 1, 1 of 2 have 0; start all" in line for line in lines)
    assert not (folder / "odd").exists(), "known before anything is written"


@contextmanager
def two(config, workdir):
    """Two processes of a run that would be long, once their first checkpoint stands."""
    address = f"127.0.0.1:{free_port()}"
    command = [sys.executable, "-m", "align_jax.main", f"--config={config}", f"--workdir={workdir}", *BARE]
    command += ["--config.batch_size=16", "--config.steps=100000", "--config.checkpoint.every=10"]
    processes = [
        subprocess.Popen(
            command, cwd=shapes_run.ROOT, stderr=subprocess.PIPE, text=True,
            env=shapes_run.environment(
                JAX_NUM_CPU_DEVICES="1", JAX_COORDINATOR_ADDRESS=address, JAX_NUM_PROCESSES="2",
                JAX_PROCESS_ID=str(process),
            ),
        )
        for process in (0, 1)
    ]  # fmt: skip
    try:
        while not list(workdir.glob("checkpoints/10/_CHECKPOINT_METADATA")):
            assert all(process.poll() is None for process in processes), processes[0].communicate()[1]
            time.sleep(0.2)
        yield processes
    finally:
        for process in processes:
            process.kill()
            process.communicate()


def test_a_process_that_dies_ends_the_others(config, folder):
    """Whoever is left says so, and the checkpoints that stand are whole."""
    with two(config, folder / "dies") as processes:
        processes[1].kill()
        _, heard = processes[0].communicate(timeout=120)
    assert processes[0].returncode == 1, heard
    last = heard.splitlines()[-1]
    assert (
        last.startswith("error: process 0 of 2 ended by the error above")
        and "start all again, they go on from the last checkpoint" in last
    )


def test_a_process_that_is_told_to_stop_stops_all_at_one_step(config, folder):
    with two(config, folder / "told") as processes:
        processes[1].send_signal(signal.SIGTERM)
        _, heard = processes[0].communicate(timeout=120)
        assert [process.wait(60) for process in processes] == [PREEMPTED, PREEMPTED], heard
    saved = max(int(path.name) for path in (folder / "told" / "checkpoints").iterdir() if path.name.isdigit())
    assert f"told to stop; saved at step {saved}, start again to go on" in heard
