"""A trained model for other programs, checked against the live one before it is there.

python -m align_jax.export --workdir=runs/demo                       # again what training writes: runs/demo/export
python -m align_jax.export --workdir=runs/demo --format=stablehlo    # the encoders as programs, for cpu, cuda and tpu
python -m align_jax.export --workdir=runs/demo/checkpoints/500 --format=onnx --weights=int8 --out=small

Formats: align_jax (what `align_jax.load` takes), stablehlo, onnx, hf (transformers) and numpy: align_jax/exporting/.
Beside each lie the tokenizer or the classes, preprocessing.json (from a file, or a text, to what the model is fed) and
signature.json (inputs and outputs, versions, what the check and the evaluators found).
"""

from collections.abc import Iterator, Sequence
from pathlib import Path

import jax
from absl import flags

from align_jax import compact, exporting, files
from align_jax.cli import main_of
from align_jax.data import source as sources
from align_jax.data.source import Source
from align_jax.embeddings.layout import clear
from align_jax.embeddings.making import embed_source, facts_of
from align_jax.evaluate import OVERRIDE, sections
from align_jax.exporting import check, measuring, native, side_files, subject
from align_jax.loading import locate, parts_of, weights_at
from align_jax.model import Model
from align_jax.run import Run
from align_jax.state import TrainState
from align_jax.types import AlignError

PLATFORMS = ("cpu", "cuda", "tpu")


def export(parts: Run, state: TrainState, source: Source) -> Path:
    """Writes <workdir>/export: model.safetensors, config.json, what `side_files` has; the source's embeddings, where
    the model makes some.

    All processes call it together.
    """
    folder = parts.workdir / "export"
    weights = parts.weights(state)
    model = Model(parts, weights)
    stored = subject.flat(model.params, model.model_state)
    native.save(stored, parts, folder, step=weights.step, kind="float32")
    side_files.write(parts, folder, side_files.signature(parts, weights, format="align_jax", kind="float32"))
    if "embed_images" not in model.functions:
        return folder
    embeddings, wanted = folder / "embeddings", facts_of(model, source, parts.config.data.source)
    if files.is_writer():
        clear(embeddings, wanted)  # those of an earlier step
    embed_source(model, source, embeddings, facts=wanted)
    return folder


def export_as(
    format: str, workdir: str | Path, *, out: str | Path | None = None, weights: str = "float32",
    platforms: Sequence[str] = PLATFORMS, functions: Sequence[str] = (), evals: str | None = None,
    overrides: Sequence[str] = (), force: bool = False,
) -> Iterator[str]:  # fmt: skip
    """Writes a model in one of `exporting.FORMATS`, whole or not at all; yields what there is to tell, line by line.

    Args:
      workdir: as `align_jax.load` takes it. out: by default <workdir>/export-<format>.
      weights: of `compact.KINDS`; what that costs is measured by `evals` and `overrides`, as `evaluate` takes them.
      platforms: of jax, that a StableHLO program is for.
      functions: of the task; by default what makes an embedding, or of a classifier its logits.
      force: replace the export that stands at `out`.

    Raises:
      AlignError: for what is asked wrongly, before anything is compiled, and where the check fails.
    """
    chosen = exporting.FORMATS[format]
    if weights not in chosen.weights:
        raise AlignError(f"--weights: format {format} stores {' or '.join(chosen.weights)}, found {weights}")
    place = locate(workdir)
    if place.source and out is None:
        raise AlignError(f"--out: expected a folder to write into, found none, and {workdir} is no work directory")
    suffix = "" if weights == "float32" else f"-{weights}"
    folder = Path(out or place.folder / f"export-{format}{suffix}")
    files.check_free(folder, force=force, known_by=side_files.SIGNATURE)
    files.check_writable(folder.absolute().parent, flag="--out")
    parts = parts_of(place.folder)
    asked = sections(evals, parts.config.evals, overrides) if evals or overrides or parts.config.evals else {}
    with jax.set_mesh(parts.mesh):
        exact = weights_at(place, parts)
    model = subject.make(parts, exact, functions=functions, kind=weights, dtype=chosen.dtype, platforms=platforms)
    signature = side_files.signature(parts, exact, format=format, kind=weights)
    signature["functions"] = side_files.functions(model, chosen.suffix)
    with files.whole_folder(folder) as partial:
        signature |= chosen.write(model, partial)
        given = check.inputs(parts)
        found = dict(check.run(model, chosen.read(model, partial), given))
        signature["check"] = {"on": given.of, **{name: vars(agreement) for name, agreement in found.items()}}
        yield from (f"{name}: {agreement}, on {given.of}" for name, agreement in found.items())
        if weights != "float32":
            turned = check.turned(model, given)
            signature["stored"] = {name: vars(agreement) for name, agreement in turned.items()}
            yield from (f"{name}, {weights} against exact weights: {agreement}" for name, agreement in turned.items())
            losses, reasons = measuring.measure(model, asked, named=bool(evals or overrides))
            signature["measured"] = [loss._asdict() | {"difference": loss.difference} for loss in losses]
            yield from map(str, losses)
            if reasons:
                yield f"not measured: {reasons}" if losses else f"nothing was measured: {reasons}"
        side_files.write(parts, partial, signature, programs=bool(chosen.suffix))
    size = sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())
    yield f"{folder}: {format}, weights {weights}, {size / 1e6:.1f} MB"


def main(arguments: list[str]) -> None:
    """Checks the flags."""
    values = flags.FLAGS
    if values.format:
        told = export_as(
            values.format, values.workdir, out=values.out, weights=values.weights, platforms=values.platforms,
            functions=values.functions, evals=values.evals, overrides=arguments[1:], force=values.force,
        )  # fmt: skip
        for line in told:
            print(line)
        return
    others = ("out", "weights", "platforms", "functions", "evals", "force")
    if given := [name for name in others if values[name].present]:
        raise AlignError(
            f"--{given[0]}: goes with --format, found none; --format=align_jax is what align_jax.load reads"
        )
    parts = parts_of(Path(values.workdir))
    source = sources.make(**parts.config.data.source)
    with jax.set_mesh(parts.mesh):
        print(export(parts, parts.restored(), source))


if __name__ == "__main__":
    flags.DEFINE_string("workdir", None, "a run, its checkpoints/STEP, an export, or a model of others", required=True)
    flags.DEFINE_enum("format", None, list(exporting.FORMATS), "by default what training writes, with embeddings")
    flags.DEFINE_string("out", None, "the folder to write, by default one in --workdir")
    flags.DEFINE_enum("weights", "float32", compact.KINDS, "how the weights are stored")
    flags.DEFINE_list("platforms", ",".join(PLATFORMS), "what StableHLO programs run on")
    flags.DEFINE_list("functions", "", "what to export, by default embed_images and embed_texts, or classify_images")
    flags.DEFINE_string("evals", None, "as in evaluate: what measures the loss of --weights; by default the run's own")
    flags.DEFINE_bool("force", False, "replace the export that stands at --out")
    main_of(main, apart=OVERRIDE)
