"""ALIGN as Hugging Face writes it: transformers' AlignModel and AlignProcessor, such as kakaobrain/align-base.

It has no image projection, reads the text from [CLS], and holds the temperature itself where we hold its logarithm.
"""

import json
from collections.abc import Mapping
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from align_jax import towers
from align_jax.data.json_file import json_of
from align_jax.data.pixels import DEFAULT_PIXELS
from align_jax.data.tokenizer_folder import SETTINGS
from align_jax.interop import (
    efficientnet,
    huggingface_bert,
    huggingface_efficientnet,
    huggingface_images,
    huggingface_tokenizer,
    names,
)
from align_jax.interop.accounts import Attributes, Tensors
from align_jax.interop.huggingface_attributes import plain
from align_jax.interop.names import DENSE, SAME, Entry
from align_jax.interop.pretrained import Foreign, Pretrained
from align_jax.models.bert import Bert
from align_jax.models.dual_encoder import DualEncoder
from align_jax.models.efficientnet import EfficientNet
from align_jax.types import AlignError

TEXT, VISION = "text_model.", "vision_model."
TEXT_LENGTH = 64  # pieces to which AlignProcessor pads, unless tokenizer_config.json says otherwise
PROJECTION = (
    Entry("text_projection.weight", "params/text_projection/kernel", DENSE),
    Entry("text_projection.bias", "params/text_projection/bias", SAME),
)
IGNORED = {
    **{f"{TEXT}{pattern}": reason for pattern, reason in huggingface_bert.IGNORED.items()},
    **{f"{VISION}{pattern}": reason for pattern, reason in efficientnet.COUNTERS.items()},
}


def read(tensors: Tensors, attributes: Attributes, folder: Path) -> Pretrained:
    """The whole model, with the preprocessing and the tokenizer that stand in `folder`."""
    attributes.expect({"model_type": "align"})
    text, vision = (_section(attributes, name) for name in ("text_config", "vision_config"))
    rows = text.take("vocab_size", huggingface_bert.VOCAB_SIZE)
    if type(rows) is not int or rows < 1:
        raise AlignError(f"{text.where}: vocab_size: expected a whole number of at least 1, found {rows!r}")
    embedding = attributes.take("projection_dim", 640)
    attributes.expect(dict.fromkeys(("text_config_dict", "vision_config_dict")))  # which would win over the sections
    attributes.ignore({"temperature_init_value": "of fresh weights: the temperature is a tensor"})
    image_section, text_section = huggingface_efficientnet.section(vision), huggingface_bert.section(text)
    vision.expect({"model_type": "align_vision_model"})
    vision.ignore(huggingface_efficientnet.IGNORED)
    for section in (attributes, vision):
        plain(section)
    for section in (text, vision):
        section.close()
    data, pixels = _preprocessing(folder)
    vocab, files = huggingface_tokenizer.read(folder, rows=rows)
    length = min(_text_length(folder), text_section["max_length"])
    module = DualEncoder(
        towers.image_tower(image_section, side=data["crop"]),
        towers.text_tower(text_section, vocab_size=rows),
        embedding=embedding,
    )
    if embedding != module.image_tower.features:
        raise AlignError(
            f"{attributes.where}: projection_dim: expected the image tower's {module.image_tower.features} features, "
            f"found {embedding}"
        )

    found = variables(tensors, module)
    tensors.ignore(IGNORED)
    ignored = {
        f"{part}{name}": reason
        for part, account in (("", tensors), ("", attributes), ("text_config.", text), ("vision_config.", vision))
        for name, reason in account.ignored.items()
    }
    return Pretrained(
        tensors.where,
        params=found["params"],
        model_state={"batch_stats": found["batch_stats"]},
        # The exact number stands in config.task.temperature: its logarithm does not always lead back to it.
        task={"name": "align", "image": image_section, "text": text_section, "embedding": embedding, "pixels": pixels,
              "temperature": float(tensors.take("temperature"))},
        data={**data, "text_length": length, "vocab": vocab},
        files=files,
        facts={"architecture": "AlignModel of transformers"},
        ignored=ignored,
        kept=tensors.kept(),
    )  # fmt: skip


def write(model: Pretrained) -> Foreign:
    """The folder that AlignModel and AutoProcessor load. AlignError, by name, for what they cannot express."""
    _check(model)
    task, data = model.task, model.data
    vocab = data["vocab"]["size"]
    image = towers.image_tower(task["image"], side=data["crop"])
    text = towers.text_tower(task["text"], vocab_size=vocab)
    module = DualEncoder(image, text, embedding=task["embedding"])
    vision_config = huggingface_efficientnet.attributes_of(image, side=data["crop"])
    tree = {"params": model.params, "batch_stats": model.model_state["batch_stats"]}
    tensors = names.write(tree, entries(module)) | {"temperature": temperature_of(model)}
    tensors |= _beside(tensors, text.width, model.kept)
    config = {
        "architectures": ["AlignModel"],
        "model_type": "align",
        "projection_dim": task["embedding"],
        "temperature_init_value": float(tensors["temperature"]),
        "text_config": {**huggingface_bert.attributes_of(text), "model_type": "align_text_model", "pad_token_id": 0},
        "vision_config": {**vision_config, "model_type": "align_vision_model"},
    }
    processor = huggingface_images.write(
        resize=data["resize"], crop=data["crop"], resample=data.get("resample", "bilinear"),
        pixels=task.get("pixels", DEFAULT_PIXELS),
    )  # fmt: skip
    tokenizer = dict(huggingface_tokenizer.write(model))
    settings = tokenizer.pop(SETTINGS)

    def save_settings(path: Path) -> None:
        settings(path)
        length = {"model_max_length": data["text_length"], "max_length": data["text_length"]}
        # A text that spells a special piece is a text of words, as it is here.
        how = {"padding": "max_length", "truncation": True, "split_special_tokens": True}
        _save(path, json_of(path) | length | how)

    files = {
        **tokenizer,
        SETTINGS: save_settings,
        huggingface_images.FILE: lambda path: _save(path, processor),
    }
    return Foreign(tensors, config, files)


def variables(tensors: Tensors, module: DualEncoder) -> dict[str, Any]:
    """{"params", "batch_stats"} of `module`."""
    shapes = template(module)
    del shapes["params"]["log_temperature"]
    found = names.read(tensors, entries(module), shapes)
    temperature = tensors.take("temperature", ()).astype(module.param_dtype)
    if not temperature > 0:
        raise AlignError(f"{tensors.where}: tensor temperature: expected a number above 0, found {temperature}")
    return {**found, "params": {**found["params"], "log_temperature": np.log(temperature)}}


def entries(module: DualEncoder) -> list[Entry]:
    """All tensors but the temperature."""
    assert isinstance(module.image_tower, EfficientNet) and isinstance(module.text_tower, Bert), (
        "as `align.build` makes"
    )
    return [
        *_below("image_tower", huggingface_efficientnet.entries(module.image_tower, VISION)),
        *_below("text_tower", huggingface_bert.entries(module.text_tower, TEXT)),
        *PROJECTION,
    ]


def template(module: DualEncoder) -> dict[str, Any]:
    """The shapes and dtypes of its variables."""
    side = module.image_tower.stem_stride * int(np.prod(module.image_tower.strides))
    images = jax.ShapeDtypeStruct((1, side, side, 3), jnp.float32)
    tokens = jax.ShapeDtypeStruct((1, 1), jnp.int32)
    return jax.eval_shape(module.init, jax.random.key(0), images, tokens, tokens)


def temperature_of(model: Pretrained) -> np.ndarray:
    """The temperature f32 []: the number that was read, as long as nothing has trained its logarithm."""
    log = np.asarray(model.params["log_temperature"], np.float32)
    known = np.float32(model.task.get("temperature", 1.0))
    return np.asarray(known if np.log(known) == log else np.exp(log), np.float32)


def _below(tower: str, entries: list[Entry]) -> list[Entry]:
    """'params/a' -> 'params/<tower>/a'."""
    return [entry._replace(ours=entry.ours.replace("/", f"/{tower}/", 1)) for entry in entries]


def _beside(tensors: Mapping[str, np.ndarray], width: int, kept: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """What AlignModel holds and never computes embeddings with: as it was read, else zeros.

    Without them transformers would make a random pooler. Zeros make one that says nothing.
    """
    zeros = {
        f"{TEXT}pooler.dense.weight": np.zeros((width, width), np.float32),
        f"{TEXT}pooler.dense.bias": np.zeros(width, np.float32),
        **huggingface_efficientnet.counters(tensors),
    }
    return zeros | {
        name: tensor for name, tensor in kept.items() if any(fnmatchcase(name, pattern) for pattern in IGNORED)
    }


def _check(model: Pretrained) -> None:
    """Refuses what AlignModel has no place for."""
    task = model.task
    if task.get("name") != "align":
        found = task.get("name") or " and ".join(name for name in ("image", "text") if name in task) + " tower"
        raise AlignError(f"{model.where}: expected a whole ALIGN model, found {found}")
    for name, expected, instead in (
        ("image_projection", False, "train with image_projection=False and embedding = the image tower's features"),
        ("objective", "softmax", "its logits have no bias; train with objective='softmax'"),
        ("text_pooling", "cls", "it reads the vector of [CLS]; train with text_pooling='cls'"),
    ):
        if task.get(name, expected) != expected:
            raise AlignError(
                f"Hugging Face ALIGN: expected config.task.{name} of {expected!r}, found {task[name]!r}: {instead}"
            )
    offset = task["text"].get("position_offset", 0)
    if offset:
        raise AlignError(
            f"Hugging Face ALIGN: expected config.task.text.position_offset of 0, found {offset}: its text tower is "
            "BERT, whose positions begin at 0; start from a BERT"
        )


def _section(attributes: Attributes, name: str) -> Attributes:
    """One of the two configs inside; without it all is as transformers has it by default."""
    found = attributes.take(name, None) or {}
    if not isinstance(found, Mapping):
        raise AlignError(f"{attributes.where}: {name}: expected an object, found {found!r}")
    return Attributes(found, f"{attributes.where} {name}")


def _preprocessing(folder: Path) -> tuple[dict[str, Any], str]:
    """(keys of config.data, config.task.pixels) of preprocessor_config.json, or of processor_config.json's section."""
    path, both = folder / huggingface_images.FILE, folder / "processor_config.json"
    if not path.is_file() and not both.is_file():
        raise AlignError(
            f"{folder}: expected a {path.name}, which says how pictures are prepared, found none; save the model's "
            "AutoProcessor there"
        )
    found = json_of(path) if path.is_file() else json_of(both).get("image_processor", {})
    attributes = Attributes(found, str(path if path.is_file() else both))
    data, pixels = huggingface_images.read(attributes)
    attributes.close()
    return data, pixels


def _text_length(folder: Path) -> int:
    """Pieces to which texts are padded and cut."""
    path = folder / SETTINGS
    found = json_of(path).get("max_length", TEXT_LENGTH) if path.is_file() else TEXT_LENGTH
    if type(found) is not int or found < 3:
        raise AlignError(f"{path}: max_length: expected a whole number of at least 3, found {found!r}")
    return found


def _save(path: Path, content: Mapping[str, Any]) -> None:
    path.write_text(json.dumps(content, indent=2) + "\n", "utf-8")
