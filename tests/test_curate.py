"""The whole of curation: pairs with planted defects in, clean shards and exact counts out, whatever happens between."""

import hashlib
import html.parser
import importlib.util
import io
import json
import signal
import subprocess
import sys
import time
from collections import Counter
from itertools import pairwise
from pathlib import Path

import jax
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from array_record.python import array_record_module
from PIL import Image
from planted_pairs import Planted
from tiny_run import config as tiny_config
from tiny_run import manifest
from webdataset import tariterators

from align_jax import config as configs
from align_jax import files
from align_jax import run as runs
from align_jax.curation import array_records, layout, ngrams, settings
from align_jax.curation.run import curate
from align_jax.data import example, images
from align_jax.data import source as sources
from align_jax.data.source import BadExample
from align_jax.export import export
from align_jax.loading import load
from align_jax.types import AlignError

ROOT = Path(__file__).parent.parent
CROWD = 12
HOSTILE = "a red <script>alert(1)</script><img src=x onerror=alert(2)> apple {{ 7 * 7 }}"


def config(name: str):
    """configs/<name>.py."""
    spec = importlib.util.spec_from_file_location(name, ROOT / "configs" / f"{name}.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module.get_config()


def command(planted: Planted, workdir: Path, *more: str) -> list[str]:
    """The program, on small shards."""
    evaluation = ({"name": "manifest", "path": str(planted.folder / "test.jsonl")},)
    return [
        sys.executable, "-m", "align_jax.curate", "--config=configs/curate_align.py", f"--workdir={workdir}",
        f"--config.source.path={planted.folder / 'pairs.jsonl'}", f"--config.evaluation={evaluation!r}",
        f"--config.counting.top_ngrams={planted.top_ngrams}", f"--config.rules.texts_per_image.at_most={CROWD}",
        "--config.image.size=96", "--config.records_per_shard=48", "--config.output.records_per_shard=20", *more,
    ]  # fmt: skip


def finish(*arguments) -> subprocess.CompletedProcess:
    done = subprocess.run(command(*arguments), cwd=ROOT, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    return done


def contents(workdir: Path) -> dict[str, str]:
    """Relative path -> digest of every file but the times and what tells of them."""
    return {
        str(path.relative_to(workdir)): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(workdir.rglob("*"))
        if path.is_file() and not path.name.startswith(("report.", "seconds.", "config."))
    }


@pytest.fixture(scope="module")
def planted(tmp_path_factory):
    return Planted(tmp_path_factory.mktemp("planted") / "pairs", 240, crowd=CROWD, concepts=10)


@pytest.fixture(scope="module")
def done(planted, tmp_path_factory):
    """The work directory of the command."""
    workdir = tmp_path_factory.mktemp("curated") / "out"
    finish(planted, workdir)
    return workdir


def table(folder: Path) -> pa.Table:
    """All sidecars, in order."""
    return pa.concat_tables(pq.read_table(path / "records.parquet") for path in sorted(folder.iterdir()))


def keep_lists(workdir: Path) -> list[dict]:
    return pa.concat_tables(pq.read_table(path) for path in sorted((workdir / "keep").iterdir())).to_pylist()


def test_drops_what_was_planted(planted, done):
    report = json.loads((done / "report.json").read_text())
    found = report["records"]
    assert {rule: count for rule, count in found["dropped"].items() if count} == planted.expected
    assert (found["read"], found["kept"]) == (len(planted.rows), planted.kept)
    assert found["read"] == found["kept"] + sum(found["dropped"].values())
    texts = report["texts"]
    assert texts["read"] == sum(len(row["texts"]) for row in planted.rows)
    assert texts["read"] == texts["kept"] + sum(texts["dropped"].values())
    assert sum(report["unreadable"].values()) == planted.expected["unreadable"]
    why = {"image unreadable", "image file missing", "image truncated", "image empty"}
    assert set(report["unreadable"]) == why
    assert sum(report["shorter_side"]["kept"]) == planted.kept
    assert set(report["seconds"]) == {"read", "judge", "write"}


def test_the_shards_hold_what_is_kept(planted, done):
    names = [f"shard-{i:05d}-of-{-(-planted.kept // 20):05d}.array_record" for i in range(-(-planted.kept // 20))]
    assert sorted(path.name for path in (done / "shards").iterdir()) == names
    stored = []
    for name in names:
        reader = array_record_module.ArrayRecordReader(str(done / "shards" / name))
        stored += [example.decode(record) for record in reader.read_all()]
        reader.close()
    kept = [row for row in keep_lists(done) if not row["rule"]]
    assert [row["key"][0].decode() for row in stored] == [row["id"] for row in kept]
    assert [[text.decode() for text in row["txt"]] for row in stored] == [row["texts"] for row in kept]
    raw = {row["image"]: row["texts"] for row in planted.rows}
    for row in stored[::7]:
        name = row["key"][0].decode()
        assert set(row) == {"key", "jpg", "txt", "group"} and row["group"] == row["key"]
        assert {text.decode() for text in row["txt"]} <= set(raw[name])
        picture = Image.open(io.BytesIO(row["jpg"][0]))
        assert (picture.format, picture.size) == ("JPEG", (96, 96))
        wanted = Image.open(planted.folder / name).resize((96, 96), Image.Resampling.BILINEAR)
        assert np.abs(np.asarray(picture, int) - np.asarray(wanted, int)).mean() < 4


def test_the_sources_read_what_was_curated(done, tmp_path):
    kept = [row for row in keep_lists(done) if not row["rule"]]
    source = sources.make(
        name="array_record", path=str(done / "shards" / "*.array_record"), index=str(tmp_path / "index")
    )
    records = [source[i] for i in range(len(source))]
    assert [record.group for record in records] == [row["id"] for row in kept]
    assert [record.id.partition("/")[2] for record in records] == [row["id"] for row in kept]
    assert [list(record.texts) for record in records] == [row["texts"] for row in kept]
    assert {images.decode(record.image).size for record in records} == {(96, 96)} and not source.problems


def test_keep_lists_are_filters(planted, done):
    """The raw pairs, without shards of their own: those that curation keeps, with all of their texts."""
    path = str(done / "keep" / "*.parquet")
    pairs = {"name": "manifest", "path": str(planted.folder / "pairs.jsonl")}
    source = sources.make(**pairs, filter=({"path": path, "column": "rule", "equals": ""},))
    assert source.ids().to_pylist() == [row["id"] for row in keep_lists(done) if not row["rule"]]
    assert len([file for file in source.files() if "keep" in file.name]) == len(list((done / "keep").iterdir()))
    assert len(sources.make(**pairs, filter=({"path": path},))) == len(planted.rows), "without a column all are listed"


def test_the_pipeline_equals_plain_python(planted, done):
    """Every number that Beam finds, from the sidecars by strings and dictionaries."""
    rows = table(done / "work" / "raw").to_pylist()
    tests = [row["phash"] for row in table(done / "work" / "evaluation-0").to_pylist()]
    grams: Counter = Counter()
    texts_of, images_of = {}, {}
    for row in rows:
        for text in row["texts"]:
            words = ngrams.words(text)
            grams.update([*words, *pairwise(words)])
            if words and not row["reason"]:
                texts_of.setdefault(row["image_hash"], set()).add(tuple(words))
                images_of.setdefault(tuple(words), set()).add(row["image_hash"])
    least = sorted(grams.values(), reverse=True)[planted.top_ngrams - 1]

    def dropped_text(text):
        words = ngrams.words(text)
        rare = any(grams[gram] < least for gram in [*words, *pairwise(words)])
        broken = {"empty_text": not words, "word_count": not 3 <= len(words) <= 20, "rare_ngrams": rare,
                  "shared_text": len(images_of.get(tuple(words), ())) > 10}  # fmt: skip
        return next((rule for rule, bad in broken.items() if bad), "")

    order = ["unreadable", "shorter_side", "aspect", "texts_per_image", "evaluation_pictures"]
    last = ["empty_text", "word_count", "rare_ngrams", "shared_text"]
    for row, found in zip(rows, keep_lists(done), strict=True):
        sides = sorted((row["width"], row["height"]))
        near = any((row["phash"] ^ other).bit_count() <= 4 for other in tests)
        crowd = len(texts_of.get(row["image_hash"], ())) > CROWD
        broken = [row["reason"] != "", sides[0] <= 200, sides[1] >= 3 * sides[0], crowd, near]
        if any(broken):
            rules = [order[broken.index(True)]] * len(row["texts"])
            assert found["rule"] == rules[0]
        else:
            rules = [dropped_text(text) for text in row["texts"]]
            assert found["rule"] == ("" if "" in rules else max(rules, key=last.index))
        assert found["id"] == row["id"] and found["text_rules"] == rules
        assert found["texts"] == [text for text, rule in zip(row["texts"], rules, strict=True) if not rule]


def test_a_second_run_changes_nothing(planted, done):
    before = {path: path.stat().st_mtime_ns for path in done.rglob("*")}
    assert "all is done" in finish(planted, done, "--config.threads=1").stdout
    assert {path: path.stat().st_mtime_ns for path in done.rglob("*")} == before


def test_killed_at_any_step(planted, done, tmp_path):
    """A kill while reading, while judging and while writing; then the same bytes as of a run that nobody disturbed."""
    workdir = tmp_path / "out"
    for part, count in (("work/raw/0*-of-?????", 2), ("keep/*.parquet", 1), ("shards/*.array_record", 2)):
        with subprocess.Popen(command(planted, workdir), cwd=ROOT, stderr=subprocess.DEVNULL) as process:
            while len(list(workdir.glob(part))) < count and process.poll() is None:
                time.sleep(0.002)
            process.send_signal(signal.SIGKILL)
        assert process.returncode == -signal.SIGKILL, f"it ended before it could be killed at {part}"
    finish(planted, workdir)
    assert contents(workdir) == contents(done)
    counts = [json.loads((folder / "report.json").read_text())["records"] for folder in (workdir, done)]
    assert counts[0] == counts[1]


def align_config(planted: Planted):
    found = config("curate_align")
    found.source.path = str(planted.folder / "pairs.jsonl")
    return found


def test_another_config_or_source_is_refused(planted, tmp_path):
    found = align_config(planted)
    found.rules.word_count.at_least = 99  # nothing is left
    with pytest.raises(AlignError, match=r"expected to keep a record, found none; .*keep says why"):
        curate(found, tmp_path / "out", load=load)
    found.rules.aspect.below = 2.5
    with pytest.raises(
        AlignError, match=r"was made with config\.rules\.aspect\.below = 3\.0, this run has 2\.5; give"
    ) as error:
        curate(found, tmp_path / "out", load=load)
    assert "\n" not in str(error.value)
    found.rules.aspect.below = 3.0
    other = tmp_path / "pairs.jsonl"
    rows = (planted.folder / "pairs.jsonl").read_text()
    other.write_text(rows)
    found.source.images = str(planted.folder)
    found.source.path = str(other)
    with pytest.raises(AlignError, match=r"was made with config\.source\.images = None"):
        curate(found, tmp_path / "out", load=load)
    (tmp_path / "out" / "config.json").unlink()
    other.write_text(rows.replace("red", "rot"))
    with pytest.raises(AlignError, match=r"was made with source .*pairs\.jsonl = '.* records, .* digest"):
        curate(found, tmp_path / "out", load=load)


@pytest.mark.parametrize(
    ("where", "value", "match"),
    [
        ("rulez", {}, "config: unknown key 'rulez'; did you mean 'rules'"),
        ("image.sise", 3, "config.image: unknown key 'sise'; did you mean 'size'"),
        (
            "output.format",
            "zip",
            r"config\.output\.format: expected one of \['array_record', 'webdataset'\], found 'zip'",
        ),
        ("threads", 0, "config.threads: expected a whole number of at least 1, found 0"),
        ("counting.top", 3, "config.counting: unknown key 'top'"),
        ("measures", {"unsafe": {}}, "config.measures.unsafe: expected either column or function, found"),
        (
            "measures",
            {"unsafe": {"function": "no:f"}},
            "config.measures.unsafe: expected module:function, found 'no:f'",
        ),
        ("rules.scores", {"unsafe": {"below": 1}}, "config.rules.scores: unknown key 'unsafe'"),
        ("rules.semantic_score", {"above": 0.2}, "config.checkpoint: .* need a run or an export"),
        ("rules.evaluation_embeddings", {"cosine": 0.9}, "config.checkpoint: .* need a run or an export"),
        ("rules.language", {"keep": ("en",)}, "config.languages: the rule language needs"),
        ("evaluation", ({"name": "emoji"},), "config.evaluation: expected the rule evaluation_pictures"),
        ("image.quality", 101, "config.image: expected size of at least 1 and quality of 1..100, found 346 and 101"),
        ("search.nearest", 1, "config.search: expected 1 <= chosen <= nearest"),
    ],
)
def test_a_wrong_config_is_refused(planted, tmp_path, where, value, match):
    found = align_config(planted)
    if where == "evaluation":
        del found.rules["evaluation_pictures"]
    *parents, last = where.split(".")
    node = found
    for parent in parents:
        node = node[parent]
    with node.ignore_type():
        node[last] = value
    with pytest.raises(AlignError, match=match) as error:
        curate(found, tmp_path / "out", load=load)
    assert "\n" not in str(error.value) and not (tmp_path / "out").exists()


def test_wrong_options_of_beam_are_refused(planted, tmp_path):
    from align_jax.curation import pipeline

    with pytest.raises(AlignError, match=r"after --: expected options of Apache Beam .* did you mean 'runner'"):
        pipeline.options(["--runer=FlinkRunner"])
    assert pipeline.options(["--direct_num_workers=2"]).get_all_options()["runner"] == pipeline.EMBEDDED
    assert pipeline.options(["--runner=DirectRunner"]).get_all_options()["runner"] == pipeline.EMBEDDED
    assert pipeline.options(["--runner=FlinkRunner"]).get_all_options()["runner"] == "FlinkRunner"


def test_beam_is_asked_for_before_any_work(planted, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "apache_beam", None)
    monkeypatch.delitem(sys.modules, "align_jax.curation.pipeline", raising=False)
    monkeypatch.delattr("align_jax.curation.pipeline", raising=False)
    with pytest.raises(AlignError, match=r'expected apache-beam; run: pip install "align-jax\[curate\]"'):
        curate(align_config(planted), tmp_path / "out", load=load)
    assert not (tmp_path / "out").exists()


def test_one_process_at_a_time(planted, tmp_path):
    with layout.alone(tmp_path / "out"), pytest.raises(AlignError, match="another process is at work here"):
        curate(align_config(planted), tmp_path / "out", load=load)


class Page(html.parser.HTMLParser):
    """What a browser would run, load or show."""

    def __init__(self):
        super().__init__()
        self.tags: list[tuple[str, dict]] = []
        self.text = ""

    def handle_starttag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))

    def handle_data(self, data):
        self.text += data


def inert(page: str) -> Page:
    found = Page()
    found.feed(page)
    assert not {tag for tag, _ in found.tags} & {"script", "iframe", "link", "object", "form"}
    for _, attributes in found.tags:
        assert not [name for name in attributes if name.startswith("on")]
        assert attributes.get("src", "data:").startswith("data:image/jpeg;base64,") or "src" not in attributes
    return found


def lait(planted: Planted, tmp_path: Path, rows: list[dict], **columns) -> dict:
    """The config of LAIT on some rows, with their columns."""
    path = tmp_path / "pairs.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    pq.write_table(
        pa.table({"id": [row.get("id", row["image"]) for row in rows], **columns}), tmp_path / "pages.parquet"
    )
    found = config("curate_lait")
    found.source.path, found.source.images = str(path), str(planted.folder)
    found.columns = str(tmp_path / "pages.parquet")
    found.image.size, found.rules.shorter_side.above = 64, 100
    return found


@pytest.fixture(scope="module")
def good_rows(planted):
    """Rows whose pictures are good and of one record each."""
    readable = []
    for row in planted.rows:
        try:
            size = images.decode(str(planted.folder / row["image"])).size
        except BadExample:
            continue
        if min(size) > 250:
            readable.append(row["image"])
    return [{"image": name, "texts": [f"a picture of number {i % 5}"]} for i, name in enumerate(readable[:40])]


@pytest.fixture(scope="module")
def export_folder(tmp_path_factory):
    """An export with the weights of a start: what a model says matters here only in that it always says the same."""
    folder = tmp_path_factory.mktemp("model")
    training = tiny_config(manifest(folder / "data"))
    training.seed = 1  # one whose start does not prefer the title that all have
    source = sources.make(**training.data.source)
    parts = runs.prepare(training, folder, source)
    files.write_json(folder / "config.json", configs.plain(training))
    with jax.set_mesh(parts.mesh):
        return export(parts, parts.fresh(), source)


def test_lait_with_a_checkpoint(planted, good_rows, export_folder, tmp_path):
    """Columns, candidates, language, a semantic score and aggregation, with a real model."""
    rows = [dict(row) for row in good_rows]
    n = len(rows)
    rows[0] |= {"texts": [HOSTILE], "id": '"><script>alert(3)</script>'}
    columns = {
        "language": ["fr" if i == 1 else "en" for i in range(n)], "nsfw": [0.9 if i == 2 else 0.1 for i in range(n)],
        "realistic": [0.2 if i == 3 else 0.8 for i in range(n)],
        "title": ["a picture of number 0" if i < 20 else None for i in range(n)],
        "og_description": ["Cheap pills for you. A picture of number 3 too." if i == 4 else None for i in range(n)],
        "surrounding": [[f"see https://x.org/{i}.jpg a picture of number 4"] if i == 5 else [] for i in range(n)],
    }  # fmt: skip
    found = lait(planted, tmp_path, rows, **columns)
    found.checkpoint = str(export_folder)
    found.counting.top_ngrams, found.rules.semantic_score.above = 1000, -1.0
    found.rules.banned_words.words = ("pills",)
    found.texts.strip = (r"https?://\S+",)  # and not the tags: the report must take them
    found.output.format = "webdataset"
    with found.rules.ignore_type():
        found.rules.shared_description.at_most = 3
    workdir = tmp_path / "out"
    curate(found, workdir, load=load)
    report = json.loads((workdir / "report.json").read_text())
    dropped = report["records"]["dropped"]
    assert (dropped["unsafe"], dropped["realistic"], dropped["language"]) == (1, 1, 1)
    assert report["records"]["read"] == report["records"]["kept"] + sum(dropped.values())
    verdicts = {row["id"]: row for row in keep_lists(workdir)}
    assert verdicts[rows[4]["image"]]["text_rules"].count("banned_words") == 1, "the sentence, not the whole text"

    model = load(export_folder)
    facts = table(workdir / "work" / "raw").to_pylist()
    stored = {
        row["id"]: image for row, image in zip(facts, _images(workdir / "work" / "raw"), strict=True)
    }  # fmt: skip
    best = {}
    for row in facts:
        rules = verdicts[row["id"]]["text_rules"]
        left = [
            text
            for text, rule in zip(row["texts"], rules, strict=True)
            if rule in ("", "best_text", "shared_description")
        ]
        if left:
            cosines = model.embed_texts(left) @ model.embed_images([stored[row["id"]]])[0]
            best[row["id"]] = left[int(np.argmax(cosines))]
    pictures = Counter(best.values())
    for name, text in best.items():
        assert verdicts[name]["texts"] == ([text] if pictures[text] <= 3 else []), "counted on what is best"
    assert dropped["shared_description"] == sum(count for count in pictures.values() if count > 3) > 0

    samples = []
    for path in sorted((workdir / "shards").iterdir()):
        with path.open("rb") as file:
            files_of = tariterators.tar_file_expander([{"url": path.name, "stream": file}])
            samples += list(tariterators.group_by_keys(files_of))
    assert [(json.loads(sample["json"])["key"], sample["txt"].decode()) for sample in samples] == [
        (row["id"], row["texts"][0]) for row in verdicts.values() if not row["rule"]
    ]
    assert all(sample["jpg"] == stored[json.loads(sample["json"])["key"]] for sample in samples)
    page = inert((workdir / "report.html").read_text())
    assert "<script>alert(1)</script><img src=x onerror=alert(2)> apple {{ 7 * 7 }}" in page.text
    assert '"><script>alert(3)</script>' in page.text


def _images(folder: Path) -> list[bytes]:
    found = []
    for path in sorted(folder.iterdir()):
        reader = array_record_module.ArrayRecordReader(str(path / "images.array_record"))
        found += reader.read_all()
        reader.close()
    return found


def brightness(images):
    """A classifier as a user writes it."""
    assert images.dtype == np.uint8 and images.shape[1:] == (64, 64, 3)
    return images.mean((1, 2, 3)) / 255


def alphabet(texts):
    """A language classifier."""
    return ["en" if text.isascii() else "other" for text in texts]


def test_functions_of_users_and_near_duplicates_by_embedding(planted, good_rows, export_folder, tmp_path):
    rows = [dict(row) for row in good_rows]
    rows[1]["texts"] = ["une été à la plage", "an english one beside"]
    found = lait(planted, tmp_path, rows)
    test = tmp_path / "test.jsonl"
    test.write_text("".join(json.dumps({"image": row["image"], "texts": ["x"]}) + "\n" for row in rows[-3:]))
    found.evaluation = ({"name": "manifest", "path": str(test), "images": str(planted.folder)},)
    found.texts.columns = ()
    found.checkpoint = str(export_folder)
    with found.ignore_type():
        found.measures = {"bright": {"function": "test_curate:brightness"}}
        found.languages = {"function": "test_curate:alphabet"}
        found.rules = {
            "scores": {"bright": {"above": 0.6}}, "language": {"keep": ("en",)},
            "evaluation_embeddings": {"cosine": 0.975},
        }  # fmt: skip
    found.search.clusters, found.search.nearest = 4, 4
    workdir = tmp_path / "out"
    link = tmp_path / "as_workers_see_it"
    link.symlink_to(workdir)
    curate(found, workdir, load=load, beam=["--runner=DirectRunner"], workers_see=str(link))
    before = contents(workdir)
    next((workdir / "shards").iterdir()).unlink()
    next((workdir / "keep").iterdir()).unlink()
    curate(found, workdir, load=load, workers_see=str(link))
    assert contents(workdir) == before, "what is lost comes back"
    verdicts = {row["id"]: row for row in keep_lists(workdir)}
    facts = {row["id"]: row for row in table(workdir / "work" / "raw").to_pylist()}
    stored = dict(zip(facts, _images(workdir / "work" / "raw"), strict=True))
    model = load(export_folder)
    units = model.embed_images([stored[row["image"]] for row in rows[-3:]])
    for name, row in facts.items():
        pixels = np.asarray(Image.open(io.BytesIO(stored[name])), float)
        assert row["score:bright"] == pytest.approx(pixels.mean() / 255, abs=0.01)
        dark = row["score:bright"] <= 0.6
        near = (units @ model.embed_images([stored[name]])[0]).max() > 0.975
        assert verdicts[name]["rule"] == ("bright" if dark else "evaluation_embeddings" if near else "")
    rules = Counter(row["rule"] for row in verdicts.values())
    assert rules["bright"] and rules["evaluation_embeddings"] and rules[""]
    first = verdicts[rows[1]["image"]]
    assert first["rule"] or first["texts"] == ["an english one beside"]


def _text(path):
    path.write_text("x" * 10_000)


def _array_record(path):
    with array_records.writing(path) as append:
        append(b"x" * 10_000)


def _parquet(path):
    pq.write_table(pa.table({"x": ["y" * 10_000]}), path)


@pytest.mark.parametrize("write", [_text, _array_record, _parquet])
def test_a_full_disk_is_one_line(tmp_path, write):
    """/dev/full takes no byte, as a disk that is full."""
    told = pytest.raises(AlignError, match=r"shards/x: cannot be written \(.*No space left on device.*\)")
    with told as error, layout.whole(tmp_path / "shards" / "x") as partial:
        partial.symlink_to("/dev/full")
        write(partial)
    assert "\n" not in str(error.value) and not (tmp_path / "shards" / "x").exists()


@pytest.mark.parametrize("path", sorted((ROOT / "configs").glob("curate_*.py")), ids=lambda path: path.stem)
def test_the_configs_are_complete(path):
    """All that a config leaves open are the files of its user."""
    assert f"--config=configs/{path.name}" in path.read_text()
    found = config(path.stem)
    found.checkpoint = "a model"
    assert settings.of(found).resize.size == 346
