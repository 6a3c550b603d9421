"""The page of an evaluation, in a real browser: what it shows, what it does, and that nothing in it executes."""

import io
import re
import sys
import types
from itertools import pairwise

import browser
import numpy as np
import pytest
from PIL import Image
from sklearn.decomposition import PCA

from align_jax.evals import page
from align_jax.evals.drawing.curves import LABEL, VALUES, apart, few
from align_jax.evals.drawing.heat import BATCH
from align_jax.evals.layout import FEW, plane
from align_jax.evals.panels import Confusion, Curves, Grid, Hit, Item, Map, Similarity
from align_jax.reporting.charts import Axis
from align_jax.reporting.text import visible
from align_jax.types import Outcome, Result

HOSTILE = (
    "<script>window.hit = 1</script>", "</script><script>window.hit = 1</script>", "' onmouseover='window.hit=1",
    '"><img src=x onerror="window.hit=1">', "</title></style></svg><svg onload=window.hit=1>", "{{7*7}}{% raw %}",
    "\u202egpj.exe", "javascript:window.hit=1", "a\x00b", "\ud800", "&lt;b&gt;", "w" * 400, "שלום עולם",
    "👩\u200d🚀 astronaut",
)  # fmt: skip


def picture(colour, kind="WEBP"):
    file = io.BytesIO()
    Image.new("RGB", (20, 30), colour).save(file, kind)
    return file.getvalue()


RED, GREEN = picture("red"), picture("green", "PNG")


def panels(texts=("a red thing", "a green thing"), title="Panel"):
    """One of each kind; the texts in each place where a stranger's may stand."""
    rng = np.random.default_rng(0)
    items = [Item(text, (RED, GREEN)[i % 2]) for i, text in enumerate(texts)]
    bare = [Item(text) for text in texts]
    count = len(texts)
    counts = rng.integers(0, 20, (count, count))
    return [
        Grid(f"Texts to images {title}", title, [
            (query, [Hit(item, 0.5 - i / 100, i == 1) for i, item in enumerate([*items, Item("unreadable")])])
            for query in bare
        ]),
        Grid(f"Images to texts {title}", title, [(items[0], [Hit(text, 0.25, i == 0) for i, text in enumerate(bare)])]),
        Confusion(f"Confusion {title}", title, texts, counts, counts.sum(axis=1)),
        Similarity(f"Similarity {title}", title, items, items, rng.uniform(-1, 1, (count, count)).astype(np.float32)),
        Curves(f"Curves {title}", title, "K", "recall", {text: [(1, 0.1), (10, 0.4), (100, 1)] for text in texts}),
        Map(f"Map {title}", title, rng.normal(size=(count, 4)).astype(np.float32), items, texts),
    ]  # fmt: skip


def outcome(values):
    return Outcome(np.array(values, np.float32))


RESULTS = [
    Result("eval/R@1", 0.25, 8, "ties pessimistic", outcome([0, 1] * 2 + [0] * 4), {"data": "d1", "prompts": "p1"}),
    Result("eval/R@5", 1.0, 8, "ties pessimistic", outcome([1] * 8), {"data": "d1", "prompts": "p1"}),
    Result("words/spearman", -0.5, 2000, "of SimLex-999", outcome(np.linspace(-0.6, -0.4, 2000))),
    Result("eval/median_rank", 12.0, 8, "middle of the ranks"),
]


def write(folder, results=RESULTS, shown=None, title="An evaluation", facts=None):
    path = folder / "evaluation.html"
    facts = {"model": "align", "step": "1,000"} if facts is None else facts
    page.write(path, title=title, facts=facts, results=results, panels=panels() if shown is None else shown)
    return path


def opened(tab, path):
    seen = browser.watch(tab)
    tab.goto(path.as_uri())
    return seen


def sideways(tab):
    return tab.evaluate("document.documentElement.scrollWidth - document.documentElement.clientWidth")


def test_what_the_page_shows(tmp_path):
    path = write(tmp_path)
    with browser.page(java_script_enabled=False) as tab:  # all of it without a script
        seen = opened(tab, path)
        assert tab.title() == "An evaluation" and "1,000" in tab.locator("dl.made").first.inner_text()
        rows = [row.inner_text().split() for row in tab.locator(".results tbody tr:not(.how)").all()]
        assert rows[0] == ["eval/R@1", "0.2500", "0.0000", "to", "0.6250", "8"]
        assert rows[1] == ["eval/R@5", "1.0000", "1.0000", "to", "1.0000", "8"]
        assert rows[2][:2] == ["words/spearman", "-0.5000"] and rows[2][-1] == "2,000"
        assert rows[3] == ["eval/median_rank", "12.0", "\u2013", "8"]
        folded = tab.locator(".how").all()
        assert len(folded) == 3, "neighbours of one protocol share it"
        assert not folded[0].locator("p").is_visible()
        folded[0].locator("summary").click()
        assert folded[0].locator("p").is_visible() and "prompts\np1" in folded[0].inner_text()
        assert tab.locator("nav a").first.inner_text() == "Results"
        tab.locator("nav a").nth(3).click()
        assert tab.url.endswith("#panel-3") and tab.locator("#panel-3 h2").inner_text() == "Confusion Panel"

        grid = tab.locator("#panel-1")
        assert "A right one is first for 0 of 2, and among those shown for 2." in grid.inner_text()
        hits = grid.locator(".rows > li").first.locator(".hits li")
        assert [hit.locator(".mark").get_attribute("aria-label") for hit in hits.all()] == ["wrong", "right", "wrong"]
        assert hits.nth(1).inner_text().split() == ["✓", "0.490", "a", "green", "thing"]
        assert "no picture" in hits.nth(2).inner_text() and "right one at 2" in grid.inner_text()
        cells = tab.locator("#panel-3 .cell").all_inner_texts()
        assert cells == [str(count) for count in panels()[2].counts.ravel()]
        own = tab.locator("#panel-4 .own").all_inner_texts()
        assert [float(score) for score in own] == pytest.approx(np.diag(panels()[3].scores), abs=0.005)
        assert tab.locator("#panel-5 tr").nth(1).inner_text().split() == [
            "a",
            "red",
            "thing",
            "0.1000",
            "0.4000",
            "1.0000",
        ]
        assert tab.locator("#panel-5 .end").all_inner_texts() == ["a red thing", "a green thing"]
        titles = tab.locator("#panel-6 path title").all_text_contents()
        assert sorted(titles) == ["a green thing", "a red thing"]
        assert "PCA: the first two principal components, 100% of the variance" in tab.locator("#panel-6").inner_text()
    assert not seen.errors and not seen.outside()


def test_strangers_texts_are_texts(tmp_path):
    """Wherever a text can stand, each is there to read, whole and as it is, and none of them does anything."""
    results = [Result(text, 0.5, 1, text, None, {text: text}) for text in HOSTILE]
    facts = dict(zip(HOSTILE, HOSTILE, strict=True))
    path = write(tmp_path, results, panels(HOSTILE, title=" ".join(HOSTILE)), title=HOSTILE[4], facts=facts)
    with browser.page(width=400) as tab:
        seen = opened(tab, path)
        dialogs = []
        tab.on("dialog", lambda dialog: dialogs.append(dialog) or dialog.dismiss())
        for kind in ("svg.points", ".heat .cell", ".hits li", ".results td"):
            tab.locator(kind).first.hover(force=True)
        for part in tab.locator("svg.points").all()[:3]:
            part.focus()
            tab.keyboard.press("ArrowLeft")
        assert tab.evaluate("window.hit") is None and not dialogs
        assert tab.evaluate("document.scripts.length") == 1 and tab.locator("img, iframe, object, link").count() == 0
        names = tab.evaluate("[...new Set([...document.querySelectorAll('*')].flatMap(e => e.getAttributeNames()))]")
        assert not [name for name in names if name.startswith("on") or name in ("src", "srcset", "srcdoc", "action")]
        assert set(tab.evaluate("[...document.links].map(link => link.getAttribute('href')[0])")) == {"#"}
        everything = tab.locator("body").text_content() or ""
        places = [tab.locator(f"#panel-{i}").text_content() or "" for i in range(1, 7)]
        for text in HOSTILE:
            for part in (tab.locator("header").text_content(), tab.locator(".results").text_content(), *places):
                assert visible(text) in (part or "")
        assert not set(everything) & set("\u202e\x00\ud800\ufffd") and tab.title() == HOSTILE[4]
        assert sideways(tab) == 0
    assert not seen.errors and not seen.outside()


def test_the_policy_of_the_page_forbids_requests_and_other_scripts(tmp_path):
    with browser.page() as tab:
        opened(tab, write(tmp_path))
        refused = tab.evaluate("""async () => {
            const refused = [];
            document.addEventListener("securitypolicyviolation", (event) => refused.push(event.effectiveDirective));
            document.body.append(Object.assign(new Image(), { src: "http://127.0.0.1:9/x.png" }));
            document.body.append(Object.assign(document.createElement("script"), { textContent: "window.hit = 1" }));
            await fetch("http://127.0.0.1:9/").catch(() => 0);
            await new Promise((resolve) => setTimeout(resolve, 100));
            return [...refused, window.hit];
        }""")
    assert sorted(filter(None, refused)) == ["connect-src", "img-src", "script-src-elem"] and refused[-1] is None


def test_hover_focus_and_tap_show_a_thumbnail_and_its_text(tmp_path):
    embeddings = np.array([[0, 0], [3, 0], [0, 1], [3, 1]], np.float32)
    colours = {"sw": "red", "se": "blue", "nw": "black", "<b>ne</b>": "white"}
    items = [Item(name, picture(colour)) for name, colour in colours.items()]
    shown = [Map("Map", "", embeddings, items, ["low", "low", "high", "high"]), panels()[3]]
    path = write(tmp_path, shown=shown)
    with browser.page(height=1600, has_touch=True) as tab:
        seen = opened(tab, path)
        tip, svg = tab.locator(".tip"), tab.locator("svg.points")
        assert tip.is_hidden() and svg.locator("title").count() == 0
        at = marks_at(tab)
        assert set(at) == {"low", "high"} and all(len(points) == 2 for points in at.values())

        def told():
            return tip.locator(".text").text_content(), tip.locator("small").text_content()

        found = set()
        for kind, points in at.items():
            for x, y in points:
                tab.mouse.move(x + 2, y + 2)
                assert tip.is_visible() and told()[1] == kind
                found.add(told()[0])
                background = tip.locator(".thumb").evaluate("thumb => getComputedStyle(thumb).backgroundImage")
                assert background.startswith('url("data:image/webp;base64,')
        assert found == set(colours)
        tab.mouse.move(2, 2)
        assert tip.is_hidden()

        svg.focus()
        tab.keyboard.press("Shift+Tab")
        tab.keyboard.press("Tab")
        assert tip.is_visible()
        walked = []
        for key in ("ArrowLeft", "ArrowDown", "ArrowRight", "ArrowUp", "ArrowUp"):
            tab.keyboard.press(key)
            walked.append(told()[0])
        assert walked[1:] == ["sw", "se", "<b>ne</b>", "<b>ne</b>"]
        tab.keyboard.press("Escape")
        assert tip.is_hidden()

        x, y = at["low"][0]
        tab.touchscreen.tap(x, y)
        assert tip.is_visible() and told()[1] == "low"
        tab.locator("h1").tap()
        assert tip.is_hidden()

        tab.get_by_role("button", name="high").click()
        assert tab.get_by_role("button", name="high").get_attribute("aria-pressed") == "true"
        tab.mouse.move(x, y)
        assert tip.is_hidden(), "the others are faded"
        tab.get_by_role("button", name="high").click()
        tab.mouse.move(x, y + 1)
        assert tip.is_visible()

        tab.locator("table.similarity .cell").nth(1).hover()
        assert tip.locator(".text").all_text_contents() == ["a red thing", "a green thing"]
        assert tip.locator("strong").inner_text() == tab.locator("table.similarity .cell").nth(1).inner_text()
    assert not seen.errors and not seen.outside()


def marks_at(tab):
    """Kind -> places of its points in the window."""
    return tab.evaluate("""() => Object.fromEntries([...document.querySelectorAll("svg.points g")].map((group) => [
        group.dataset.kind, [...group.children].map((path) => {
            const at = path.getPointAtLength(0).matrixTransform(path.getScreenCTM());
            return [at.x, at.y];
        })]))""")


CONTRASTS = """() => {
    const canvas = Object.assign(document.createElement("canvas"), { width: 1, height: 1 });
    const context = canvas.getContext("2d", { willReadFrequently: true });
    const light = (colour) => {
        context.clearRect(0, 0, 1, 1);
        context.fillStyle = colour;
        context.fillRect(0, 0, 1, 1);
        const parts = [...context.getImageData(0, 0, 1, 1).data];
        const [r, g, b] = parts.map((v) => v / 255).map((v) => v <= 0.04045 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4);
        return parts[3] ? 0.2126 * r + 0.7152 * g + 0.0722 * b : undefined;
    };
    const behind = (element) => light(getComputedStyle(element).backgroundColor) ?? behind(element.parentElement);
    const found = [];
    const walker = document.createTreeWalker(document.body, NodeFilter.SHOW_TEXT);
    while (walker.nextNode()) {
        const element = walker.currentNode.parentElement;
        if (!walker.currentNode.data.trim() || !element.checkVisibility() || element.closest("script, svg")) continue;
        const [low, high] = [light(getComputedStyle(element).color), behind(element)].sort((a, b) => a - b);
        found.push([(high + 0.05) / (low + 0.05), walker.currentNode.data.trim()]);
    }
    return found;
}"""


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_every_text_has_contrast_and_the_page_fits_a_telephone(scheme, tmp_path):
    scores = np.linspace(-1, 1, 400).reshape(20, 20)
    counts = np.full((12, 12), 1) + np.diag(np.full(12, 1000))
    many = [Item(f"item {i}") for i in range(20)]
    names = [f"{i} of very-long-names-that-do-not-break" for i in range(12)]
    lines = {name: [(i, i * j / 200) for i in range(1, 20)] for j, name in enumerate(names)}
    extra = [
        Similarity("Wide", "", many, many, scores), Confusion("Deep", "", names, counts, counts.sum(axis=1)),
        Confusion("Wrong", "", names[:2], np.array([[0, 9], [9, 0]]), np.array([9, 9])),
        Curves("Many", "", "K", "recall", lines),
        Map("Kinds", "", scores[:12].astype(np.float32), many[:12], names),
    ]  # fmt: skip
    with browser.page(width=400, color_scheme=scheme) as tab:
        seen = opened(tab, write(tmp_path, shown=[*panels(), *extra]))
        contrasts = tab.evaluate(CONTRASTS)
        assert len(contrasts) > 500 and min(contrasts)[0] >= 4.5, min(contrasts)
        assert sideways(tab) == 0
        paper = tab.evaluate("getComputedStyle(document.body).backgroundColor")
        assert paper == {"light": "rgb(255, 255, 255)", "dark": "rgb(20, 22, 26)"}[scheme]
        levels = [
            int(heading[1])
            for heading in tab.evaluate("[...document.querySelectorAll('h1,h2,h3')].map(h => h.tagName)")
        ]
        assert (
            levels[0] == 1 and levels.count(1) == 1 and all(after - before <= 1 for before, after in pairwise(levels))
        )
        unnamed = (
            "[...document.querySelectorAll('[role=img], [role=region], [role=application]')].filter(e => !e.ariaLabel)"
        )
        assert tab.evaluate(f"{unnamed}.length") == 0
    assert not seen.errors


def test_each_thumbnail_is_there_once_and_the_same_input_makes_the_same_bytes(tmp_path):
    path = write(tmp_path)
    first = path.read_bytes()
    assert len(re.findall(rb"data:image/(webp|png);base64,", first)) == 2
    write(tmp_path)
    assert path.read_bytes() == first and [file.name for file in tmp_path.iterdir()] == ["evaluation.html"]


def test_nothing_to_show_is_a_page_too(tmp_path):
    empty = [
        Grid("Grid", "", []), Confusion("Confusion", "", [], np.zeros((0, 0), int), np.zeros(0, int)),
        Similarity("Similarity", "", [], [], np.zeros((0, 0), np.float32)), Curves("Curves", "", "x", "y", {"a": []}),
        Map("Map", "", np.zeros((0, 8), np.float32), [], []),
    ]  # fmt: skip
    html = write(tmp_path, [], [], facts={}).read_text("utf-8")
    assert "There are no results." in html and "<nav" not in html
    assert write(tmp_path, [], empty).read_text("utf-8").count("There is nothing to draw.") == len(empty)


def test_a_map_of_2000_points_stays_light(tmp_path):
    embeddings = np.random.default_rng(0).normal(size=(2000, 64)).astype(np.float32)
    items = [Item(f"number {i}", RED) for i in range(2000)]
    kinds = [f"kind {i % 12}" for i in range(2000)]
    path = write(tmp_path, shown=[Map("Map", "", embeddings, items, kinds, umap=False)])
    assert path.stat().st_size < 250_000


def test_a_class_has_all_its_examples_and_a_large_matrix_its_first_rows(tmp_path):
    counts, totals = np.array([[50, 30], [0, 40]]), np.array([100, 40])
    scores = np.eye(40) - 1e-3
    scores[3, 39] = 2
    many = [Item(f"item {i}") for i in range(40)]
    confusion = Confusion("Confusion", "", ["class 7", "class 93"], counts, totals)
    shown = [confusion, Similarity("Similarity", "", many, many, scores)]
    with browser.page(java_script_enabled=False) as tab:
        opened(tab, write(tmp_path, shown=shown))
        rows = [row.inner_text().split("\t") for row in tab.locator("#panel-1 tbody tr").all()]
        assert [cell.strip() for cell in rows[0]] == ["class 7", "50", "30", "20", "100", "50 %"]
        assert [cell.strip() for cell in rows[1]] == ["class 93", "", "40", "", "40", "100 %"]
        whole = tab.locator("#panel-2").inner_text()
        assert f"the first {BATCH} x {BATCH} of 40 x 40" in whole and "39 rows and 39 columns of 40" in whole
        assert tab.locator("#panel-2 .best").count() == BATCH - 1, "the best of one row is not among those shown"


def test_labels_stand_apart_and_tables_have_room():
    for wanted in ([], [10.0], [5.0, 5.0, 5.0], [299.0, 300.0, 0.0, 1.0], list(np.linspace(140, 150, 16))):
        found = apart(wanted)
        assert sorted(range(len(found)), key=found.__getitem__) == sorted(range(len(found)), key=wanted.__getitem__)
        assert all(after - before >= LABEL - 0.1 for before, after in pairwise(sorted(found)))
        assert all(LABEL / 2 <= middle <= 300 - LABEL / 2 for middle in found)
    assert apart([40.0, 100.0]) == [40, 100]
    every = np.arange(1.0, 1001)
    assert few(every[:7], Axis(1, 7, 0, 100)) == [1, 2, 3, 4, 5, 6, 7]
    chosen = few(every, Axis(1, 1000, 0, 100, log=True))
    assert chosen == [1, 2, 5, 10, 20, 50, 100, 200, 500, 1000] and len(chosen) <= VALUES
    chosen = few(np.unique(np.geomspace(1, 1e6, 500).round()), Axis(1, 1e6, 0, 100, log=True))
    assert chosen[0] == 1 and chosen[-1] == 1e6 and 5 < len(chosen) <= VALUES
    chosen = few(every, Axis(1, 1000, 0, 100))
    assert chosen[0] == 1 and chosen[-1] == 1000 and len(chosen) == VALUES


def test_the_plane_is_that_of_scikit_learn():
    rows = np.random.default_rng(0).normal(size=(50, 7)).astype(np.float32) * np.float32([5, 4, 3, 2, 1, 1, 1]) + 100
    found, how = plane(rows)
    peer = PCA(n_components=2, svd_solver="full").fit(rows.astype(np.float64))
    largest = np.abs(peer.components_).argmax(axis=1)
    expected = peer.transform(rows) * np.sign(peer.components_[np.arange(2), largest])
    np.testing.assert_allclose(found, expected, atol=1e-4)
    assert found.dtype == np.float32 and f"{peer.explained_variance_ratio_.sum():.0%} of the variance" in how


@pytest.mark.parametrize("shape", [(1, 8), (5, 1), (2, 3), (8, 4)])
def test_the_plane_of_little_is_finite(shape):
    for rows in (np.ones(shape, np.float32), np.random.default_rng(0).normal(size=shape).astype(np.float32)):
        found, _ = plane(rows)
        assert found.shape == (shape[0], 2) and np.isfinite(found).all()
    assert not plane(np.full(shape, 0.3, np.float32))[0].any()


def test_umap_where_it_is_installed(monkeypatch):
    """By a stand-in of the library, whose import and compilation take 12 seconds."""
    rows = np.random.default_rng(0).normal(size=(FEW, 4)).astype(np.float32)
    asked = []

    class Stand:
        def __init__(self, **options):
            asked.append(options)

        def fit_transform(self, embeddings):
            return embeddings[:, :2].astype(np.float64)

    monkeypatch.setitem(sys.modules, "umap", types.SimpleNamespace(UMAP=Stand))
    found, how = plane(rows)
    assert how.startswith("UMAP of the cosine") and found.dtype == np.float32
    assert asked == [{"n_neighbors": 15, "metric": "cosine", "random_state": 0, "n_jobs": 1}]
    assert plane(rows, umap=False)[1].startswith("PCA") and plane(rows[1:])[1].startswith("PCA")
    monkeypatch.setitem(sys.modules, "umap", None)  # importing it is an error from here on
    assert plane(rows)[1].startswith("PCA")
