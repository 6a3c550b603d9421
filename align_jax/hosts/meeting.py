"""The pre-flight: all processes meet at process 0 and compare what must be the same, before any of them computes.

A line of JSON each way over TCP, at the port that the runtime takes over afterwards. The runtime has a meeting of its
own, but it ends a process with a stack trace where a host is missing, and compares nothing.
"""

import json
import socket
import time
from collections import Counter
from collections.abc import Mapping
from contextlib import ExitStack
from typing import Any

from align_jax.hosts.place import Place
from align_jax.types import AlignError

LONGEST = 2**20  # bytes of a report
PATIENCE = 10.0  # seconds for a line that has begun; between two attempts, RETRY
RETRY = 0.2
NAMED = 3  # differences that the message names

Report = dict[str, Any]  # {"process": int, "host": str, "facts": {name: value}}


def meet(place: Place, facts: Mapping[str, Any], *, seconds: float) -> list[str]:
    """The hosts of all processes, once all have come with the same `facts` (JSON values).

    AlignError, on every process that came, where after `seconds` one is missing, or one differs: it names them.
    """
    own = {"process": place.process, "host": socket.gethostname(), "facts": {"processes": place.processes, **facts}}
    reply = _lead(place, own, seconds) if place.process == 0 else _follow(place, own, seconds)
    if reply["error"]:
        raise AlignError(reply["error"])
    return reply["hosts"]


def _lead(place: Place, own: Report, seconds: float) -> Report:
    deadline = time.monotonic() + seconds
    reports = [own]
    with ExitStack() as stack:
        port = int(place.address.rpartition(":")[2])
        try:
            server = stack.enter_context(socket.create_server(("", port), backlog=place.processes))
        except OSError as error:
            raise AlignError(f"process 0 cannot listen at {place.address}: {error}; give it another port") from error
        connections = []
        while len(reports) < place.processes and (left := deadline - time.monotonic()) > 0:
            server.settimeout(left)
            try:
                connection = stack.enter_context(server.accept()[0])
                connection.settimeout(PATIENCE)
                reports.append(_receive(connection))
            except (OSError, ValueError, KeyError):  # nobody in time, or somebody else: a port scan
                continue
            connections.append(connection)
        reports.sort(key=lambda report: report["process"])
        reply = {"error": verdict(reports, place.processes, seconds), "hosts": [report["host"] for report in reports]}
        for connection in connections:
            try:
                _send(connection, reply)
                connection.recv(1)  # the other side closes first, so that the port is free at once
            except OSError:  # it has gone; the others should hear all the same
                continue
    return reply


def _follow(place: Place, own: Report, seconds: float) -> Report:
    deadline = time.monotonic() + seconds
    host, _, port = place.address.rpartition(":")
    reason = "no answer"
    while (left := deadline - time.monotonic()) > 0:
        try:
            with socket.create_connection((host, int(port)), timeout=left) as connection:
                _send(connection, own)
                connection.settimeout(seconds + PATIENCE)  # process 0 may have begun to wait later
                return _receive(connection)
        except (OSError, ValueError, KeyError) as error:
            reason = str(error)
            time.sleep(RETRY)
    raise AlignError(
        f"process {place.process} waited {seconds:g} s for process 0 at {place.address} ({reason}); is it running?"
    )


def _send(connection: socket.socket, value: Report) -> None:
    connection.sendall(json.dumps(value).encode() + b"\n")


def _receive(connection: socket.socket) -> Report:
    with connection.makefile("rb") as file:
        found = json.loads(file.readline(LONGEST))
    if not isinstance(found, dict) or not ({"process", "host", "facts"} <= set(found) or "hosts" in found):
        raise ValueError("not one of ours")
    return found


def verdict(reports: list[Report], count: int, seconds: float) -> str:
    """What is wrong with what the processes brought, in one line; "" for nothing."""
    here = Counter(report["process"] for report in reports)
    for process, times in here.items():
        if times > 1:
            hosts = " and ".join(report["host"] for report in reports if report["process"] == process)
            return f"process {process} came {times} times, from {hosts}; give each process a number of its own"
    names = sorted({name for report in reports for name in report["facts"]}, key=lambda name: ("." in name, name))
    found = []
    for name in names:
        values = [json.dumps(report["facts"].get(name)) for report in reports]
        usual, times = Counter(values).most_common(1)[0]  # of two equally frequent, the first: that of process 0
        found += [
            f"process {report['process']} ({report['host']}) has {name} {value}, {times} of {len(reports)} have {usual}"
            for report, value in zip(reports, values, strict=True)
            if value != usual
        ]
    if found:
        more = f"; and {len(found) - NAMED} more" if len(found) > NAMED else ""
        return f"{'; '.join(found[:NAMED])}{more}; start all with the same code, config and work directory"
    if missing := [str(process) for process in range(count) if process not in here]:
        came = ", ".join(f"{report['process']} on {report['host']}" for report in reports)
        return f"waited {seconds:g} s for process {', '.join(missing)} of {count}; here are {came}"
    return ""
