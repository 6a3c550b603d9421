"""What a compiled program sends between devices, read from its optimised HLO text."""

import re
from collections.abc import Iterator
from typing import NamedTuple

KINDS = ("all-reduce", "all-gather", "reduce-scatter", "all-to-all", "collective-permute")
BYTES = {"pred": 1, "s8": 1, "u8": 1, "bf16": 2, "f16": 2, "s16": 2, "u16": 2, "f32": 4, "s32": 4, "u32": 4, "f64": 8,
         "s64": 8, "u64": 8}  # fmt: skip

_COMPUTATION = re.compile(r"^(ENTRY )?%?([\w.-]+) .*\{$")
# "%name = f32[8]{0} all-reduce(...)", or with a tuple of types before the operation.
_INSTRUCTION = re.compile(r"^ +(?:ROOT )?%?[\w.-]+ = (\(.*?\)|\S+) ([\w-]+)\((.*)$")
_TYPE = re.compile(r"(\w+)\[([\d,]*)\]")
_TRIPS = re.compile(r'known_trip_count"?:\{"?n"?:"?(\d+)')
_CONDITION = re.compile(r"condition=%?([\w.-]+)")
_CALLS = re.compile(r"(?:body|condition|calls|to_apply)=%?([\w.-]+)|branch_computations=\{([^}]*)\}")
_CHAIN = re.compile(r'chain_id"?[=:]"?(\d+)')


class Traffic(NamedTuple):
    """Of one kind, per device and step."""

    sites: int  # places in the program
    executions: int  # sites times the trips of the loops around them
    bytes: int  # of results, times trips


def read(hlo: str) -> dict[str, Traffic]:
    """Kind -> traffic. Of an asynchronous pair the start counts; what XLA copied into several fusions counts once."""
    computations: dict[str, list[re.Match[str]]] = {}
    entry, lines = "", list[re.Match[str]]()
    for line in hlo.splitlines():
        if match := _COMPUTATION.match(line):
            lines = computations.setdefault(match[2], [])
            entry = match[2] if match[1] else entry
        elif match := _INSTRUCTION.match(line):
            lines.append(match)
    found: dict[str, Traffic] = {}
    chains: set[str] = set()
    for kind, size, trips, chain in _walk(computations, entry, 1):
        if chain in chains:
            continue
        if chain:
            chains.add(chain)
        sites, executions, total = found.get(kind, Traffic(0, 0, 0))
        found[kind] = Traffic(sites + 1, executions + trips, total + size * trips)
    return found


def _walk(computations: dict[str, list[re.Match[str]]], name: str, trips: int) -> Iterator[tuple[str, int, int, str]]:
    """(kind, bytes, trips, chain or '') of each collective below a computation that runs `trips` times."""
    for result, operation, rest in (match.groups() for match in computations[name]):
        kind = operation.removesuffix("-start")
        if kind in KINDS:
            chain = _CHAIN.search(rest)
            yield kind, _size(result, operation), trips, chain[1] if chain else ""
        elif operation in ("while", "fusion", "call", "conditional", "async-start"):
            inner = trips * _turns(computations, rest) if operation == "while" else trips
            for called in (name for names in _CALLS.findall(rest) for name in ", ".join(names).split(", ")):
                if (one := called.strip("% ")) in computations:
                    yield from _walk(computations, one, inner)


def _turns(computations: dict[str, list[re.Match[str]]], rest: str) -> int:
    """Of a while loop: as the compiler notes, or the one bound that its condition compares with; 1 if unknown."""
    if known := _TRIPS.search(rest):
        return int(known[1])
    named = _CONDITION.search(rest)
    condition = computations.get(named[1], []) if named else []
    bounds = [line[3] for line in condition if line[2] == "constant" and line[1].startswith("s32[]")]
    below = any(line[2] == "compare" and "direction=LT" in line[3] for line in condition)
    return int(bounds[0].partition(")")[0]) if below and len(bounds) == 1 else 1


def _size(result: str, operation: str) -> int:
    """Bytes of the result. The start of an asynchronous pair returns its operands too: the second half counts."""
    sizes = [BYTES[dtype] * _product(dims) for dtype, dims in _TYPE.findall(result) if dims]
    if operation.endswith("-start") and operation != "all-reduce-start":
        return sum(sizes[len(sizes) // 2 :])
    return sum(sizes)


def _product(dims: str) -> int:
    total = 1
    for side in dims.split(","):
        total *= int(side)
    return total
