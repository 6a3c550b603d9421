"""The import rule of the house, read from the source: rooms know only those below them."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parent.parent / "align_jax"
FILES = sorted(PACKAGE.rglob("*.py"))

# Room -> what it may import of ours: modules of the package root, or whole rooms. A room may import itself.
LOW = {"types", "config"}
MAY_IMPORT = {
    "types": set(),
    "config": {"types"},
    "paths": {"types"},
    "files": {"types"},
    "code": set(),
    "hosts": {"types", "code"},
    "cache": set(),
    "cli": {"types", "cache"},
    "weights": {"types", "paths"},
    "compact": {"types"},
    "card": LOW | {"weights", "files", "provenance", "reporting"},
    "compare": {"types", "card", "evals", "reporting"},
    "metrics": {"types", "files"},
    "split": {"types", "paths"},
    "sharding": {"types", "split"},
    "losses": {"types", "sharding"},
    "datasets": {"types"},
    "data": LOW | {"cache", "datasets"},
    "models": {"types", "sharding", "losses", "data"},
    "optim": {"types", "paths", "sharding"},
    "state": {"types", "paths", "split", "sharding", "optim"},
    "checkpoint": LOW | {"paths", "sharding", "optim", "state"},
    "provenance": {"types", "code", "data"},
    "tuning": {"types", "data"},
    "watch": {"types", "files", "metrics"},
    "train": {"types", "sharding", "state", "optim", "metrics", "checkpoint"},
    "towers": LOW | {"paths", "data", "models"},
    "cross_encoder": LOW | {"sharding", "data", "models", "towers"},
    "cross_encoder_task": {"types", "sharding", "models", "cross_encoder"},
    "tasks": LOW | {"paths", "sharding", "losses", "data", "models", "towers", "cross_encoder", "cross_encoder_task"},
    "evals": LOW | {"paths", "files", "sharding", "data", "datasets", "metrics", "provenance", "reporting", "weights"},
    "planning": LOW | {"cache", "code", "files", "metrics", "sharding", "tasks", "optim", "state", "train"},
    "interop": LOW | {"compact", "files", "paths", "data", "models", "towers"},
    "curation": LOW | {"data"},
    "reporting": set(),
    "region_files": LOW | {"data", "curation", "evals", "model"},
    "adapters": LOW | {"data", "inputs", "loading", "model"},
    "embeddings": LOW | {"files", "data", "evals", "provenance", "weights", "model"},
    "exporting": LOW | {"compact", "paths", "files", "sharding", "data", "models", "tasks", "provenance", "weights",
                        "interop", "run", "portable"},
    "searching": LOW | {"files", "sharding", "data", "evals", "reporting", "model", "embeddings"},
}  # fmt: skip


def room(module: str) -> str:
    """'data' of 'align_jax.data.images', 'types' of 'align_jax.types', '' of the package itself."""
    return [*module.split("."), ""][1]


def imports(path: Path, *, run_time_only: bool = False) -> set[str]:
    """Full names of all modules and members that a file imports, wherever in it."""
    tree = ast.parse(path.read_text("utf-8"))
    skipped = {
        id(node)
        for block in ast.walk(tree)
        if isinstance(block, ast.If) and ast.unparse(block.test) == "TYPE_CHECKING"
        for node in ast.walk(block)
    }
    found = set()
    for node in ast.walk(tree):
        if run_time_only and id(node) in skipped:
            continue
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        if isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: imports are absolute, so that this test can read them"
            found |= {f"{node.module}.{alias.name}" for alias in node.names}
    return found


def ours(path: Path) -> set[str]:
    """The rooms that a file imports."""
    return {room(name) for name in imports(path) if name.split(".")[0] == "align_jax"}


def name_of(path: Path) -> str:
    return ".".join(("align_jax", *path.relative_to(PACKAGE).with_suffix("").parts)).removesuffix(".__init__")


ROOMS = [path for path in FILES if room(name_of(path)) in MAY_IMPORT]


def test_every_room_has_a_rule():
    folders = {path.name for path in PACKAGE.iterdir() if (path / "__init__.py").exists()}
    assert folders <= set(MAY_IMPORT)
    assert {room(name_of(path)) for path in ROOMS} == set(MAY_IMPORT)


@pytest.mark.parametrize("path", ROOMS, ids=name_of)
def test_imports_go_one_way(path):
    own = room(name_of(path))
    assert ours(path) - {own} <= MAY_IMPORT[own], f"{own} imports a room above it"


def test_the_rule_has_no_cycle():
    open_rooms = dict(MAY_IMPORT)
    while ready := {name for name, below in open_rooms.items() if not below & set(open_rooms)}:
        for name in ready:
            del open_rooms[name]
    assert not open_rooms


@pytest.mark.parametrize("path", FILES, ids=name_of)
def test_libraries_stay_in_their_rooms(path):
    used = {name.split(".")[0] for name in imports(path, run_time_only=True)}
    own = room(name_of(path))
    assert "flax" not in used or own == "models"
    assert not used & {"lmdb", "msgpack"} or own == "region_files"
    assert "orbax" not in used or own == "checkpoint"
    assert "apache_beam" not in used or own == "curation"
    assert not used & {"onnx", "onnxruntime", "onnx_ir", "jax2onnx"} or own == "exporting"
    assert not used & {"faiss", "gradio", "gradio_client"} or own == "searching"
    no_jax = ("types", "config", "paths", "cache", "datasets", "data", "curation", "reporting", "")
    assert "jax" not in used or own not in no_jax
    assert not used & {"torch", "clip_benchmark", "sentence_transformers"} or own == "adapters"
    assert not used & {"configs", "tensorflow"}


@pytest.mark.parametrize("path", [path for path in FILES if path.name != "sharding.py"], ids=name_of)
def test_one_file_makes_meshes_and_specs(path):
    tree = ast.parse(path.read_text("utf-8"))
    made = {"PartitionSpec", "NamedSharding", "AbstractMesh", "make_mesh", "create_device_mesh", "shard_map"}
    assert not {name.split(".")[-1] for name in imports(path)} & (made | {"Mesh"})
    for node in ast.walk(tree):
        if isinstance(node, ast.Attribute) and ast.unparse(node.value) != "sharding":
            assert node.attr not in made, f"line {node.lineno}"
        if isinstance(node, ast.Call):  # as a type, `jax.sharding.Mesh` may be named anywhere
            assert ast.unparse(node.func) not in ("Mesh", "jax.sharding.Mesh"), f"line {node.lineno}"


@pytest.mark.parametrize("path", FILES, ids=name_of)
def test_no_private_names_of_others(path):
    """No `jax._src`, no `module._name`: what is private may be gone in the next version."""
    private = {name for name in imports(path) if any(part.startswith("_") for part in name.split(".")[:-1])}
    private |= {name for name in imports(path) if name.split(".")[-1].startswith("_")}
    assert not private - {"__future__.annotations"}
    modules = {name.split(".")[-1] for name in imports(path)} | {name.split(".")[0] for name in imports(path)}
    for node in ast.walk(ast.parse(path.read_text("utf-8"))):
        if isinstance(node, ast.Attribute) and node.attr.startswith("_") and not node.attr.startswith("__"):
            name = ast.unparse(node)  # os._exit is public in spite of its name
            assert name == "os._exit" or name.split(".")[0] not in modules, f"line {node.lineno}: {name}"


def test_data_needs_no_jax():
    """Nor does `import align_jax`: readers re-import both. Grain looks for jax by itself, and does without it."""
    rooms = ("datasets", "data", "types", "config", "cache")
    modules = ["align_jax", *(name_of(path) for path in FILES if room(name_of(path)) in rooms)]
    grain = ["align_jax.data.order", "align_jax.data.pipeline"]
    code = f"""
import importlib, sys
for name in {[name for name in modules if name not in grain]}:
    importlib.import_module(name)
    assert "jax" not in sys.modules, name + " loads jax"
sys.modules["jax"] = None  # importing it is an error from here on
for name in {grain}:
    importlib.import_module(name)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
