"""Several sources in one: shares by weight, ids that stay unique, and each part with its own filter."""

import collections

import pytest
from tiny_run import COLOURS, config, manifest

from align_jax import config as configs
from align_jax.data import source as sources
from align_jax.data.pipeline import Stream
from align_jax.types import AlignError


@pytest.fixture
def parts(tmp_path):
    """Two manifests with the same ids, of 8 and 16 records."""
    return [{"name": "manifest", "path": str(manifest(tmp_path / str(count), count))} for count in (8, 16)]


def mixture(*parts, **options):
    return sources.make(name="mixture", sources=parts, **options)


def keep(folder, *ids):
    path = folder / "keep.txt"
    path.write_text("".join(f"{name}\n" for name in ids))
    return {"path": str(path)}


def test_a_mixture_is_a_source(parts):
    source = mixture(*parts)
    single = [sources.make(**part) for part in parts]
    assert len(source) == 24 and source.classes == tuple(sorted(COLOURS))
    for index in range(24):
        number, of_part = (0, index) if index < 8 else (1, index - 8)
        record, expected = source[index], single[number][of_part]
        assert record.id == f"{number}/{expected.id}" and record.group == f"{number}/{expected.group}"
        assert (record.texts, record.image, record.label) == (expected.texts, expected.image, expected.label)
    assert source.ids().to_pylist() == [source[index].id for index in range(24)]
    assert len(set(source.ids().to_pylist())) == 24
    assert list(source.texts()) == [text for part in single for text in part.texts()]
    assert source.files() == [file for part in single for file in part.files()]


def stream(source, steps=40):
    return Stream(source, lambda record, rng: {"one": rng.integers(2)}, 12, range(12), steps, 1)


def test_weights_are_shares_of_the_rows(parts):
    source = mixture({**parts[0], "weight": 2}, parts[1])
    reader = stream(source)
    ids = [name for step in range(40) for name in reader.ids(step)]
    assert collections.Counter(name[0] for name in ids) == {"0": 320, "1": 160}
    # 320 rows of 8 records, and 160 of 16: each was read exactly 40 and 10 times.
    assert set(collections.Counter(name for name in ids if name[0] == "0").values()) == {40}
    assert set(collections.Counter(name for name in ids if name[0] == "1").values()) == {10}


def test_a_part_may_have_a_filter(parts, tmp_path):
    source = mixture({**parts[0], "filter": (keep(tmp_path, "n1", "n2", "x"),)}, parts[1])
    path = tmp_path / "keep.txt"
    assert len(source) == 18 and source.ids().to_pylist()[:3] == ["0/n1", "0/n2", "1/n0"]
    assert source.problems == {
        f"filter {path}: id unknown to the source (source 0)": 1,
        f"filter {path}: not listed (source 0)": 6,
    }
    ids = [name for step in range(10) for name in stream(source).ids(step)]
    assert collections.Counter(name[0] for name in ids) == {"0": 60, "1": 60}, "a filter does not change the shares"


def test_a_mixture_may_have_a_filter_and_parts_of_its_own(parts, tmp_path):
    inner = {"name": "mixture", "sources": parts, "weight": 3}
    names = ("0/0/n3", "0/1/n15", "0/1/n1", "1/n5")
    source = mixture(inner, parts[1], filter=(keep(tmp_path, *names),))
    assert source.ids().to_pylist() == ["0/0/n3", "0/1/n1", "0/1/n15", "1/n5"]
    ids = [name for step in range(40) for name in stream(source).ids(step)]
    assert collections.Counter(ids) == {"0/0/n3": 180, "0/1/n1": 90, "0/1/n15": 90, "1/n5": 120}
    with pytest.raises(AlignError, match=r"expected a record left of each part, found none of 16; leave it out"):
        mixture(*parts, filter=(keep(tmp_path, "0/n3"),))


def test_labels_of_parts_must_agree(parts, tmp_path):
    plain = tmp_path / "plain.jsonl"
    plain.write_text('{"image": "a.png", "text": "x"}\n')
    without = {"name": "manifest", "path": str(plain)}
    assert mixture(without, parts[0]).classes == tuple(sorted(COLOURS)) and mixture(without).classes == ()
    other = tmp_path / "other.jsonl"
    other.write_text('{"image": "a.png", "text": "x", "label": "mauve"}\n')
    with pytest.raises(AlignError, match=r"the same classes .*, found 4 in source 1 and 1 others in source 2;"):
        mixture(without, parts[0], {"name": "manifest", "path": str(other)})


@pytest.mark.parametrize(
    ("change", "match"),
    [
        ({"weight": 0}, r"data\.source\.sources\[1\]\.weight: expected a positive number, found 0; leave"),
        ({"weight": -1.5}, r"sources\[1\]\.weight: expected a positive number, found -1\.5"),
        ({"weight": float("nan")}, r"sources\[1\]\.weight: expected a positive number, found nan"),
        ({"weight": float("inf")}, r"sources\[1\]\.weight: expected a positive number, found inf"),
        ({"weight": "2"}, r"sources\[1\]\.weight: expected a positive number, found '2'"),
        ({"weight": True}, r"sources\[1\]\.weight: expected a positive number, found True"),
        ({"wieght": 2}, r"sources\[1\]: source 'manifest': unknown key 'wieght'"),
        ({"name": "tar.gz"}, r"sources\[1\]: data\.source\.name: expected one of .*, found 'tar\.gz'"),
        ({"path": "EMPTY"}, r"sources\[1\]: source 'manifest': expected at least one record, found none"),
    ],
    ids=str,
)  # fmt: skip
def test_mistakes_name_the_part(parts, tmp_path, change, match):
    (tmp_path / "empty.jsonl").touch()
    if "path" in change:
        change = {"path": str(tmp_path / "empty.jsonl")}
    with pytest.raises(AlignError, match=match) as error:
        mixture(parts[0], parts[1] | change)
    assert "\n" not in str(error.value)


def test_a_mixture_needs_a_source():
    with pytest.raises(AlignError, match="expected at least one source of the mixture, found none"):
        mixture()
    with pytest.raises(AlignError, match=r"sources: expected a list of sections, found \{'name'"):
        sources.make(name="mixture", sources={"name": "emoji"})


def test_a_config_may_hold_a_mixture_and_keeps_it_as_json(parts, tmp_path):
    made = config(tmp_path / "8" / "pairs.jsonl")
    filter = (keep(tmp_path, "n1", "n2"),)
    made.data.source = {"name": "mixture", "sources": ({**parts[0], "filter": filter, "weight": 0.5}, parts[1])}
    (tmp_path / "config.json").write_text(made.to_json())
    for found in (made, configs.load(tmp_path / "config.json")):
        source = sources.make(**found.data.source)
        assert len(source) == 18 and [weight for _, weight in source.parts] == [0.5, 1.0]
