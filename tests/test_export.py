"""Exports in every format, from the same small model, opened as their users open them."""

import json

import align_files
import jax
import numpy as np
import pytest
from PIL import Image
from safetensors.numpy import load_file

import align_jax
from align_jax import compact, exporting, loading, paths
from align_jax.data import preprocessing
from align_jax.data.pixels import DEFAULT_PIXELS
from align_jax.export import export_as
from align_jax.exporting import check, npz, onnx, subject
from align_jax.exporting.subject import Subject
from align_jax.interop import own_folder
from align_jax.interop.source import open_pretrained, save_foreign
from align_jax.tasks import align, classify
from align_jax.types import AlignError

TEXTS = ["a red cat", "cat"]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A model of ours that Hugging Face can express too, at an odd size."""
    root = tmp_path_factory.mktemp("export")
    theirs = align_files.write(root / "theirs", align_files.model())
    save_foreign(own_folder.write(open_pretrained(theirs)), root / "ours")
    align_files.picture(root / "picture.png")
    return root / "ours"


@pytest.fixture(scope="module")
def rows(folder):
    """What the live model makes of a picture and of two texts: (images, texts)."""
    model = align_jax.load(folder)
    return model.embed_images([folder.parent / "picture.png"]), model.embed_texts(TEXTS)


@pytest.fixture(scope="module")
def fed(folder):
    """The same as a program takes them, made of preprocessing.json and vocab.txt alone: (image, ids, mask)."""
    pairs = loading.parts_of(folder).pairs
    told = preprocessing.described(pairs.preprocessing(), DEFAULT_PIXELS, applied=True)
    with Image.open(folder.parent / "picture.png") as opened:
        whole = opened.convert(told["colour"]).resize((told["resize"],) * 2, Image.Resampling.BILINEAR)
    edge = (told["resize"] - told["crop"]) // 2
    image = np.asarray(whole.crop((edge, edge, edge + told["crop"], edge + told["crop"])))[None]
    pieces = {piece: index for index, piece in enumerate((folder / told["tokenizer_file"]).read_text().split("\n"))}
    a, red, cat = pieces["a"], pieces["red"], pieces["cat"]
    ids = np.full((2, told["text_length"]), told["padding_id"], np.int32)
    for row, inner in enumerate(([a, red, cat], [cat])):
        found = [*told["first_ids"], *inner, *told["last_ids"]]
        ids[row, : len(found)] = found
    return image, ids, ids != told["padding_id"]


def exported(folder, out, format, **options):
    """(what was told, signature.json)."""
    told = list(export_as(format, folder, out=out, **options))
    assert (out / "vocab.txt").read_bytes() == (folder / "vocab.txt").read_bytes()
    assert not list(out.parent.glob(f"{out.name}.*")), "no partial folder is left"
    return told, json.loads((out / "signature.json").read_text())


def test_stablehlo(folder, tmp_path, rows, fed):
    told, signature = exported(folder, tmp_path / "out", "stablehlo")
    assert "embed_images: max abs error" in told[0] and "drawn pictures" in told[0] and len(told) == 3
    assert signature["platforms"] == ["cpu", "cuda", "tpu"] and signature["calling_convention_version"] >= 10
    assert signature["temperature"] == pytest.approx(align_files.TEMPERATURE)
    # As align_jax/exporting/stablehlo.py shows it, for one row and for two.
    found = {}
    for name in ("embed_images", "embed_texts"):
        with open(tmp_path / "out" / signature["functions"][name]["file"], "rb") as file:
            program = jax.export.deserialize(bytearray(file.read()))
        assert program.platforms == ("cpu", "cuda", "tpu")
        found[name] = jax.jit(program.call)
    image, ids, mask = fed
    np.testing.assert_allclose(found["embed_images"](image), rows[0], atol=2e-5)
    np.testing.assert_allclose(found["embed_texts"](ids, mask), rows[1], atol=2e-6)


def test_onnx(folder, tmp_path, rows, fed):
    import onnxruntime

    _, signature = exported(folder, tmp_path / "out", "onnx", weights="int8")
    assert (signature["opset"], signature["weights"], signature["measured"]) == (onnx.OPSET, "int8", [])
    assert 0.99 < signature["stored"]["embed_images"]["cosine"] < 1
    images, texts = (
        onnxruntime.InferenceSession(tmp_path / "out" / f"{name}.onnx", providers=["CPUExecutionProvider"])
        for name in ("embed_images", "embed_texts")
    )
    image, ids, mask = fed
    (found,) = images.run(None, {"image": image})
    np.testing.assert_allclose(found, rows[0], atol=0.05)  # int8
    (found,) = texts.run(None, {"text_ids": ids, "text_mask": mask})
    np.testing.assert_allclose(found, rows[1], atol=0.05)
    import onnx as library

    graph = library.load(tmp_path / "out" / "embed_images.onnx").graph
    assert sum(node.op_type == "Conv" for node in graph.node) == 12, "one for each of the tower's convolutions"
    assert {tensor.data_type for tensor in graph.initializer if len(tensor.dims) == 4} >= {library.TensorProto.INT8}


def test_hugging_face(folder, tmp_path, rows):
    told, signature = exported(folder, tmp_path / "out", "hf")
    assert signature["checked_by"] == "transformers" and len(told) == 3
    images, texts = align_files.embeddings(tmp_path / "out", folder.parent / "picture.png", TEXTS)
    np.testing.assert_allclose(images, rows[0], atol=1e-5)
    np.testing.assert_allclose(texts, rows[1], atol=1e-5)
    # Nothing was trained here: the card tells of the source, and the file is the one that was read, pooler and all.
    card = (tmp_path / "out" / "README.md").read_text()
    assert "source: theirs" in card and "Trained on" not in card
    there, here = (path / "model.safetensors" for path in (folder.parent / "theirs", tmp_path / "out"))
    before, after = load_file(there), load_file(here)
    assert {name: tensor.tobytes() for name, tensor in before.items()} == {
        name: tensor.tobytes() for name, tensor in after.items()
    }


@pytest.mark.parametrize("weights", compact.KINDS)
def test_numpy_and_ours_hold_the_same_weights(folder, tmp_path, rows, weights):
    options = {"weights": weights, "functions": ("embed_texts",)}
    told, _ = exported(folder, tmp_path / "arrays", "numpy", **options)
    assert any("nothing was measured" in line for line in told) == (weights != "float32")
    exported(folder, tmp_path / "ours", "align_jax", **options)
    assert (tmp_path / "ours" / own_folder.ORIGIN).read_bytes() == (folder / own_folder.ORIGIN).read_bytes()
    model = align_jax.load(tmp_path / "ours")
    with np.load(tmp_path / "arrays" / npz.FILE) as arrays:
        flat = {name: arrays[name] for name in arrays.files}
    for name, expected in paths.flatten({"params": model.params, "model_state": model.model_state}).items():
        array = flat.pop(name)
        assert (array.dtype == np.float32) == (weights == "float32" or expected.ndim < 2)
        if array.dtype == np.int8:
            array = array * flat.pop(name + compact.SCALE)
        elif array.dtype == np.uint16:
            array = (array.astype(np.uint32) << 16).view(np.float32)
        np.testing.assert_array_equal(array, expected)
    assert not flat
    atol = {"float32": 2e-6, "bfloat16": 0.02, "int8": 0.05}[weights]
    np.testing.assert_allclose(model.embed_texts(TEXTS), rows[1], atol=atol)


def test_the_loss_of_int8_is_measured(finished_run, tmp_path):
    told = list(export_as("align_jax", finished_run, out=tmp_path / "out", weights="int8", evals="pairs"))
    signature = json.loads((tmp_path / "out" / "signature.json").read_text())
    assert signature["check"]["on"] == "the training source" and signature["step"] == 12
    measured = {row["name"]: row for row in signature["measured"]}
    exact = {row["name"]: row["value"] for row in json.loads((finished_run / "eval.json").read_text())}
    assert len(measured) == 9 and "pairs/image_to_text/R@1" in measured
    for name, row in measured.items():
        assert row["exact"] == exact[name] and row["difference"] == row["stored"] - row["exact"]
        assert any(line.startswith(f"{name}: {exact[name]:.4f} exact") for line in told)


def test_int8_is_at_most_half_a_step_off():
    rng = np.random.default_rng(0)
    flat = {
        "params/conv/kernel": rng.standard_normal((3, 3, 1, 6)).astype(np.float32) * np.float32([1, 9, 1e-4, 3, 2, 0]),
        "params/table/embedding": rng.standard_normal((5, 7)).astype(np.float32),
        "params/norm/scale": rng.standard_normal(6).astype(np.float32),
    }
    stored = compact.pack(flat, "int8")
    assert stored["params/conv/kernel.scale"].shape == (1, 1, 1, 6), "an output channel has one"
    assert stored["params/table/embedding.scale"].shape == (5, 1), "a row has one"
    found = compact.unpack(stored, "int8")
    assert list(found) == list(flat) and all(array.dtype == np.float32 for array in found.values())
    for name in ("params/conv/kernel", "params/table/embedding"):
        half = stored[name + compact.SCALE] / 2
        assert (np.abs(found[name] - flat[name]) <= half * (1 + 1e-5)).all()
        assert np.abs(stored[name]).max() == 127
    np.testing.assert_array_equal(found["params/norm/scale"], flat["params/norm/scale"])
    with pytest.raises(AlignError, match=r"--weights=int8: expected parameters of float32, found a \(float16\)"):
        compact.pack({"a": np.zeros((2, 2), np.float16)}, "int8")


def test_what_is_tampered_with_is_not_there(folder, tmp_path, monkeypatch):
    def refused(format, damage, match):
        whole = exporting.FORMATS[format]

        def write(subject: Subject, partial):
            facts = whole.write(subject, partial)
            damage(partial)
            return facts

        monkeypatch.setitem(exporting.FORMATS, format, whole._replace(write=write))
        with pytest.raises(AlignError, match=match) as error:
            list(export_as(format, folder, out=tmp_path / "out"))
        assert "\n" not in str(error.value) and not list(tmp_path.iterdir())

    def other_kernel(partial):
        with np.load(partial / npz.FILE) as arrays:
            flat = {name: arrays[name] for name in arrays.files}
        flat["params/image_tower/stem_conv/kernel"] = flat["params/image_tower/stem_conv/kernel"].transpose(1, 0, 2, 3)
        np.savez(partial / npz.FILE, **flat)

    def cut(partial):
        path = partial / "embed_texts.stablehlo"
        path.write_bytes(path.read_bytes()[:1000])

    refused("numpy", other_kernel, "the check of embed_images: expected at most 0.0001 .* found max abs error .*; noth")
    refused("stablehlo", cut, "embed_texts.stablehlo: expected a program of jax.export, found none")


@pytest.mark.parametrize(
    ("options", "match"),
    [
        ({"format": "hf", "weights": "int8"}, "--weights: format hf stores float32, found int8"),
        ({"format": "stablehlo", "platforms": ("tpu",)}, "--platforms: expected cpu among them, .* found .'tpu',"),
        ({"format": "numpy", "functions": ("embed_image",)}, "no 'embed_image'; did you mean 'embed_images'"),
        ({"format": "numpy", "evals": "held_out"}, "--evals: found no evaluator 'held_out'"),
    ],
)
def test_a_mistake_is_one_line(folder, tmp_path, options, match):
    with pytest.raises(AlignError, match=match) as error:
        list(export_as(workdir=folder, out=tmp_path / "out", **options))
    assert "\n" not in str(error.value) and not list(tmp_path.iterdir())


def test_without_onnx(folder, tmp_path, monkeypatch):
    monkeypatch.setattr(onnx, "PACKAGES", ("onnx", "no_such_package"))
    with pytest.raises(AlignError, match=r"expected the packages .*, found no no_such_package; pip install -e"):
        list(export_as("onnx", folder, out=tmp_path / "out"))
    assert not list(tmp_path.iterdir())


def test_what_stands_there_is_replaced_only_by_force(folder, tmp_path):
    out = tmp_path / "out"
    options = {"out": out, "functions": ("embed_texts",)}
    out.mkdir()
    (out / "thesis.txt").write_text("mine")
    with pytest.raises(AlignError, match=r"expected a folder that does not exist yet, found one; --force replaces it"):
        list(export_as("numpy", folder, **options))
    with pytest.raises(AlignError, match=r"expected a folder with signature.json to replace, found none"):
        list(export_as("numpy", folder, **options, force=True))
    (out / "signature.json").write_text("{}")
    list(export_as("numpy", folder, **options, force=True))
    assert sorted(path.name for path in out.iterdir()) == [
        "preprocessing.json", "signature.json", "vocab.txt", "weights.npz",
    ]  # fmt: skip
    assert list(json.loads((out / "signature.json").read_text())["functions"]) == ["embed_texts"]


def test_the_check_is_of_a_sound_size():
    same = np.eye(3, 4, dtype=np.float32)
    turned = same.copy()
    turned[0, 1] = 0.1
    assert check.compare(turned, same).error == pytest.approx(0.1)
    assert check.compare(turned, same).cosine == pytest.approx(1 / np.hypot(1, 0.1))
    with pytest.raises(AlignError, match=r"expected rows of shape \(3, 4\), found \(2, 4\)"):
        check.compare(same[:2], same)


def test_what_is_exported_unless_others_are_named():
    assert subject.default(align.tiny().functions()) == ("embed_images", "embed_texts")
    assert subject.default(classify.tiny().functions()) == ("classify_images",)
