"""A model of ours as others take it: weights, what they were made to be fed with, and what a model card should say."""

import dataclasses
import functools
import json
import shutil
from collections.abc import Mapping
from itertools import groupby
from pathlib import Path
from typing import Any

import jax
import numpy as np

from align_jax import card as cards
from align_jax import config as configs
from align_jax.data.json_file import json_of
from align_jax.interop import own_folder
from align_jax.interop.pretrained import Pretrained
from align_jax.interop.source import open_pretrained
from align_jax.loading import locate, parts_of, weights_at
from align_jax.run import Run
from align_jax.types import AlignError
from align_jax.weights import Weights

# What may be published of a model that learnt from these, name of a source -> whose work it is.
ATTRIBUTION = {
    "emoji": "Trained on drawings of Twemoji (CC-BY 4.0, Twitter and contributors) and OpenMoji (CC-BY-SA 4.0, the "
    "OpenMoji project), named as in Unicode CLDR.",
}


def opened(name_or_path: str | Path) -> Pretrained:
    """A run, by its work directory, one of its checkpoints/STEP or its export, or whatever `open_pretrained` takes."""
    if not _of_a_run(Path(name_or_path)):
        return open_pretrained(name_or_path)
    place = locate(name_or_path)
    parts = parts_of(place.folder)
    with jax.set_mesh(parts.mesh):
        return of_run(parts, weights_at(place, parts))


def _of_a_run(path: Path) -> bool:
    """Whether something here was trained, so that its config tells of it."""
    if (path / "checkpoints").is_dir() or path.parent.name == "checkpoints":
        return True
    if not (path / own_folder.CONFIG).is_file() or (path / own_folder.ORIGIN).is_file():
        return False
    return own_folder.is_own(json_of(path / own_folder.CONFIG))


def of_run(parts: Run, weights: Weights) -> Pretrained:
    """The weights as they are evaluated, with the facts of the run and of the card.json beside it.

    Of a folder that `convert` wrote the facts are those of its source: nothing was trained there.
    """
    if (parts.workdir / own_folder.ORIGIN).is_file():
        return dataclasses.replace(own_folder.read(parts.workdir), where=str(weights.path))
    params, model_state = jax.tree.map(np.asarray, (weights.params, weights.model_state))
    config = configs.plain(parts.config)
    data = {key: value for key, value in config["data"].items() if key in own_folder.DATA}
    if "vocab" in data:
        data["vocab"] = {key: value for key, value in data["vocab"].items() if key != "path"}
    files = {name: functools.partial(shutil.copyfile, parts.workdir / name) for name in parts.pairs.files()}
    return Pretrained(
        str(weights.path), params, model_state, config["task"], data, files,
        facts=_facts(config, weights, parts.workdir), ignored={},
    )  # fmt: skip


def _facts(config: Mapping[str, Any], weights: Weights, workdir: Path) -> dict[str, str]:
    source = config["data"]["source"]
    names = [part.get("name", "") for part in source.get("sources", (source,))]
    optim = ", ".join(f"{key}={value}" for key, value in config["optim"].items())
    towers = [name for name in ("image", "text") if dict(config["init"] or {}).get(name)]
    found = {
        "source": f"a run of align_jax: the {weights}",
        "data": f"Trained on this source of align_jax: `{json.dumps(source)}`",
        "recipe": f"{config['steps']:,} steps of {config['batch_size']:,} rows, seed {config['seed']}; `{optim}`.",
        "weights": f"digest {weights.digest}",
    }  # fmt: skip
    if towers:
        found["started_from"] = ", ".join(f"{name} tower of {config['init'][name]}" for name in towers)
    if notices := [ATTRIBUTION[name] for name in names if name in ATTRIBUTION]:
        found["attribution"] = " ".join(notices)
    for folder in (workdir, workdir.parent):  # of an export the card stands in the run's own folder
        if table := _evaluation(folder / cards.NAME, weights.digest):
            found["evaluation"] = table
            break
    return found


def _evaluation(path: Path, digest: str) -> str:
    """The tables of a card, if it is of these weights."""
    try:
        card = cards.read(path)
    except AlignError:
        return ""
    if card.digest != digest:
        return ""
    lines: list[str] = []
    for protocol, alike in groupby(card.results, lambda measured: measured.result.protocol):
        lines += ["", f"Protocol: {cards.escaped(protocol)}", ""]
        lines += ["| result | value | 95 % interval | n |", "|---|---:|---:|---:|"]
        lines += ["| " + " | ".join(map(cards.escaped, cards.cells(measured))) + " |" for measured in alike]
    return "\n".join(lines).strip()
