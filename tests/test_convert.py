"""ALIGN to and from Hugging Face: the same embeddings of the same files and texts, the same bits back, and refusals."""

import dataclasses
import http.server
import json
import os
import subprocess
import sys
import threading

import align_files
import numpy as np
import pytest
import shapes_run
import torch
import transformers
from align_files import CROP, TEXTS
from PIL import Image
from safetensors.numpy import load_file, save_file

import align_jax
from align_jax import paths
from align_jax.card import escaped
from align_jax.convert import convert
from align_jax.data.views import Resized
from align_jax.evaluate import evaluate_checkpoint
from align_jax.interop import model_card, own_folder
from align_jax.interop.source import huggingface_of, open_pretrained, save_foreign
from align_jax.portable import opened
from align_jax.types import AlignError


@pytest.fixture(scope="module")
def theirs(tmp_path_factory):
    """A folder of transformers."""
    return align_files.write(tmp_path_factory.mktemp("theirs") / "align", align_files.model())


@pytest.fixture(scope="module")
def ours(theirs):
    """The same, converted."""
    told = list(convert(str(theirs), theirs.parent / "ours"))
    assert "used" in told[0] and "read again, and the same bit by bit" in told[-1]
    assert any("text_model.pooler.dense.bias" in line and "tanh pooler" in line for line in told)
    return theirs.parent / "ours"


@pytest.fixture(scope="module")
def picture(theirs):
    return align_files.picture(theirs.parent / "picture.jpg")


def check_equal(found, expected):
    """Unit rows whose cosine is above 0.99999."""
    for mine, peer in zip(found, expected, strict=True):
        assert mine.shape == peer.shape and mine.dtype == np.float32
        np.testing.assert_allclose(np.linalg.norm(peer, axis=1), 1, atol=1e-5)
        assert (mine * peer).sum(1).min() > 0.99999
        assert np.ptp(mine, axis=0).max() > 0.01 or len(mine) == 1, "all rows alike would agree too"


def test_their_model_is_ours(theirs, ours, picture):
    model = align_jax.load(ours)
    found = model.embed_images([picture]), model.embed_texts(TEXTS)
    check_equal(found, align_files.embeddings(theirs, picture, TEXTS))
    config = json.loads((ours / "config.json").read_text())
    assert config["data"]["crop"] == CROP and config["data"]["text_length"] == 64 and config["task"]["pixels"]


def test_pictures_are_prepared_to_the_bit_as_theirs(theirs, ours, picture):
    data = open_pretrained(ours).data
    view = Resized(resize=data["resize"], crop=data["crop"], resample=data["resample"], flip=False)
    with Image.open(picture) as opened:
        expected = transformers.AutoProcessor.from_pretrained(theirs)(images=[opened], return_tensors="np")
    levels = (expected["pixel_values"][0].transpose(1, 2, 0) + 1) * 127.5
    np.testing.assert_allclose(view.evaluate(str(picture)), levels, atol=1e-3)


def test_there_and_back_is_bit_equal(theirs, ours, tmp_path):
    list(convert(str(ours), tmp_path / "again", to="huggingface"))
    before, after = (load_file(folder / "model.safetensors") for folder in (theirs, tmp_path / "again"))
    assert before.keys() == after.keys() and "temperature" in before
    for name, tensor in before.items():
        assert (tensor.dtype, tensor.shape) == (after[name].dtype, after[name].shape)
        assert tensor.tobytes() == after[name].tobytes(), name
    assert (tmp_path / "again" / "README.md").read_text().startswith("---\nlicense: unknown\n")


@pytest.fixture(scope="module")
def trained(ours):
    """As after training: other weights, a temperature that nobody wrote, and no pooler."""
    model, rng = open_pretrained(ours), np.random.default_rng(0)
    params = {**model.params, "log_temperature": np.float32(-2.3456)}
    bias = params["text_projection"]["bias"]
    params["text_projection"] = {**params["text_projection"], "bias": bias + rng.normal(size=bias.shape).astype("f4")}
    changed = dataclasses.replace(model, params=params, kept={}, facts={"license": "cc-by-4.0", "data": "Cats."})
    save_foreign(own_folder.write(changed), ours.parent / "trained")
    return ours.parent / "trained"


@pytest.mark.parametrize("crop", [CROP, 32])
def test_our_model_is_theirs(trained, picture, tmp_path, crop):
    source, out = trained, tmp_path / "out"
    if crop != CROP:  # other pictures, and padding `same`, which at even sides is Hugging Face's
        config = json.loads((trained / "config.json").read_text())
        config["data"] |= {"resize": 32, "crop": crop, "text_length": 9}
        config["task"]["image"]["padding"] = "same"
        source = tmp_path / "even"
        save_foreign(own_folder.write(open_pretrained(trained)), source)
        (source / "config.json").write_text(json.dumps(config))
    list(convert(str(source), out, to="huggingface"))
    model = align_jax.load(source)
    found = model.embed_images([picture]), model.embed_texts(TEXTS)
    check_equal(found, align_files.embeddings(out, picture, TEXTS))
    temperature = load_file(out / "model.safetensors")["temperature"]
    np.testing.assert_allclose(temperature, np.exp(-2.3456), rtol=1e-6)
    _, report = transformers.AlignModel.from_pretrained(out, output_loading_info=True)
    assert not any(report.values()), report
    assert "license: cc-by-4.0" in (out / "README.md").read_text()


def test_load_takes_their_folder(theirs, ours, picture, tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    model = align_jax.load(theirs)
    np.testing.assert_array_equal(model.embed_images([picture]), align_jax.load(ours).embed_images([picture]))
    with pytest.raises(AlignError, match="--out: expected a folder for what is found of"):
        evaluate_checkpoint(theirs)
    (kept,) = (tmp_path / "align_jax" / "converted").iterdir()
    before = kept.stat().st_mtime_ns
    align_jax.load(theirs)
    assert [folder.stat().st_mtime_ns for folder in kept.parent.iterdir()] == [before]


@pytest.mark.parametrize("zipped", [True, False])
def test_torch_files_are_read(theirs, ours, tmp_path, zipped):
    folder = copied(theirs, tmp_path, "model.safetensors")
    state = {name: torch.tensor(tensor) for name, tensor in load_file(theirs / "model.safetensors").items()}
    content = state if zipped else {"state_dict": state, "epoch": 1}
    torch.save(content, folder / "pytorch_model.bin", _use_new_zipfile_serialization=zipped)
    assert zipped or open_pretrained(folder).facts["file"] == "weights below 'state_dict', without epoch"
    for source in (folder, folder / "pytorch_model.bin"):
        found, expected = (own_folder.write(open_pretrained(path)).tensors for path in (source, ours))
        assert found.keys() == expected.keys()
        assert all(found[name].tobytes() == expected[name].tobytes() for name in found)


def test_halves_are_read_as_they_are(theirs, tmp_path):
    folder = copied(theirs, tmp_path, "model.safetensors")
    state = {name: torch.tensor(tensor) for name, tensor in load_file(theirs / "model.safetensors").items()}
    halves = {name: tensor.bfloat16() if tensor.is_floating_point() else tensor for name, tensor in state.items()}
    torch.save(halves, folder / "pytorch_model.bin")
    model = open_pretrained(folder)
    assert "bfloat16" in model.facts["precision"] and "float32 here" in model.facts["precision"]
    kernel = model.params["text_projection"]["kernel"]
    assert kernel.dtype == np.float32
    np.testing.assert_array_equal(kernel.T, halves["text_projection.weight"].float().numpy())


def copied(folder, target, *without):
    target = target / "copy"
    target.mkdir()
    for path in folder.iterdir():
        if path.name not in without:
            (target / path.name).write_bytes(path.read_bytes())
    return target


@pytest.mark.parametrize(
    "file, key, value, told",
    [
        ("config.json", "model_type", "clip", r"model_type: expected one of align, bert.*, found 'clip'"),
        ("config.json", "projection_dim", 48, r"projection_dim: expected the image tower's 40 features, found 48"),
        ("config.json", "text_config", "base", r"text_config: expected an object, found 'base'"),
        (
            "config.json",
            "text_config.vocab_size",
            "many",
            r"vocab_size: expected a whole number of at least 1, found 'm",
        ),
        ("config.json", "model_type", ["align"], r"model_type: expected one of align, bert.*, found \['align'\]"),
        ("config.json", "logit_bias", 0.5, r"expected no other attributes, found logit_bias=0.5"),
        ("config.json", "text_config.hidden_act", "relu", r"text_config: hidden_act: expected 'gelu'.*found 'relu'"),
        ("config.json", "text_config.moe", 8, r"text_config: expected no other attributes, found moe=8"),
        ("config.json", "vision_config.pooling_type", "max", r"pooling_type: expected 'mean', found 'max'"),
        (
            "config.json",
            "vision_config.attention",
            1,
            r"vision_config: expected no other attributes, found attention=1",
        ),
        ("config.json", "vision_config.width_coefficient", 1.5, r"projection_dim: expected the image tower's"),
        (
            "config.json",
            "vision_config.depth_coefficient",
            2.0,
            r"blocks.1.*_norm.bias: expected shape \(8,\), found \(48,\)",
        ),
        (
            "config.json",
            "text_config.intermediate_size",
            48,
            r"intermediate.dense.weight: expected shape \(48, 32\), f",
        ),
        ("config.json", "text_config.vocab_size", 99, r"expected a vocabulary for an embedding table of 99 rows"),
        ("processor_config.json", "image_processor.rescale_factor", 0.5, r"come to config.task.pixels of"),
        ("processor_config.json", "image_processor.do_resize", False, r"do_resize: expected True, found False"),
        (
            "tokenizer_config.json",
            "max_length",
            "long",
            r"max_length: expected a whole number of at least 3, found 'lo",
        ),
    ],
)
def test_attributes_that_do_not_fit_are_named(theirs, tmp_path, file, key, value, told):
    folder = copied(theirs, tmp_path)
    content = json.loads((folder / file).read_text())
    *inside, name = key.split(".")
    section = content[inside[0]] if inside else content
    section[name] = value
    (folder / file).write_text(json.dumps(content))
    with pytest.raises(AlignError, match=told):
        open_pretrained(folder)


@pytest.mark.parametrize(
    "name, tensor, told",
    [
        ("temperature", None, r"expected the tensor temperature, found none of that name"),
        ("temperature", np.float32(-1), r"tensor temperature: expected a number above 0, found -1"),
        ("temperature", np.ones(1, "f4"), r"tensor temperature: expected shape \(\), found \(1,\)"),
        ("text_projection.bias", np.ones(40, "i4"), r"text_projection.bias: expected floating-point numbers, found i"),
        ("text_projection.weight", np.ones((32, 40), "f4"), r"expected shape \(40, 32\), found \(32, 40\)"),
        ("logit_bias", np.ones((), "f4"), r"expected no other tensors, found logit_bias"),
        ("text_model.encoder.layer.2.output.dense.bias", np.ones(32, "f4"), r"expected no other tensors, found text_m"),
    ],
)
def test_tensors_that_do_not_fit_are_named(theirs, tmp_path, name, tensor, told):
    folder = copied(theirs, tmp_path, "model.safetensors")
    tensors = load_file(theirs / "model.safetensors")
    tensors.pop(name, None)
    save_file(tensors if tensor is None else {**tensors, name: np.asarray(tensor)}, folder / "model.safetensors")
    with pytest.raises(AlignError, match=told):
        open_pretrained(folder)


def test_folders_that_lack_something_are_named(theirs, tmp_path):
    for number, (name, told) in enumerate((
        ("config.json", r"expected a JSON file, found .*config.json"),
        ("model.safetensors", r"expected one of model.safetensors, .*, found none"),
        ("processor_config.json", r"expected a preprocessor_config.json, .*; save the model's AutoProcessor there"),
    )):  # fmt: skip
        (tmp_path / str(number)).mkdir()
        with pytest.raises(AlignError, match=told):
            open_pretrained(copied(theirs, tmp_path / str(number), name))


def changed(model, section="task", **values):
    return dataclasses.replace(model, **{section: {**getattr(model, section), **values}})


@pytest.mark.parametrize(
    "change, told",
    [
        (lambda m: changed(m, image_projection=True), r"config.task.image_projection of False, found True: train with"),
        (lambda m: changed(m, objective="sigmoid"), r"config.task.objective of 'softmax', found 'sigmoid': its logits"),
        (lambda m: changed(m, text_pooling="mean"), r"config.task.text_pooling of 'cls', found 'mean': it reads"),
        (lambda m: changed(m, text={**m.task["text"], "position_offset": 2}), r"position_offset of 0, found 2: its"),
        (lambda m: changed(m, image={**m.task["image"], "padding": "same"}), r"expected an even side with .*'same'"),
        (lambda m: changed(m, image={**m.task["image"], "squeeze": False}), r"config.task.image.squeeze of True"),
        (lambda m: changed(m, image={**m.task["image"], "stem_stride": 1}), r"config.task.image.stem_stride of 2"),
        (lambda m: changed(m, image={**m.task["image"], "strides": (1, 2, 3)}), r"expected strides of 1 and 2, found"),
        (lambda m: changed(m, "data", vocab={"size": 40}), r"embedding table of 40 rows, found one of 59 pieces"),
    ],
)
def test_what_they_cannot_express_is_refused(ours, change, told):
    with pytest.raises(AlignError, match=told):
        huggingface_of(change(open_pretrained(ours)))


def test_a_folder_that_exists_is_replaced_only_by_force(ours, tmp_path, monkeypatch):
    out = tmp_path / "out"
    list(convert(str(ours), out))
    before = sorted(path.name for path in out.iterdir())
    with pytest.raises(AlignError, match=r"out: expected a folder that does not exist yet, found one; --force replac"):
        next(convert(str(ours), out))
    (out / "left").write_text("")
    list(convert(str(ours), out, force=True))
    assert sorted(path.name for path in out.iterdir()) == before and [*tmp_path.iterdir()] == [out]

    def broken(path):
        raise OSError(28, "No space left on device")

    # What fails on the way leaves what stood there, and nothing else.
    monkeypatch.setitem(sys.modules["align_jax.convert"].LAYOUTS, "align_jax", lambda model: dataclasses.replace(
        own_folder.write(model), files={"vocab.txt": broken}))  # fmt: skip
    with pytest.raises(AlignError, match="expected a folder that can be written, found No space left on device"):
        list(convert(str(ours), out, force=True))
    wrong = {"params/log_temperature": np.float32(0)}
    monkeypatch.setitem(sys.modules["align_jax.convert"].LAYOUTS, "align_jax", lambda model: dataclasses.replace(
        own_folder.write(model), tensors={**own_folder.write(model).tensors, **wrong}))  # fmt: skip
    with pytest.raises(AlignError, match="params/log_temperature: expected the same numbers once written, found oth"):
        list(convert(str(ours), out, force=True))
    assert sorted(path.name for path in out.iterdir()) == before and [*tmp_path.iterdir()] == [out]
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "config.json").write_text("{}")  # as in the work directory of a run, and its checkpoints
    with pytest.raises(AlignError, match=r"expected a folder with model.safetensors to replace, found none"):
        list(convert(str(ours), tmp_path / "mine", force=True))


def test_a_tower_is_a_folder_to_start_from(theirs, tmp_path):
    transformers.BertModel(transformers.BertConfig(**align_files.TEXT)).save_pretrained(tmp_path / "bert")
    (tmp_path / "bert" / "vocab.txt").write_text("".join(f"{piece}\n" for piece in align_files.PIECES))
    list(convert(str(tmp_path / "bert"), tmp_path / "tower", max_length=16))
    tower = open_pretrained(tmp_path / "tower")
    assert tower.params["text_tower"]["position_embedding"]["embedding"].shape == (16, 32)
    assert "the first 16 of 64" in tower.facts["text_positions"]
    for folder in ("tower", "bert"):
        with pytest.raises(
            AlignError, match=r"expected a whole model, found the text tower of one; .*config.init.text="
        ):
            align_jax.load(tmp_path / folder)


def test_a_run_is_a_source(finished_run, tmp_path):
    model = opened(finished_run)
    save_foreign(own_folder.write(model), tmp_path / "ours")
    found, run = align_jax.load(tmp_path / "ours"), paths.flatten(model.params)
    assert {path: np.asarray(leaf).tobytes() for path, leaf in paths.flatten(found.params).items()} == {
        path: leaf.tobytes() for path, leaf in run.items()
    }
    assert found.embed_texts(["red cross"]).shape == (1, 16)
    with pytest.raises(AlignError, match=r"config.task.image_projection of False, found True"):
        huggingface_of(model)
    page = model_card.text(model)
    results = json.loads((finished_run / "eval.json").read_text())
    assert "12 steps of 8 rows" in page and "averaged weights at step 12" in page and "pairs.jsonl" in page
    assert all(f"| {escaped(result['name'])} | " in page for result in results) and len(results) == 12
    assert str(finished_run.parent) not in page, "no path of this machine is published"
    assert opened(finished_run / "export").facts == model.facts


def test_the_verb(theirs, tmp_path):
    out, _ = shapes_run.finish("align_jax.convert", f"--source={theirs}", f"--out={tmp_path / 'ours'}")
    assert "the same bit by bit" in out and (tmp_path / "ours" / "config.json").is_file()


class Hub(http.server.BaseHTTPRequestHandler):
    """As much of the hub as a snapshot of `who/what` needs."""

    folder, asked = None, []

    def do_HEAD(self):
        self.do_GET()

    def do_GET(self):
        self.asked.append(self.path)
        names = sorted(path.name for path in self.folder.iterdir())
        if self.path.startswith("/api/models/who/what/tree"):
            rows = [
                {"type": "file", "path": name, "size": (self.folder / name).stat().st_size, "oid": "0"}
                for name in names
            ]
            self.reply(json.dumps(rows).encode())
        elif self.path.startswith("/api/models/who/what"):
            siblings = [{"rfilename": name} for name in names]
            self.reply(json.dumps({"id": "who/what", "sha": "a" * 40, "siblings": siblings}).encode())
        elif self.path.startswith("/who/what/resolve/"):
            self.reply((self.folder / self.path.split("/")[-1]).read_bytes())
        else:
            self.send_error(404)

    def reply(self, body):
        self.send_response(200)
        for name, value in (("Content-Length", len(body)), ("ETag", f'"{hash(body)}"'), ("X-Repo-Commit", "a" * 40)):
            self.send_header(name, str(value))
        self.end_headers()
        if self.command == "GET":
            self.wfile.write(body)

    def log_message(self, *_):
        pass


def fetched(names, tmp_path, endpoint):
    """Line by line what fetching gives in a process that may reach the hub at `endpoint`."""
    environment = os.environ | {"HF_ENDPOINT": endpoint, "HF_HUB_OFFLINE": "0", "HF_HOME": str(tmp_path / "cache")}
    code = f"""
from align_jax.interop import hub
from align_jax.types import AlignError
for name in {names}:
    try:
        print(*sorted(path.name for path in hub.fetch(name).iterdir()))
    except AlignError as error:
        print(error)
"""
    done = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    return done.stdout.splitlines()


def test_a_repository_is_fetched_by_name_without_code(tmp_path):
    Hub.folder = tmp_path / "repository"
    Hub.folder.mkdir()
    wanted = ("config.json", "model.safetensors", "vocab.txt")
    for name in (*wanted, "pytorch_model.bin", "modeling.py", "tf_model.h5"):
        (Hub.folder / name).write_bytes(name.encode())
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Hub)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    endpoint = f"http://127.0.0.1:{server.server_port}"
    try:
        assert fetched(["who/what"], tmp_path, endpoint) == [" ".join(sorted(wanted))]
        assert not any(path.endswith((".py", ".bin", ".h5")) for path in Hub.asked)
    finally:
        server.shutdown()
        server.server_close()
    again, other = fetched(["who/what", "who/else"], tmp_path, endpoint)
    assert again == " ".join(sorted(wanted)), "once fetched, it is there without a hub"
    assert other.startswith("who/else: expected a folder of that name")
    assert "`hf download who/else --local-dir FOLDER`" in other


def test_a_name_that_is_none_is_refused():
    with pytest.raises(AlignError, match=r"expected a folder, a file of weights or a hub name \(owner/name\), "):
        open_pretrained("nowhere/at/all")
