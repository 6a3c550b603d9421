"""Every training config in configs/ builds its task and traces a step on shapes alone."""

import importlib.util
import re
from pathlib import Path

import jax
import numpy as np
import pytest

from align_jax import config as configs
from align_jax import optim, sharding, tasks, train
from align_jax import state as states
from align_jax.stages import stage_configs
from align_jax.types import AlignError

FOLDER = Path(__file__).parent.parent / "configs"
OTHERS = {*FOLDER.glob("curate_*.py"), FOLDER / "vtab.py"}  # tested by test_curate.py and test_vtab.py
FILES = sorted(set(FOLDER.glob("*.py")) - OTHERS)


def load(path: Path):
    spec = importlib.util.spec_from_file_location(path.stem, path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_there_are_configs():
    assert {file.stem for file in FILES} >= {
        "align_demo", "align_l2", "align_b7_bert_base", "align_b3_bert_mini_cc3m",
        "finetune_fine_grained", "finetune_imagenet", "align_finetune_retrieval",
        "imagebert_pretrain", "imagebert_retrieval",
    }  # fmt: skip


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_the_command_stands_on_top(path):
    module = load(path)
    assert f"--config=configs/{path.name}" in module.__doc__
    assert ("--config.init." in module.__doc__) == any(module.get_config().init.values()), "and where it starts from"
    configs.check(module.get_config())


STAGES = [
    pytest.param(path, number, id=f"{path.stem}-{folder.name}")
    for path in FILES
    for number, (_, folder) in enumerate(stage_configs(load(path).get_config(), Path(path.stem)))
]


@pytest.mark.parametrize(("path", "number"), STAGES)
def test_traces_a_step(path, number):
    config, _ = stage_configs(load(path).get_config(), Path())[number]
    if "finetune" in path.stem:  # their towers are those of align_l2, which is traced as it is
        config.task.image.variant = "b0"
        if config.task.name == "align":
            config.task.embedding, config.task.text.size = 320, "mini"
    for tower in ("image", "text"):
        if tower in config.task:
            config.task[tower].scan = True  # the same step, and a fifth of the time to trace 88 blocks
    task = tasks.make(config)
    optimizer = configs.call(
        optim.make, config.optim, where="optim", steps=configs.steps(config.steps, records=10**6),
        freeze=(*config.freeze, *task.locked),
    )  # fmt: skip
    mesh = sharding.make_mesh()
    rows = 8 * (config.task.get("image", {}).get("bn_group_size") or 1)
    batch = {
        name: jax.ShapeDtypeStruct((rows, *x.shape[1:]), x.dtype, sharding=sharding.by_row(mesh))
        for name, x in task.dummy_batch(1).items()
    }
    with jax.set_mesh(mesh):
        state = states.abstract(task, optimizer, task.dummy_batch(1), mesh=mesh)
        after, metrics, _ = jax.eval_shape(lambda s, b: train.step_fn(task, optimizer, s, b), state, batch)
    assert jax.tree.map(lambda x: (x.shape, x.dtype), after) == jax.tree.map(lambda x: (x.shape, x.dtype), state)
    assert {"loss", "learning_rate", "gradient_norm"} <= set(metrics)


@pytest.mark.parametrize("path", sorted(FOLDER.glob("sweeps/*.py")), ids=lambda path: path.stem)
def test_rows_of_a_sweep_are_configs_with_its_results(path):
    """Of the config with the same name."""
    module = load(path)
    assert f"--config=configs/{path.name}" in module.__doc__ and f"--sweep=configs/sweeps/{path.name}" in module.__doc__
    plan, config = module.get_config(), load(FOLDER / path.name).get_config()
    for row in plan.rows:
        values = {key: value for key, value in row.items() if key not in ("group", "name")}
        own, _ = stage_configs(configs.override(config, values, where=row["name"]), Path())[-1]
        assert tasks.make(own) and {name.split("/")[0] for name in plan.columns.values()} <= set(own.evals)


def test_stages_are_those_of_the_paper():
    """facts/align.md section 6."""
    (head, _), (everything, _) = stage_configs(load(FOLDER / "finetune_imagenet.py").get_config(), Path())
    assert head.freeze == ["image_tower"] and not everything.freeze
    assert tasks.make(head).locked == ("image_tower/*",) and not tasks.make(everything).locked
    sizes = [(c.data.crop, c.data.eval_crop, c.optim.learning_rate) for c in (head, everything)]
    assert sizes == [(289, 360, 0.1), (475, 600, 0.01)]
    assert head.steps == everything.steps == 125_114 and head.optim.boundaries == [37_534, 75_068, 112_603]
    made = configs.call(optim.make, everything.optim, where="optim", steps=everything.steps)
    assert made.groups == (("image_tower", 0.1),)
    (head, _), (everything, _) = stage_configs(load(FOLDER / "finetune_fine_grained.py").get_config(), Path())
    assert [c.optim.learning_rate for c in (head, everything)] == [1e-2, 1e-3]
    assert tasks.make(everything).frozen_statistics and everything.optim.weight_decay == 1e-5


def shapes(config):
    """The parameters of its task."""
    task = tasks.make(config)
    return jax.eval_shape(lambda key: task.init(key, task.dummy_batch(1))[0], jax.random.key(0))


def parameters(name: str) -> dict[str, int]:
    tops = shapes(load(FOLDER / f"{name}.py").get_config())
    return {top: sum(int(np.prod(x.shape)) for x in jax.tree.leaves(tree)) for top, tree in tops.items()}


def test_the_paper_run_has_the_paper_sizes():
    # facts/align.md section 1: L2 467.2 M without head; BERT-Large 405 M at 100k pieces and a projection to 1376.
    counts = parameters("align_l2")
    assert round(counts["image_tower"] / 1e6, 1) == 467.2
    assert round(counts["text_tower"] / 1e6) == 405
    assert counts["text_projection"] == 1024 * 1376 + 1376


def test_override_of_the_shape_of_the_loss():
    config = load(FOLDER / "align_l2.py").get_config()
    config.task.embedding = 640
    with pytest.raises(Exception, match=r"set --config\.task\.embedding=1376 or --config\.task\.image_projection=True"):
        tasks.make(config)


@pytest.mark.parametrize("data", ["flickr30k", "coco"])
def test_pre_training_gives_all_of_a_cross_encoder_that_is_fine_tuned(data):
    config = load(FOLDER / "imagebert_retrieval.py").get_config(data)
    stages = stage_configs(load(FOLDER / "imagebert_pretrain.py").get_config(), Path("runs/imagebert"))
    (entry,) = config.init.checkpoints
    assert entry["checkpoint"] == str(stages[-1][1])
    here, there = shapes(config), shapes(stages[-1][0])
    assert set(here) == set(entry["paths"]) == set(entry["paths"].values())
    for part in here:
        assert jax.tree.map(lambda x: x.shape, here[part]) == jax.tree.map(lambda x: x.shape, there[part])
    assert set(there) - set(here) == {"word_transform", "word_norm", "word_bias", "class_head", "feature_head"}


def test_imagebert_is_the_paper_s():
    """facts/imagebert.md sections 1, 4 and 5."""
    web, captions = (config for config, _ in stage_configs(load(FOLDER / "imagebert_pretrain.py").get_config(), Path()))
    assert (web.steps, web.batch_size, web.optim.learning_rate) == ("17 epochs", 48, 1e-4)
    assert captions.data.source.name == "mixture" and captions.data.regions.path != web.data.regions.path
    assert captions.init.checkpoints[0]["checkpoint"] == "lait" and web.init.text
    coco = load(FOLDER / "imagebert_retrieval.py").get_config("coco")
    assert (coco.steps, coco.batch_size, coco.optim.learning_rate) == ("130 epochs", 24, 5e-5)
    assert coco.data.source.dataset == "coco_karpathy" and coco.evals.test.folds == 5
    for config in (web, captions, coco):
        assert config.data.text_length + config.data.regions.most + 1 == 144
    with pytest.raises(AlignError, match=r"^--config: expected one of flickr30k, coco after the colon, found 'coc'$"):
        load(FOLDER / "imagebert_retrieval.py").get_config("coc")


README = (FOLDER.parent / "README.md").read_text()
# What a model without texts has of it.
COMPUTING = {"task.micro_batches", "task.gather", "task.gradient_dtype", "task.split", "task.image.remat",
             "task.image.scan", "mesh.fsdp"}  # fmt: skip
CROSS_ENCODERS = {"task.mrfr": ("imagebert",), "task.global_feature": ("imagebert", "imagebert_retrieval")}


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
@pytest.mark.parametrize("key", sorted(set(re.findall(r"--config\.(task\.[\w.]+|mesh\.[\w.]+)=", README))))
def test_what_the_readme_overrides_is_there(path, key):
    """A key that a config lacks cannot be set from the command line."""
    node = load(path).get_config()
    if key in CROSS_ENCODERS and node.task.name not in CROSS_ENCODERS[key]:
        return
    shared = key in COMPUTING and not (key.startswith("task.image.") and "regions" in node.data)
    if node.task.name != "align" and key not in CROSS_ENCODERS and not shared:
        return
    for part in key.split("."):
        assert part in node, f"{path.stem} has no {key}"
        node = node[part]
