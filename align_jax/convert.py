"""Models and towers of other libraries as ours, and ours as theirs.

python -m align_jax.convert --source=kakaobrain/align-base --out=models/align-base
python -m align_jax.convert --source=runs/demo --out=models/demo --to=huggingface

A source is a Hugging Face folder or hub name (ALIGN, BERT, RoBERTa, EfficientNet), a .safetensors, .bin, .pth or .h5
file of an EfficientNet, a run, or a folder that this verb wrote. What is written is read again and compared, bit by
bit, before it gets its name.
"""

import dataclasses
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
from absl import flags

from align_jax import files, paths, portable
from align_jax.cli import main_of
from align_jax.interop import huggingface_align, own_folder
from align_jax.interop.classes import resize_classes
from align_jax.interop.positions import resize_positions
from align_jax.interop.pretrained import Foreign, Pretrained
from align_jax.interop.source import huggingface_of, open_pretrained, save_foreign
from align_jax.types import AlignError

LAYOUTS: dict[str, Callable[[Pretrained], Foreign]] = {"align_jax": own_folder.write, "huggingface": huggingface_of}


def convert(
    source: str, out: Path, *, to: str = "align_jax", max_length: int | None = None, classes: int | None = None,
    force: bool = False,
) -> Iterator[str]:  # fmt: skip
    """Writes the model of `source` into `out`, in the layout `to`; yields what there is to tell, line by line.

    Args:
      max_length: word pieces, to which the table of positions is resized. classes: outputs, to which a head is.
      force: replace the folder that stands at `out`.

    Raises:
      AlignError: for a source that cannot be read, that the layout cannot express, and where `out` exists.
    """
    files.check_free(out, force=force, known_by=own_folder.WEIGHTS)
    model = portable.opened(source)
    yield from _told(model)
    if max_length is not None:
        model = resize_positions(model, max_length)
        if "text_length" in model.data:
            length = min(model.data["text_length"], max_length)
            model = dataclasses.replace(model, data={**model.data, "text_length": length})
        yield f"positions: {model.facts.get('text_positions', 'as they were')}"
    if classes is not None:
        model = resize_classes(model, classes)
        yield f"classes: {model.facts.get('classes', 'as they were')}"
    foreign = LAYOUTS[to](model)
    save_foreign(foreign, out, force=force, check=lambda written: _check(model, open_pretrained(written)))
    count = sum(int(np.size(tensor)) for tensor in foreign.tensors.values())
    yield f"{out}: {len(foreign.tensors)} tensors, {count:,} numbers, {to} layout; read again, and the same bit by bit"


def _told(model: Pretrained) -> Iterator[str]:
    """What of the source is used, and what is not."""
    leaves = paths.flatten(model.params)
    towers: dict[str, int] = {}
    for path, leaf in leaves.items():
        towers[path.split("/")[0]] = towers.get(path.split("/")[0], 0) + int(np.size(leaf))
    parts = ", ".join(f"{name} {count:,}" for name, count in towers.items())
    statistics = len(paths.flatten(model.model_state))
    yield f"{model.where}: used {len(leaves) + statistics} tensors, {sum(towers.values()):,} parameters: {parts}"
    yield from (f"{name}: {fact}" for name, fact in model.facts.items() if "\n" not in fact)
    reasons: dict[str, list[str]] = {}
    for name, reason in model.ignored.items():
        reasons.setdefault(reason, []).append(name)
    for reason, names in reasons.items():
        more = f" and {len(names) - 3} more" if len(names) > 3 else ""
        yield f"ignored {', '.join(names[:3])}{more}: {reason}"


def _check(model: Pretrained, again: Pretrained) -> None:
    """AlignError where what was written does not give the same model."""
    if "crop" in model.data and own_folder.preprocessing(model) != own_folder.preprocessing(again):
        raise AlignError(
            f"expected the preprocessing {own_folder.preprocessing(model)} once written, found "
            f"{own_folder.preprocessing(again)}"
        )
    expected, found = (paths.flatten({"params": m.params, "model_state": m.model_state}) for m in (model, again))
    if differing := sorted(set(expected) ^ set(found)):
        raise AlignError(f"{differing[0]}: expected the same tensors once written, found it on one side only")
    for path, leaf in expected.items():
        theirs = found[path]
        if path == "params/log_temperature":  # written as the temperature
            leaf, theirs = (huggingface_align.temperature_of(m) for m in (model, again))
        if not np.array_equal(np.asarray(leaf), np.asarray(theirs), equal_nan=True):
            raise AlignError(f"{path}: expected the same numbers once written, found others")


def main(_: list[str]) -> None:
    """Checks the flags, and prints what `convert` tells."""
    values = flags.FLAGS
    told = convert(
        values.source, Path(values.out), to=values.to, max_length=values.max_length, classes=values.classes,
        force=values.force,
    )  # fmt: skip
    for line in told:
        print(line)


if __name__ == "__main__":
    flags.DEFINE_string("source", None, "a folder, a file of weights, a hub name, or a run", required=True)
    flags.DEFINE_string("out", None, "the folder to write", required=True)
    flags.DEFINE_enum("to", "align_jax", list(LAYOUTS), "the layout to write")
    flags.DEFINE_integer("max_length", None, "word pieces: resize the table of positions", lower_bound=3)
    flags.DEFINE_integer("classes", None, "outputs: resize the head of a classifier", lower_bound=2)
    flags.DEFINE_bool("force", False, "replace what stands at --out")
    main_of(main)
