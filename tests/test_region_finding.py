"""Regions that are found in pictures: by detectors, against transformers' own outputs, and of boxes, by a tower."""

import json
from types import SimpleNamespace

import numpy as np
import pyarrow as pa
import pytest
import shapes_run
import torch
from PIL import Image
from transformers import (
    DetrConfig,
    DetrForObjectDetection,
    DetrImageProcessorPil,
    ResNetConfig,
    RTDetrConfig,
    RTDetrForObjectDetection,
    RTDetrImageProcessorPil,
    RTDetrResNetConfig,
)

import align_jax
from align_jax import regions as verb
from align_jax.adapters.detector import Detector
from align_jax.data.region_store import RegionStore
from align_jax.data.regions import Regions
from align_jax.data.source import BadExample, Objects, Record
from align_jax.region_files.finding import Crops, Found, Shown, by_detector, objects_of
from align_jax.region_files.writing import write
from align_jax.types import AlignError

LEAST, CLASSES = 3, 5
NAMES = {number: f"thing {number}" for number in range(CLASSES)}


def detr():
    """(model, image processor) of DETR: classes by softmax, with one for no object."""
    backbone = ResNetConfig(
        embedding_size=8, hidden_sizes=[8, 16], depths=[1, 1], layer_type="basic", out_features=["stage2"]
    )
    config = DetrConfig(
        backbone_config=backbone, num_queries=12, d_model=16, encoder_layers=1, decoder_layers=1, encoder_ffn_dim=16,
        decoder_ffn_dim=16, encoder_attention_heads=2, decoder_attention_heads=2, id2label=NAMES,
    )  # fmt: skip
    return DetrForObjectDetection(config), DetrImageProcessorPil(size={"shortest_edge": 48, "longest_edge": 80})


def rt_detr():
    """(model, image processor) of RT-DETR: a sigmoid for each class."""
    backbone = RTDetrResNetConfig(
        embedding_size=8, hidden_sizes=[8, 16, 16, 16], depths=[1, 1, 1, 1], layer_type="basic",
        out_features=["stage2", "stage3", "stage4"],
    )  # fmt: skip
    config = RTDetrConfig(
        backbone_config=backbone, encoder_hidden_dim=16, encoder_in_channels=[16, 16, 16], feat_strides=[8, 16, 32],
        encoder_layers=1, encoder_ffn_dim=16, encoder_attention_heads=2, d_model=16, num_queries=12,
        decoder_in_channels=[16, 16, 16], decoder_ffn_dim=16, decoder_layers=1, decoder_attention_heads=2,
        num_denoising=0, hidden_expansion=1.0, decoder_n_points=2, id2label=NAMES,
    )  # fmt: skip
    return RTDetrForObjectDetection(config), RTDetrImageProcessorPil(size={"height": 64, "width": 64})


@pytest.fixture(scope="module")
def saved(tmp_path_factory, pictures):
    """(folder, model, image processor) of DETR."""
    return save(tmp_path_factory.mktemp("detector") / "tiny", pictures, *detr())


def save(folder, pictures, model, processor):
    """Random weights, large enough that boxes and classes differ from query to query; no class leads on the whole."""
    torch.manual_seed(0)
    with torch.no_grad():
        for name, weights in model.named_parameters():
            if weights.ndim > 1:
                fan_in = 1 if "query_position" in name else weights[0].numel()
                weights.normal_(0, 3 / fan_in**0.5)
        logits = model.eval()(**processor(images=pictures, return_tensors="pt")).logits
        bias = next(weights for name, weights in model.named_parameters() if "class_" in name and weights.ndim == 1)
        bias -= logits.mean((0, 1))
    model.save_pretrained(folder)
    processor.save_pretrained(folder)
    return folder, model, processor


@pytest.fixture(scope="module")
def pictures():
    rng = np.random.default_rng(0)
    return [Image.fromarray(rng.integers(0, 256, (*size, 3), np.uint8)) for size in [(40, 60), (70, 50), (30, 30)]]


@pytest.mark.parametrize("make", [detr, rt_detr])
def test_a_detector_finds_what_transformers_finds(make, pictures, tmp_path):
    folder, model, processor = save(tmp_path / "tiny", pictures, *make())
    detector = Detector(folder, least=0, min_score=0.0, probabilities=True, device="cpu")
    assert detector.classes == tuple(NAMES.values()) and detector.width == 16
    found = detector(pictures)
    assert [len(regions) for regions in found] == [12, 12, 12]
    assert len(np.unique([regions.labels for regions in found])) > 1
    inputs = processor(images=pictures, return_tensors="pt")
    with torch.inference_mode():
        outputs = model(**inputs)
    sizes = [picture.size[::-1] for picture in pictures]
    wanted = processor.post_process_object_detection(outputs, threshold=0.0, target_sizes=sizes)
    exclusive = outputs.logits.shape[-1] == CLASSES + 1
    for number, (regions, theirs) in enumerate(zip(found, wanted, strict=True)):
        scores, labels = theirs["scores"].numpy(), theirs["labels"].numpy()
        boxes = theirs["boxes"].numpy() / np.tile(pictures[number].size, 2)
        # RT-DETR lists the likeliest 12 of all queries' classes, a query once for each: its first one counts here.
        met = []
        for row in np.argsort(-scores, kind="stable"):
            region = int(np.abs(regions.boxes - boxes[row]).max(axis=1).argmin())
            np.testing.assert_allclose(regions.boxes[region], boxes[row], atol=1e-5)
            if region not in met:
                np.testing.assert_allclose(regions.scores[region], scores[row], rtol=1e-5)
                assert regions.labels[region] == labels[row]
                met.append(region)
        assert met == list(range(12 if exclusive else len(met))) and len(met) > 3
        logits, hidden = outputs.logits[number], outputs.last_hidden_state[number].numpy()
        odds = (logits.softmax(-1)[:, :-1] if exclusive else logits.sigmoid()).numpy()
        queries = np.argsort(-odds.max(axis=1), kind="stable")
        np.testing.assert_allclose(regions.features, hidden[queries], atol=1e-5)
        np.testing.assert_allclose(regions.probabilities, (odds / odds.sum(1, keepdims=True))[queries], atol=1e-6)
        middle = outputs.pred_boxes[number].numpy()[queries]
        np.testing.assert_allclose((regions.boxes[:, :2] + regions.boxes[:, 2:]) / 2, middle[:, :2], atol=1e-5)


def test_how_many_regions_a_detector_gives(saved, pictures):
    folder = saved[0]
    scores = Detector(folder, least=0, min_score=0.0)(pictures[:1])[0].scores
    between = float(scores[6] + scores[7]) / 2
    counts = {(0, 100): 7, (9, 100): 9, (0, 4): 4, (20, 100): 12}
    for (least, most), count in counts.items():
        found = Detector(folder, least=least, most=most, min_score=between)(pictures[:1])[0]
        np.testing.assert_array_equal(found.scores, scores[:count])
    with pytest.raises(AlignError, match=r"--least, --most: expected 0 <= least <= most, found 5 and 4"):
        Detector(folder, least=5, most=4)


def test_folders_that_hold_no_detector(saved, tmp_path):
    with pytest.raises(AlignError, match=r"--detector: expected a folder with config.json of transformers, found none"):
        Detector(tmp_path)
    (tmp_path / "config.json").write_text((saved[0] / "config.json").read_text())
    with pytest.raises(AlignError, match=r"--detector: expected weights and preprocessor_config.json in "):
        Detector(tmp_path)
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "bert"}))
    with pytest.raises(AlignError, match=r"--detector: expected a model of type detr, .* found 'bert'"):
        Detector(tmp_path)
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "zebra"}))
    with pytest.raises(AlignError, match=r"--detector: expected a model of transformers in "):
        Detector(tmp_path)


class Scenes:
    """Three pictures: with two boxes, with one that has no area, without any; and a file that is no picture."""

    object_classes = ("circle", "square")

    def __init__(self, pictures):
        boxes = [[[0.1, 0.2, 0.5, 0.9], [0.0, 0.0, 1.0, 1.0]], [[0.4, 0.4, 0.4, 0.6], [0.3, 0.3, 0.31, 0.31]]]
        objects = [Objects(np.float32(each), np.int32([1, 0])) for each in boxes]
        self._records = [
            Record(f"scenes/{number}.png", picture, (), str(number), objects=known)
            for number, (picture, known) in enumerate(zip([*pictures, b"none"], [*objects, None, None], strict=True))
        ]

    def __len__(self):
        return len(self._records)

    def __getitem__(self, index):
        return self._records[index]

    def ids(self):
        return pa.chunked_array([[record.id for record in self._records]])


@pytest.fixture(scope="module")
def model(finished_run):
    return align_jax.load(finished_run / "export")


def features(model, picture):
    """Of a whole picture, to its edges: a model that evaluates on a central window would not see them."""
    side = model.image_size
    resized = np.asarray(picture.resize((side, side), Image.Resampling.BILINEAR))
    return model.run("image_features", {"image": resized[None]})[0]


def test_regions_of_boxes_are_the_features_of_their_crops(model, pictures, tmp_path):
    source = Scenes(pictures)
    crops = Crops(model, objects_of, margin=0.25)
    found = Found(source, crops, width=crops.width, classes=source.object_classes, dtype="float32", key="stem",
                  batch_size=2, origin={})  # fmt: skip
    facts = write(found, tmp_path / "out", shard_size=3)
    assert facts.refused == {"image unreadable": 1, "no regions": 1}
    assert facts.changed == {"left out: box without area": 1}
    store = RegionStore(str(tmp_path / "out"))
    assert store.classes == ("circle", "square") and store.keys().to_pylist() == ["0", "1"]
    assert store["0"].labels.tolist() == [1, 0] and store["0"].scores.tolist() == [1, 1]
    # 60 x 40 pixels: 0.1 - 0.1 to 0.5 + 0.1 of 60, and 0.2 - 0.175 to 1 of 40.
    wanted = features(model, pictures[0].crop((0, 1, 36, 40)))
    np.testing.assert_allclose(store["0"].features[0], wanted, rtol=1e-4, atol=1e-6)
    np.testing.assert_allclose(store["0"].features[1], features(model, pictures[0]), rtol=1e-4, atol=1e-6)
    assert np.isfinite(store["1"].features).all() and store["1"].labels.tolist() == [0]
    assert not np.allclose(store["0"].features[0], store["0"].features[1], rtol=1e-2)


def test_the_whole_picture_as_one_more_region(model, pictures):
    shown = [Shown(pictures[0], Objects(np.float32([[0, 0, 0.5, 0.5]]), np.int32([1]))), Shown(pictures[2], None)]
    regions, alone = Crops(model, objects_of, whole=True)(shown)
    assert regions.boxes.tolist() == [[0, 0, 1, 1], [0, 0, 0.5, 0.5]]
    assert regions.labels.tolist() == [-1, 1] and regions.scores.tolist() == [1, 1]
    np.testing.assert_allclose(regions.features[0], features(model, pictures[0]), rtol=1e-4, atol=1e-6)
    np.testing.assert_allclose(alone.features[0], features(model, pictures[2]), rtol=1e-4, atol=1e-6)
    assert regions.best(1).labels.tolist() == [-1]

    def sure(shown):
        return [Regions(np.zeros((1, 9)), np.float32([[0, 0, 1, 1]]), np.int32([2]), np.float32([0.5]), np.eye(3)[2:])]

    both = Crops(model, sure, whole=True)(shown[:1])[0]
    assert both.probabilities.tolist() == [[0, 0, 0], [0, 0, 1]] and both.scores.tolist() == [1, 0.5]


def test_crops_need_a_tower(model):
    with pytest.raises(AlignError, match="--margin: expected at least 0, found -1"):
        Crops(model, objects_of, margin=-1)


def test_detected_regions_on_disk(saved, pictures, tmp_path):
    """What is stored is what is found, boxes cut to the image, whatever stands beside a broken picture."""
    detector = Detector(saved[0], least=LEAST, min_score=1.0)
    source = Scenes(pictures)
    found = Found(source, by_detector(detector), width=detector.width, classes=detector.classes, dtype="float32",
                  batch_size=3, origin=detector.facts)  # fmt: skip
    facts = write(found, tmp_path / "out")
    assert facts.refused == {"image unreadable": 1} and facts.origin["model_type"] == saved[1].config.model_type
    store = RegionStore(str(tmp_path / "out"))
    for number, regions in enumerate(detector(pictures)):
        kept = store[f"scenes/{number}.png"]
        inside = np.clip(regions.boxes, 0, 1)
        area = (inside[:, :2] < inside[:, 2:]).all(axis=1)
        np.testing.assert_array_equal(kept.boxes, inside[area])
        np.testing.assert_array_equal(kept.features, regions.features[area])
        np.testing.assert_array_equal(kept.scores, regions.scores[area])
    with pytest.raises(BadExample):
        store["scenes/3.png"]


FLAGS = {
    "boxes": None, "detector": None, "model": None, "most": 100, "least": 10, "min_score": 0.2, "probabilities": False,
    "device": None, "margin": 0.0, "whole": False, "dtype": "float16", "key": "stem", "batch_size": 8,
}  # fmt: skip


def test_the_flags_of_pictures(saved, model, finished_run, tmp_path):
    """Each mode, wired as the verb does it; test_regions runs the verb itself."""
    pairs = str(finished_run.parent / "pairs.jsonl")

    def written(name, **flags):
        write(verb.found(SimpleNamespace(**(FLAGS | {"data": pairs} | flags))), tmp_path / name)
        return RegionStore(str(tmp_path / name))

    detected = written("detected", detector=str(saved[0]), least=4, min_score=1.0)
    assert len(detected) == 16 and len(detected["red_cross"]) == 4 and detected.classes == tuple(NAMES.values())
    assert detected.facts.origin["data"] == {"name": "manifest", "path": pairs}
    towers = {"detector": str(saved[0]), "boxes": "detector", "model": str(finished_run / "export"), "whole": True}
    cropped = written("cropped", least=4, min_score=1.0, probabilities=True, **towers)
    found = cropped["red_cross"]
    assert found.labels.tolist() == [-1, *detected["red_cross"].labels] and cropped.width == found.features.shape[1]
    np.testing.assert_array_equal(found.boxes[1:], detected["red_cross"].boxes)
    picture = Image.open(finished_run.parent / "red_cross.png").convert("RGB")
    np.testing.assert_allclose(found.features[0], features(model, picture), rtol=2e-3, atol=1e-6)  # of halves
    with pytest.raises(AlignError, match=r"--boxes=source: expected data that know their objects, found none"):
        written("none", **(towers | {"boxes": "source", "detector": None}))


def test_a_flag_that_would_do_nothing():
    _, told = shapes_run.finish("align_jax.regions", "--out=a", "--detector=a", "--data=b", "--whole", status=2)
    assert told == "error: --whole: expected with --boxes, found without\n"
