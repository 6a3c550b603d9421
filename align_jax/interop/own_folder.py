"""Folders of ours: a whole model as an export, which every verb takes, and a tower alone, which `config.init` takes.

model.safetensors (our paths), config.json, the vocabulary or the classes, preprocessing.json, and origin.json: where
the weights come from, and what of that was not used. The config.json of a tower has what the tower determines alone.
"""

import functools
import json
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from align_jax import compact, paths
from align_jax.data import classes
from align_jax.data.json_file import json_of
from align_jax.data.labelled import VIEWS
from align_jax.data.pixels import DEFAULT_PIXELS
from align_jax.data.preprocessing import FILE as PREPROCESSING
from align_jax.data.preprocessing import described
from align_jax.data.tokenizer_folder import FILES as VOCABULARIES
from align_jax.interop.pretrained import Foreign, Pretrained
from align_jax.interop.reading import SafetensorsFile
from align_jax.types import AlignError

WEIGHTS, CONFIG, ORIGIN = "model.safetensors", "config.json", "origin.json"
VIEW = ("resize", "crop", "eval_crop", "eval_share", "resample")  # of config.data: how pictures are seen
DATA = (*VIEW, "augment", "classes", "text_length", "vocab")  # what of config.data belongs to the weights
# What a whole config has besides: nothing was trained here, and `main` may change all of it.
TRAINING = {
    "seed": 0, "steps": 1, "batch_size": 256, "mesh": {"fsdp": 1},
    "optim": {"learning_rate": 1e-3, "warmup": 0},
    "checkpoint": {"every": 1000}, "log_every": 10, "steps_ahead": 2, "evals": {}, "evaluate_every": 0,
    "watch": {"non_finite": 3, "minutes": 10.0}, "export": False,
    "init": {"image": "", "text": "", "checkpoints": ()}, "freeze": (), "stages": (),
}  # fmt: skip
READING = {
    "source": {}, "flip": True, "shuffle": "auto", "shuffle_window": 1024, "threads": 8, "prefetch": 2,
    "max_bad_share": 0.01,
}  # fmt: skip


def is_own(config: Mapping[str, Any]) -> bool:
    """Whether a config.json is ours."""
    return isinstance(config.get("task"), Mapping)


def is_whole(config: Mapping[str, Any]) -> bool:
    """Whether it is that of a model, and not of a tower alone."""
    return "name" in config["task"]


def read(folder: Path) -> Pretrained:
    """An export, or what `write` wrote. AlignError for a damaged one."""
    config, tensors = json_of(folder / CONFIG), SafetensorsFile(folder / WEIGHTS)
    tree = paths.unflatten(compact.unpack(tensors, tensors.metadata().get("weights", "float32")))
    if not isinstance(tree.get("params"), dict):
        raise AlignError(f"{folder / WEIGHTS}: expected tensors below params/, found {', '.join(tree) or 'none'}")
    data = {key: config.get("data", {})[key] for key in DATA if key in config.get("data", {})}
    if "vocab" in data:
        data["vocab"] = {key: value for key, value in data["vocab"].items() if key != "path"}
    origin = json_of(folder / ORIGIN) if (folder / ORIGIN).is_file() else {}
    files = {
        name: functools.partial(shutil.copyfile, folder / name)
        for name in (*VOCABULARIES, classes.FILE)
        if (folder / name).is_file()
    }
    return Pretrained(
        str(folder), tree["params"], tree.get("model_state", {}), config["task"], data, files,
        facts=origin.get("facts", {}), ignored=origin.get("ignored", {}),
        kept=paths.flatten(tree.get("kept", {})),
    )  # fmt: skip


def write(model: Pretrained) -> Foreign:
    """The folder of a model or of a tower."""
    tree = {"params": model.params, "model_state": model.model_state, "kept": model.kept}
    tensors = {path: np.asarray(leaf) for path, leaf in paths.flatten(tree).items()}
    config: dict[str, Any] = {"task": dict(model.task), "data": dict(model.data)}
    if is_whole(config):
        config = TRAINING | {"task": config["task"], "data": READING | config["data"]}
    origin = {"facts": {"source": model.where, **model.facts}, "ignored": dict(model.ignored)}
    files = {**model.files, ORIGIN: functools.partial(_save, origin)}
    if "crop" in model.data:
        files[PREPROCESSING] = functools.partial(_save, preprocessing(model))
    return Foreign(tensors, config, files, metadata={})


def preprocessing(model: Pretrained) -> dict[str, Any]:
    """From a picture, and a text, to what a model is fed: what an export tells other programs."""
    view = VIEWS[model.data.get("augment", "align")]
    seen = view(**{name: model.data[name] for name in VIEW if name in model.data}, flip=False).preprocessing()
    seen |= {name: model.data[name] for name in ("text_length",) if name in model.data}
    return described(seen, model.task.get("pixels", DEFAULT_PIXELS))


def _save(content: Mapping[str, Any], path: Path) -> None:
    path.write_text(json.dumps(content, indent=2) + "\n", "utf-8")
