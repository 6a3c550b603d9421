"""The rules of curation one by one, at both sides of their thresholds, and what they know: hashes, counts, buckets."""

import io
from collections import Counter

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image as Pillow
from planted_pairs import COLOURS
from tiny_run import manifest

from align_jax.curation import embeddings, measures, ngrams, rules
from align_jax.curation.candidates import Candidates
from align_jax.curation.perceptual import BITS, NearHashes, phash
from align_jax.curation.rules import Image, Rules, Text
from align_jax.data.emoji import EmojiPairs
from align_jax.data.manifest import Manifest
from align_jax.types import AlignError

GOOD = Image("", 640, 480, {"unsafe": 0.1}, 1, BITS, -1.0)
PLAIN = Text(("a", "red", "apple"), "en", 0, 0.0, 1, 0.5)


@pytest.mark.parametrize(
    ("rule", "options", "stays", "goes"),
    [
        ("shorter_side", {"above": 200}, {"width": 201, "height": 300}, {"width": 300, "height": 200}),
        ("aspect", {"below": 3.0}, {"width": 299, "height": 100}, {"width": 100, "height": 300}),
        ("texts_per_image", {"at_most": 1000}, {"texts": 1000}, {"texts": 1001}),
        ("evaluation_pictures", {"bits": 3}, {"evaluation_bits": 4}, {"evaluation_bits": 3}),
        ("evaluation_embeddings", {"cosine": 0.975}, {"evaluation_cosine": 0.975}, {"evaluation_cosine": 0.976}),
        ("score", {"name": "unsafe", "below": 0.5}, {"scores": {"unsafe": 0.49}}, {"scores": {"unsafe": 0.5}}),
        ("score", {"name": "real", "above": 0.5}, {"scores": {"real": 0.51}}, {"scores": {"real": 0.5}}),
        ("score", {"name": "real", "above": 0.5}, {"scores": {"real": 1.0}}, {"scores": {"real": float("nan")}}),
    ],
)
def test_image_rules(rule, options, stays, goes):
    assert getattr(rules, rule)(GOOD._replace(**stays), **options)
    assert not getattr(rules, rule)(GOOD._replace(**goes), **options)


@pytest.mark.parametrize(
    ("rule", "options", "stays", "goes"),
    [
        ("language", {"keep": ("en", "de")}, {"language": "de"}, {"language": "fr"}),
        ("word_count", {"at_least": 3, "at_most": 20}, {"words": ("a",) * 3}, {"words": ("a",) * 2}),
        ("word_count", {"at_least": 3, "at_most": 20}, {"words": ("a",) * 20}, {"words": ("a",) * 21}),
        ("banned_words", {"words": ("viagra",)}, {"words": ("viagras",)}, {"words": ("a", "viagra")}),
        ("rare_ngrams", {"at_most": 0}, {"rare": 0}, {"rare": 1}),
        ("unknown_words", {"below": 0.2}, {"unknown": 0.19}, {"unknown": 0.2}),
        ("shared_text", {"at_most": 10}, {"images": 10}, {"images": 11}),
        ("semantic_score", {"above": 0.2}, {"score": 0.21}, {"score": 0.2}),
    ],
)
def test_text_rules(rule, options, stays, goes):
    assert getattr(rules, rule)(PLAIN._replace(**stays), **options)
    assert not getattr(rules, rule)(PLAIN._replace(**goes), **options)


LAIT = {
    "shared_description": {"at_most": 10}, "best_text": {}, "word_count": {"at_least": 3, "at_most": 20},
    "language": {"keep": ["en"]}, "aspect": {"below": 3.0}, "shorter_side": {"above": 200},
    "scores": {"unsafe": {"below": 0.5}},
}  # fmt: skip


def test_the_order_is_that_of_the_file():
    assert Rules(LAIT, ["unsafe"]).order == (
        "unreadable", "shorter_side", "aspect", "unsafe", "empty_text", "language", "word_count", "best_text",
        "shared_description",
    )  # fmt: skip


def test_the_first_rule_counts():
    judge = Rules(LAIT, ["unsafe"]).judge
    bad = GOOD._replace(width=90, height=400, scores={"unsafe": 1.0})
    foreign, short, empty = PLAIN._replace(language="fr"), PLAIN._replace(words=("a",)), PLAIN._replace(words=())
    assert judge(bad._replace(reason="image unreadable"), [PLAIN]) == ("unreadable", ("unreadable",))
    assert judge(bad, [PLAIN, PLAIN]) == ("shorter_side", ("shorter_side", "shorter_side"))
    assert judge(bad._replace(width=401), [PLAIN]).rule == "unsafe"
    assert judge(GOOD, [foreign._replace(words=("a",))]) == ("language", ("language",))
    # A record goes with the last of its texts: by the rule after which none is left.
    assert judge(GOOD, [short, foreign, empty]) == ("word_count", ("word_count", "language", "empty_text"))
    assert judge(GOOD, [foreign, PLAIN, short]) == ("", ("language", "", "word_count"))
    assert judge(GOOD, []) == ("empty_text", ())


def test_only_the_best_text_stays_and_shared_descriptions_go():
    found = Rules(LAIT, ["unsafe"])
    better = PLAIN._replace(score=0.9)
    verdict = found.judge(GOOD, [PLAIN, better, better, better._replace(language="fr")])
    assert verdict == ("", ("best_text", "", "best_text", "language")), "the first of equals"
    assert found.judge_description(verdict, [99, 10, 99, 99]) == verdict
    assert found.judge_description(verdict, [1, 11, 1, 1]) == (
        "shared_description", ("best_text", "shared_description", "best_text", "language"),
    )  # fmt: skip


@pytest.mark.parametrize(
    ("sections", "match"),
    [
        ({"aspects": {}}, "config.rules: unknown key 'aspects'; did you mean 'aspect'"),
        ({"aspect": {"belw": 3}}, "config.rules.aspect: unknown key 'belw'; did you mean 'below'"),
        ({"aspect": {}}, "config.rules.aspect: missing key 'below'"),
        ({"scores": {"unsaf": {"below": 1}}}, "config.rules.scores: unknown key 'unsaf'; did you mean 'unsafe'"),
        ({"scores": {"unsafe": {"bellow": 1}}}, "config.rules.scores.unsafe: unknown key 'bellow'"),
        ({"shared_description": {}}, "config.rules.shared_description: missing key 'at_most'"),
    ],
)
def test_wrong_rules_are_refused(sections, match):
    with pytest.raises(AlignError, match=match):
        Rules(sections, ["unsafe"])


def test_unigrams_and_bigrams():
    assert ngrams.words("A red-hot “Dog”, café… 2x!") == ["a", "red", "hot", "dog", "café", "2x"]
    assert ngrams.words("東京 tower") == ["東", "京", "tower"]
    assert ngrams.words("हिन्दी में") == ["हिन्दी", "में"], "marks belong to their letters"
    assert ngrams.words("!!! \u200b ...") == []
    assert ngrams.ngrams(["a", "b", "a"]) == ["a", "b", "a", "a b", "b a"]


def test_counts_merge_in_any_order():
    rng = np.random.default_rng(0)
    parts = [rng.integers(0, 50, 100).astype(np.uint64) for _ in range(4)]
    found = ngrams.merged(ngrams.merged([ngrams.counted(part)]) for part in parts[::-1])
    wanted = Counter(np.concatenate(parts).tolist())
    assert dict(zip(found.keys.tolist(), found.counts.tolist(), strict=True)) == wanted
    keys = np.array([*wanted, 99], np.uint64)
    assert found.of(keys, absent=-1).tolist() == [*wanted.values(), -1]
    assert ngrams.merged([]).of(keys, absent=7).tolist() == [7] * len(keys)


@pytest.mark.parametrize(("top", "least"), [(1, 9), (2, 5), (3, 5), (4, 2), (6, 2), (7, 1), (8, 1)])
def test_how_frequent_the_top_is(top, least):
    counts = np.array([9, 5, 5, 2, 2, 2, 1])
    assert ngrams.least_frequent(ngrams.counted(counts), top) == least


def test_pairs_count_once():
    pairs = np.array([[1, 7], [1, 8], [1, 7], [2, 7]], np.uint64)
    assert ngrams.pair_counts(pairs).counts.tolist() == [2, 1]


@pytest.fixture(scope="module")
def pictures():
    """Drawings on coloured grounds."""
    source = EmojiPairs(split="held_out", held_out_share=0.03, size=180, flags=False, styles="openmoji")
    found = []
    for i in range(0, len(source), 2):
        canvas = Pillow.new("RGB", (360, 240), COLOURS[i // 2 % len(COLOURS)])
        canvas.paste(Pillow.fromarray(source[i].image), (30 + i % 140, 20))
        found.append(canvas)
    return found


def changed(picture, quality, scale):
    file = io.BytesIO()
    picture.resize((round(picture.width * scale), round(picture.height * scale))).save(file, "JPEG", quality=quality)
    return Pillow.open(file)


@pytest.mark.parametrize(("quality", "scale"), [(95, 1), (40, 1), (85, 0.5), (75, 1.7)])
def test_perceptual_hash_survives_encoding_and_scaling(pictures, quality, scale):
    hashes = [phash(picture) for picture in pictures]
    moved = [
        (one ^ phash(changed(picture, quality, scale))).bit_count()
        for one, picture in zip(hashes, pictures, strict=True)
    ]
    assert max(moved) <= 4
    others = [(a ^ b).bit_count() for i, a in enumerate(hashes) for b in hashes[:i]]
    assert np.quantile(others, 0.1) > 8 and np.median(others) > 16, "but for drawings that differ in a line"


def test_plain_pictures_have_one_hash():
    assert {phash(Pillow.new("RGB", (50, 80), colour)) for colour in COLOURS} == {0}


@pytest.mark.parametrize("bits", [0, 3, 6])
def test_near_hashes_finds_all(bits):
    rng = np.random.default_rng(bits)
    known = rng.integers(0, 2**64, 200, np.uint64)
    flips = np.array([sum(1 << int(b) for b in rng.choice(64, n % 9, replace=False)) for n in range(400)], np.uint64)
    asked = np.concatenate([known[rng.integers(0, 200, 400)] ^ flips, rng.integers(0, 2**64, 50, np.uint64)])
    all_distances = np.bitwise_count(asked[:, None] ^ known[None]).min(axis=1)
    wanted = np.where(all_distances <= bits, all_distances, BITS)
    assert NearHashes(known, bits).distances(asked).tolist() == wanted.tolist()


def test_buckets_find_near_embeddings():
    rng = np.random.default_rng(0)
    points = rng.normal(size=(600, 16)).astype(np.float32)
    points /= np.linalg.norm(points, axis=1, keepdims=True)
    known, others = points[:100], points[100:]
    near = known + 0.02 * rng.normal(size=known.shape).astype(np.float32)
    near /= np.linalg.norm(near, axis=1, keepdims=True)
    search = embeddings.Search(clusters=32, nearest=10, chosen=3, sample=500)
    file = io.BytesIO()
    np.savez(file, known=known, centres=embeddings.kmeans(points, search.clusters))
    index = embeddings.load_known(file.getvalue(), search)
    found = index.cosines(near)
    np.testing.assert_allclose(found, np.sum(near * known, axis=1), atol=1e-6)
    assert (found > 0.975).all() and (index.cosines(others) < 0.975).all()
    exhaustive = embeddings.Search(clusters=4, nearest=4, chosen=3, sample=500)
    whole = embeddings.NearEmbeddings(known, embeddings.kmeans(points, 4), exhaustive)
    np.testing.assert_allclose(whole.cosines(others), (others @ known.T).max(axis=1), atol=1e-6)
    assert embeddings.buckets(known, embeddings.kmeans(points, 32), search).shape == (100, 120)


def test_kmeans_ends_where_each_centre_is_the_mean_of_its_own():
    rng = np.random.default_rng(0)
    directions = np.eye(8, dtype=np.float32)[:4]
    points = np.repeat(directions, 50, axis=0) + 0.05 * rng.normal(size=(200, 8)).astype(np.float32)
    points /= np.linalg.norm(points, axis=1, keepdims=True)
    centres = embeddings.kmeans(points, 6)
    nearest = np.argmax(points @ centres.T, axis=1)
    for cluster, centre in enumerate(centres):
        mean = points[nearest == cluster].mean(axis=0)
        np.testing.assert_allclose(centre, mean / np.linalg.norm(mean), atol=1e-3)
    assert len(embeddings.kmeans(points[:3], 6)) == 3, "never more clusters than points"


def test_candidates():
    page = ["Buy now.  A red\tapple!", "see https://x.org/a.jpg <b>here</b>", " "]
    assert Candidates().of(page) == ["Buy now. A red apple!", "see https://x.org/a.jpg <b>here</b>", ""]
    found = Candidates(sentences=True, strip=(r"https?://\S+", "<[^>]*>")).of(page)
    assert found == ["Buy now.", "A red apple!", "see here", ""]
    with pytest.raises(AlignError, match=r"config\.texts\.strip: '\(' is no regular expression"):
        Candidates(strip=("(",))


def test_columns_follow_the_source(tmp_path):
    source = Manifest(path=str(manifest(tmp_path, 4)))
    path = str(tmp_path / "columns.parquet")

    def write(ids, **columns):
        pq.write_table(pa.table({"id": ids, **columns}), path)

    write(["n3", "n2", "n1", "n0", "n9"], nsfw=[3.0, 2.0, 1.0, None, 9.0], title=["c", None, "b", "a", ""])
    found = measures.Columns(path, ("nsfw", "title"), source)
    assert found.numbers("nsfw", range(1, 4)) == [1.0, 2.0, 3.0]
    assert found.words("title", range(0, 4)) == [["a"], ["b"], [], ["c"]]
    with pytest.raises(AlignError, match="expected a number as nsfw of record 0, found None"):
        found.numbers("nsfw", range(0, 4))
    with pytest.raises(AlignError, match="expected texts as nsfw of record 1, found '1"):
        found.words("nsfw", range(1, 4))
    with pytest.raises(AlignError, match=r"expected a column 'safe' in .*, found only"):
        measures.Columns(path, ("safe",), source)
    with pytest.raises(AlignError, match="expected a parquet with columns id, safe, found 'none'"):
        measures.Columns("none", ("safe",), source)
    write(["n3", "n1", "n0"], nsfw=[3.0, 1.0, 0.0])
    with pytest.raises(AlignError, match=r"1 records have no row in .*, such as 'n2'"):
        measures.Columns(path, ("nsfw",), source)
    write(["n3", "n1", "n0", "n2", "n2"], nsfw=[3.0, 1.0, 0.0, 2.0, 2.0])
    with pytest.raises(AlignError, match=r"expected each id once in .*, found 5 rows with 4 ids"):
        measures.Columns(path, ("nsfw",), source)


@pytest.mark.parametrize("path", ["nothing", "no_such_module:f", "math:nothing", "math:pi"])
def test_functions_are_named(path):
    with pytest.raises(AlignError, match=f"config.measures.x: expected module:function, found '{path}'"):
        measures.function(path, "config.measures.x")


def test_scores_have_one_number_each():
    images = np.zeros((3, 4, 4, 3), np.uint8)
    assert measures.scores(lambda x: x.mean((1, 2, 3)), images, "x") == [0.0] * 3
    with pytest.raises(AlignError, match="x: expected a score for each of 3 images, found shape"):
        measures.scores(lambda x: x.mean(), images, "x")
