"""Where a model lies, and how it becomes one in use: `align_jax.load`."""

import dataclasses
import hashlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import jax
from ml_collections import ConfigDict

from align_jax import code, compact, paths, sharding
from align_jax import config as configs
from align_jax import run as runs
from align_jax.cache import cache_folder
from align_jax.checkpoint import finished
from align_jax.data.json_file import json_of
from align_jax.interop import hub, own_folder
from align_jax.interop.reading import SafetensorsFile
from align_jax.interop.source import open_pretrained, save_foreign
from align_jax.model import Model
from align_jax.types import AlignError
from align_jax.weights import Weights

Stores = str | Sequence[str] | Mapping[str, str]  # of regions, as `data.visual.regions` takes its path


@dataclasses.dataclass(frozen=True)
class Place:
    """Where weights lie: a checkpoint of a run, or an export."""

    folder: Path  # of the run or the export: what its config stands in
    step: int | None  # of the checkpoint; None: an export
    source: str = ""  # the folder or hub name that the export was made of, where it is a copy in the cache


def load(name_or_path: str | Path, *, regions: Stores | None = None) -> Model:
    """A model for use, on all devices of this machine.

    Args:
      name_or_path: a work directory, whose last checkpoint it takes; one of its checkpoints/STEP; an export; or a
        Hugging Face folder of a whole model, or the name of one on the hub ("kakaobrain/align-base"), which is fetched
        once. Averaged weights go before the last ones where a run keeps them.
      regions: for a model that is shown stored regions, where those of the pictures lie that it is used on: a store of
        `align_jax.regions` or several, which are asked in turn; or {what ids begin with: the store that knows their
        rest}. They replace the config's (`config.data.regions.path`), and must be as wide as the trained ones.

    Raises:
      AlignError: where none of these is there, where weights are not what their config says, for `regions` of a model
        that is shown none, and for some that are not there or of another width or number of classes.
    """
    place = locate(name_or_path)
    parts = parts_of(place.folder, regions)
    with jax.set_mesh(parts.mesh):
        weights = weights_at(place, parts)
    return Model(parts, weights)


def locate(path: str | Path) -> Place:
    """The checkpoint or export that `path` names, as `load` takes it; AlignError where there is none."""
    given = Path(path)
    if not given.exists() and hub.NAME.fullmatch(str(path)):
        return _converted(hub.fetch(str(path)), str(path))
    numbered = given.parent.name == "checkpoints" and given.name.isdigit()
    folder = given.parent.parent if numbered else given
    if not (folder / "checkpoints").is_dir():
        if not (given / own_folder.CONFIG).is_file():
            raise AlignError(
                "expected a work directory with checkpoints/, one of its checkpoints/STEP, an export, or a folder of "
                f"Hugging Face, found none of these in {path}"
            )
        config = json_of(given / own_folder.CONFIG)
        if not own_folder.is_own(config):
            return _converted(given, str(path))
        _check_whole(config["task"], str(path))
        if not (given / own_folder.WEIGHTS).is_file():
            raise AlignError(
                f"{path}: expected checkpoints/ of a run, or {own_folder.WEIGHTS} of an export, found neither in it"
            )
        return Place(given, None)
    steps = finished(folder / "checkpoints")
    if not steps or (numbered and int(given.name) not in steps):
        raise AlignError(f"{path}: expected a finished checkpoint, found those of steps {steps}; train on or name one")
    return Place(folder, int(given.name) if numbered else steps[-1])


def weights_at(place: Place, parts: runs.Run) -> Weights:
    """Loads them onto the devices."""
    if place.step is not None:
        return parts.weights(parts.restored(place.step))
    file = SafetensorsFile(place.folder / own_folder.WEIGHTS)
    tree = paths.unflatten(compact.unpack(file, file.metadata().get("weights", "float32")))
    step = file.metadata().get("step")
    where = sharding.replicated(parts.mesh)
    params, model_state = jax.device_put((tree["params"], tree.get("model_state", {})), where)
    return Weights(
        params, model_state, path=Path(place.source or place.folder), step=None if step is None else int(step),
        averaged=parts.optimizer.ema is not None,
    )  # fmt: skip


def parts_of(folder: Path, regions: Stores | None = None) -> runs.Run:
    """The parts of a run or of an export, on all devices of this machine, whatever mesh it was trained on.

    `regions`: as `load` takes them. AlignError where they cannot be those that the model is shown.
    """
    config = configs.load(folder / "config.json")
    config.mesh = ConfigDict({"fsdp": jax.device_count()})  # the optimizer's state need not fit on one
    if regions is None:
        return runs.prepare(config, folder, None)
    if config.data.get("regions") is None:
        raise AlignError(
            f"regions: expected a model that is shown stored regions, found none of config.data.regions in {folder}; "
            "leave regions out"
        )
    # What ids begin with may have dots, which other keys may not.
    path = ConfigDict(dict(regions), allow_dotted_keys=True) if isinstance(regions, Mapping) else regions
    parts = runs.prepare(configs.override(config, {"data.regions.path": path}, where="regions"), folder, None)
    _ = parts.pairs.reads  # opens them: those of a config may lie elsewhere by now, those that are named here are asked
    return parts


def _converted(folder: Path, source: str) -> Place:
    """An export of what stands in a folder of others, kept in the cache by what that and the code here say."""
    found = hashlib.blake2b(code.digest().encode(), digest_size=12)
    for path in sorted(path for path in folder.iterdir() if path.is_file()):
        with path.open("rb") as file:
            found.update(path.name.encode() + hashlib.file_digest(file, "blake2b").digest())
    copy = cache_folder() / "converted" / found.hexdigest()
    if not copy.is_dir():
        model = dataclasses.replace(open_pretrained(folder), where=source)
        _check_whole(model.task, source)
        try:
            save_foreign(own_folder.write(model), copy)
        except AlignError:
            if not copy.is_dir():  # else another process was faster
                raise
    return Place(copy, None, source)


def _check_whole(task: Mapping[str, Any], where: str) -> None:
    """Refuses a tower alone."""
    if "name" not in task:
        tower = "image" if "image" in task else "text"
        raise AlignError(
            f"{where}: expected a whole model, found the {tower} tower of one; start a run from it with "
            f"--config.init.{tower}={where}"
        )
