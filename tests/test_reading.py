"""Files of weights as safetensors and torch write them, and those that are damaged or hold code."""

import json
import os
import struct
import zipfile
from collections import OrderedDict

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from align_jax.interop.reading import tensors_of, weights_in
from align_jax.types import AlignError

BASE = torch.arange(24.0).reshape(4, 6)
STATE = OrderedDict(
    whole=BASE,
    turned=BASE.T,
    inner=BASE[1:3, 2:5],
    tied=BASE,
    halves=torch.tensor([0.5, -1.25], dtype=torch.float16),
    brain=torch.tensor([0.5, -1.25, 3e38], dtype=torch.bfloat16),
    scalar=torch.tensor(7.0),
    count=torch.tensor(3),
    none=torch.zeros(0, 3),
    parameter=torch.nn.Parameter(torch.ones(2, 2)),
)


def check(found, expected=STATE):
    assert list(found) == list(expected) and len(found) == len(expected)
    for name, tensor in expected.items():
        assert found[name].dtype.name == str(tensor.dtype).removeprefix("torch."), name
        np.testing.assert_array_equal(found[name].astype(np.float64), tensor.detach().double().numpy(), name)


@pytest.fixture(params=[True, False], ids=["zip", "stream"])
def save(request, tmp_path):
    """torch.save in either format."""

    def saved(content, name="weights.pth"):
        torch.save(content, tmp_path / name, _use_new_zipfile_serialization=request.param)
        return tmp_path / name

    return saved


def test_torch_files_give_what_torch_saved(save):
    found = tensors_of(save(STATE))
    check(found)
    assert found.note == "" and not found["inner"].flags.writeable
    layer = torch.nn.BatchNorm1d(3)  # whose state carries `_metadata`
    check(tensors_of(save(layer.state_dict(), "layer.bin")), layer.state_dict())


@pytest.mark.parametrize("key", ["state_dict", "model"])
def test_a_checkpoint_of_training_is_unwrapped(save, key):
    found = tensors_of(save({"epoch": 3, key: STATE, "optimizer": {"lr": 0.1}}, "last.pt"))
    check(found)
    assert found.note == f"weights below {key!r}, without epoch, optimizer"


class Writes:
    """Whose pickle, run, would make a folder."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return (os.mkdir, (str(self.path),))


def test_a_pickle_runs_nothing(save, tmp_path):
    trace = tmp_path / "trace"
    for content in ({"a": BASE, "b": Writes(trace)}, {"state_dict": STATE, "args": Writes(trace)}):
        with pytest.raises(AlignError, match=r"expected tensors alone, found posix.mkdir, which is not run; save the"):
            tensors_of(save(content))
        assert not trace.exists()
        torch.load(tmp_path / "weights.pth", weights_only=False)
        trace.rmdir()  # which shows that it would have been there
    with pytest.raises(AlignError, match=r"found torch.nn.modules.linear.Linear, which"):
        tensors_of(save(torch.nn.Linear(2, 2)))


@pytest.mark.parametrize("state", [b"}X\x05\0\0\0buildK\x01s", b"N}X\x05\0\0\0buildK\x01s\x86"], ids=["dict", "slots"])
def test_a_pickle_changes_nothing(tmp_path, state):
    """One that gives a function of ours another state."""
    with zipfile.ZipFile(tmp_path / "a.pth", "w") as archive:
        archive.writestr("a/data.pkl", b"\x80\x02ctorch._utils\n_rebuild_parameter\n" + state + b"b.")
    with pytest.raises(AlignError, match="damaged"):
        tensors_of(tmp_path / "a.pth")
    torch.save(STATE, tmp_path / "b.pth")
    check(tensors_of(tmp_path / "b.pth"))


def test_torch_files_that_hold_no_state_are_refused(save):
    for content, found in (
        ([BASE], "found list"),
        ({"a": {"b": BASE}}, "found 'a' to be dict"),
        ({1: BASE}, "found 1"),
    ):
        with pytest.raises(AlignError, match=rf"expected tensors by name, {found}.*save a state_dict"):
            tensors_of(save(content))


def test_a_cut_torch_file_is_damaged(save, tmp_path):
    whole = save(STATE).read_bytes()
    for cut in (0, 1, 20, 200, len(whole) // 2, len(whole) - 30):
        path = tmp_path / "cut.bin"
        path.write_bytes(whole[:cut])
        with pytest.raises(AlignError, match=r"cut.bin: expected a file of torch.save, found a damaged one .*; fetch"):
            dict(tensors_of(path))


def test_a_torch_file_with_other_numbers_inside_is_damaged(tmp_path):
    """Whatever bytes are changed: a line, or the tensors, and never another error."""
    torch.save(STATE, tmp_path / "a.pth", _use_new_zipfile_serialization=False)
    whole, rng, refused = (tmp_path / "a.pth").read_bytes(), np.random.default_rng(0), 0
    for _ in range(300):
        changed = bytearray(whole)
        changed[rng.integers(len(whole))] = rng.integers(256)
        (tmp_path / "b.pth").write_bytes(changed)
        try:
            dict(tensors_of(tmp_path / "b.pth"))
        except AlignError as error:
            refused += 1
            assert "\n" not in str(error)
    assert 50 < refused < 300


def test_storages_that_do_not_fit_are_damaged(tmp_path):
    torch.save({"a": torch.arange(8.0)}, tmp_path / "a.pth")
    with zipfile.ZipFile(tmp_path / "a.pth") as old, zipfile.ZipFile(tmp_path / "b.pth", "w") as new:
        for name in old.namelist():
            new.writestr(name, old.read(name)[:8] if name.endswith("data/0") else old.read(name))
    with pytest.raises(AlignError, match=r"storage 0 has 8 bytes for 8 numbers"):
        tensors_of(tmp_path / "b.pth")["a"]
    with zipfile.ZipFile(tmp_path / "a.pth") as old, zipfile.ZipFile(tmp_path / "c.pth", "w") as new:
        for name in old.namelist():  # 8 numbers of the storage, 200 of the tensor
            data = old.read(name)
            new.writestr(name, data.replace(b"K\x08\x85", b"K\xc8\x85", 1) if name.endswith("data.pkl") else data)
    with pytest.raises(AlignError, match=r"tensor a leaves its storage"):
        tensors_of(tmp_path / "c.pth")["a"]


def test_safetensors_give_what_was_saved(tmp_path):
    state = {name: tensor.detach().clone().contiguous() for name, tensor in STATE.items()}
    save_file(state, tmp_path / "a.safetensors")
    found = tensors_of(tmp_path / "a.safetensors")
    check(found, {name: state[name] for name in found})
    assert set(found) == set(state)


def tampered(path, header, data=bytes(16)):
    text = json.dumps(header).encode()
    path.write_bytes(struct.pack("<Q", len(text)) + text + data)
    return path


@pytest.mark.parametrize(
    "header",
    [
        {"a": {"dtype": "F32", "shape": [8], "data_offsets": [0, 32]}},
        {"a": {"dtype": "F32", "shape": [2], "data_offsets": [0, 8]}},
        {"a": {"dtype": "F16", "shape": [4], "data_offsets": [0, 16]}},
        {"a": {"dtype": "Q7", "shape": [4], "data_offsets": [0, 16]}},
        {"a": {"dtype": "F32", "shape": [4], "data_offsets": [0, 16]},
         "b": {"dtype": "F32", "shape": [4], "data_offsets": [0, 16]}},
    ],
    ids=["beyond the file", "a gap", "another length", "no such kind", "overlap"],
)  # fmt: skip
def test_tampered_safetensors_are_refused(tmp_path, header):
    with pytest.raises(AlignError, match=r"a.safetensors: expected a whole file, found a damaged one \(.*\); fetch it"):
        tensors_of(tampered(tmp_path / "a.safetensors", header))


def test_cut_safetensors_are_refused(tmp_path):
    header = {"a": {"dtype": "F32", "shape": [4], "data_offsets": [0, 16]}}
    whole = tampered(tmp_path / "a.safetensors", header).read_bytes()
    for content in (b"", whole[:5], whole[:30], whole[:-3], struct.pack("<Q", 1 << 60) + whole[8:]):
        (tmp_path / "a.safetensors").write_bytes(content)
        with pytest.raises(AlignError, match="damaged"):
            tensors_of(tmp_path / "a.safetensors")
    odd = tampered(tmp_path / "b.safetensors", {"a": {"dtype": "F8_E4M3", "shape": [16], "data_offsets": [0, 16]}})
    with pytest.raises(AlignError, match="tensor a: expected numbers that numpy has, found F8_E4M3"):
        tensors_of(odd)["a"]


@pytest.fixture
def shards(tmp_path):
    for number, names in enumerate((("a", "b"), ("c",))):
        save_file({name: torch.full((2,), ord(name) * 1.0) for name in names}, tmp_path / f"model-{number}.safetensors")
    places = {"a": "model-0.safetensors", "b": "model-0.safetensors", "c": "model-1.safetensors"}
    return tmp_path / "model.safetensors.index.json", places


def test_shards_are_one(shards):
    index, places = shards
    index.write_text(json.dumps({"metadata": {"total_size": 24}, "weight_map": places}))
    found = tensors_of(weights_in(index.parent))
    assert {name: found[name].tolist() for name in found} == {"a": [97, 97], "b": [98, 98], "c": [99, 99]}


@pytest.mark.parametrize(
    "change, told",
    [
        ({"d": "model-1.safetensors"}, r"tensor d: expected it where the index says, found none in model-1"),
        ({"c": "model-0.safetensors"}, r"tensor c: expected it where the index says, found none in model-0"),
        ({"b": "model-1.safetensors"}, r"tensor b: expected it where the index says, found it in model-0"),
        ({"d": "model-2.safetensors"}, r"expected a file of weights, found no .*model-2"),
        ({"d": "../secret.safetensors"}, r"expected names of files beside the index, found '../secret.safetensors'"),
        ({"d": 3}, r"expected a weight_map of tensors to files"),
    ],
)
def test_an_index_that_does_not_fit_is_refused(shards, change, told):
    index, places = shards
    index.write_text(json.dumps({"weight_map": places | change}))
    with pytest.raises(AlignError, match=told):
        tensors_of(index)


def test_files_that_are_no_weights_are_refused(tmp_path):
    (tmp_path / "a.ckpt").write_bytes(b"")
    (tmp_path / "a.bin").write_text("version https://git-lfs.github.com/spec/v1\n")
    (tmp_path / "b.index.json").write_text("[1]")
    with pytest.raises(AlignError, match=r"expected a file of weights \(.safetensors, .bin.*\), found .ckpt"):
        tensors_of(tmp_path / "a.ckpt")
    with pytest.raises(AlignError, match="damaged"):
        tensors_of(tmp_path / "a.bin")
    with pytest.raises(AlignError, match="expected a JSON object, found list"):
        tensors_of(tmp_path / "b.index.json")
    with pytest.raises(AlignError, match=r"expected one of model.safetensors, .*, found none"):
        weights_in(tmp_path)
