"""The page of `align_jax.search`, as a real process: its API, what it serves and refuses, and a real browser on it."""

import html
import http.client
import json
import os
import re
import shutil
import signal
import socket
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import browser
import gradio_client
import numpy as np
import pytest
import shapes_run

import align_jax
from align_jax.searching.page import check
from align_jax.types import AlignError

HOSTILE = (
    "<script>window.harm = 1</script>", "<img src=x onerror=window.harm=1>", '" onmouseover="window.harm=1',
    "'><svg/onload=window.harm=1>", "${window.harm=1}", "{{value}} {{#each value}}", "`${window.harm=1}`", "@children",
    "</textarea></style></title>", "\u202egpj.exe", "&lt;b&gt;", "\\u003cscript\\u003e",
)  # fmt: skip


class Server:
    """A running search: its address, port and process."""

    def __init__(self, *arguments):
        self.process = shapes_run.start("align_jax.search", "--port=0", "--threads=1", *arguments)
        self.lines = []
        for line in self.process.stdout:
            self.lines.append(line)
            if "Ctrl-C" in line:
                break
        else:
            pytest.fail(f"the page did not open:\n{''.join(self.lines)}{self.process.stderr.read()}")
        self.address = line.split()[0].rstrip("/")
        self.port = int(self.address.rsplit(":", 1)[1])

    def ask(self, method, path, body=None, headers=None):
        """(status, body) of a request whose path goes over as it is written."""
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=30)
        connection.putrequest(method, path, skip_host="Host" in (headers or {}))
        for name, value in (headers or {}).items():
            connection.putheader(name, value)
        if body is not None and "Content-Length" not in (headers or {}):
            connection.putheader("Content-Length", str(len(body)))
        connection.endheaders(body)
        answer = connection.getresponse()
        found = answer.status, answer.read()
        connection.close()
        return found


@pytest.fixture(scope="module")
def data(finished_run, tmp_path_factory):
    """The shapes, one of them with hostile texts, id and label; beside the folder a file that is nobody's business."""
    folder = tmp_path_factory.mktemp("page") / "pictures"
    shutil.copytree(finished_run.parent, folder, ignore=shutil.ignore_patterns("run"))
    rows = [json.loads(line) for line in (folder / "pairs.jsonl").read_text().splitlines()]
    rows[5] |= {"texts": [" ".join(HOSTILE), *HOSTILE], "id": HOSTILE[1], "label": HOSTILE[0]}
    rows[10]["texts"] = [HOSTILE[1]]  # offered as an example
    (folder / "pairs.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    (folder.parent / "secret.txt").write_text("nobody's business")
    return folder


# Writes down with whom the process talks.
SPY = """
import os, sys
file = os.open({path!r}, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
def note(event, arguments):
    if event in ("socket.connect", "socket.getaddrinfo", "socket.gethostbyname", "socket.sendto"):
        os.write(file, (event + " " + repr(arguments[event in ("socket.connect", "socket.sendto")]) + "\\n").encode())
sys.addaudithook(note)
"""


@pytest.fixture(scope="module")
def server(finished_run, data):
    """One for all tests of this file, ended by the last of them or here; `data.parent`/talked says with whom it did."""
    (data.parent / "sitecustomize.py").write_text(SPY.format(path=str(data.parent / "talked")))
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PYTHONPATH", str(data.parent))
        found = _started(finished_run, data)
    yield found
    if found.process.poll() is None:
        found.process.kill()
        found.process.communicate()


def _started(finished_run, data):
    return Server(
        f"--workdir={finished_run / 'export'}", f"--data={data / 'pairs.jsonl'}", f"--index={data.parent / 'index'}",
        "--index_kind=hnsw",
    )  # fmt: skip


@pytest.fixture(scope="module")
def client(server):
    return gradio_client.Client(server.address, verbose=False, analytics_enabled=False)


@pytest.fixture(scope="module")
def tab(server):
    """The page in a browser, and what it did."""
    with browser.page() as page:
        seen = browser.watch(page)
        page.goto(server.address)
        page.wait_for_selector(".card img")
        yield page, seen


@pytest.fixture(scope="module")
def model(finished_run):
    return align_jax.load(finished_run / "export")


@pytest.fixture(scope="module")
def wanted(model, data):
    """text -> (ids, scores), best first, by the model and numpy alone."""
    rows = [json.loads(line) for line in (data / "pairs.jsonl").read_text().splitlines()]
    images = model.embed_images([data / row["image"] for row in rows])

    def by_score(text):
        scores = images @ model.embed_texts([text])[0]
        order = np.argsort(-scores, kind="stable")
        return [rows[i].get("id", rows[i]["image"]) for i in order], scores[order]

    return by_score


def test_what_stands_on_screen(server, data):
    assert server.lines[0] == (
        f"16 pictures in {data.parent / 'index'}: hnsw index (m 32, ef_construction 200, ef_search 128), "
        "recall@10 1.000 for pictures and 1.000 for captions\n"
    )
    assert server.lines[-1] == f"{server.address}/ (Ctrl-C ends it)\n"


def test_the_api_finds_what_the_model_finds(client, wanted):
    ids, scores = wanted("red cross")
    found = client.predict(text="red cross", count=16, api_name="/search")
    assert [row["id"] for row in found["results"]] == ids
    np.testing.assert_allclose([row["score"] for row in found["results"]], scores, atol=1e-5)
    best = found["results"][ids.index("red_cross.png")]
    assert best["captions"] == ["red cross", "a cross in red"] and best["class"] == "red" and best["row"] == 2
    assert set(found["milliseconds"]) == {"embedding", "searching"} and found["notes"] == []
    hostile = found["results"][ids.index(HOSTILE[1])]
    assert hostile["captions"][1:] == list(HOSTILE), "JSON gives texts as they are"


def test_the_api_takes_pictures(client, model, data):
    picture = gradio_client.handle_file(str(data / "blue_line.png"))
    found = client.predict(image=picture, count=1, api_name="/search")["results"]
    assert found[0]["id"] == "blue_line.png" and found[0]["score"] > 0.999
    found = client.predict(image=picture, text="red", without="blue", without_weight=0.5, count=16, api_name="/search")
    image, (plus, minus) = model.embed_images([data / "blue_line.png"])[0], model.embed_texts(["red", "blue"])
    query = image + 2 * plus - 0.5 * minus
    rows = model.embed_images([data / "blue_line.png"])
    score = {row["id"]: row["score"] for row in found["results"]}["blue_line.png"]
    assert score == pytest.approx(float(rows[0] @ query / np.linalg.norm(query)), abs=1e-5)


@pytest.mark.parametrize(
    ("values", "match"),
    [
        ({}, "Give a text or a picture to look for"),
        ({"text": "x" * 1001}, "Expected a text of at most 1,000 characters, found 1,001"),
        ({"text": "red", "count": 10**9}, "Expected a number of pictures from 1 to 200"),
        ({"text": "red", "count": "<b>"}, "Expected a number of pictures from 1 to 200, found <b>"),
        ({"text": "red", "label": "none"}, "There is no class 'none' here"),
        ({"text": {"a": 1}}, "Expected a text of at most 1,000 characters"),
        ({"image": {"path": "/etc/passwd", "meta": {"_type": "gradio.FileData"}}}, None),
        ({"image": {"url": "data:image/png;base64,AAAA", "meta": {"_type": "gradio.FileData"}}}, None),
    ],
    ids=["nothing", "long", "many", "no number", "class", "no text", "path", "address"],
)
def test_the_api_refuses_in_a_line(client, values, match):
    with pytest.raises(Exception, match=match) as error:
        client.predict(**values, api_name="/search")
    assert "Traceback" not in str(error.value) and "root:" not in str(error.value)


def called(server, image):
    """What the API answers to an image as a client names it: "complete" or "error", and the data."""
    body = json.dumps({"data": ["", "", image, 2, 2, 1, 24, -1, ""]}).encode()
    status, answer = server.ask("POST", "/gradio_api/call/search", body, {"Content-Type": "application/json"})
    assert status == 200, answer
    _, answer = server.ask("GET", f"/gradio_api/call/search/{json.loads(answer)['event_id']}")
    event, data = re.fullmatch(r"event: (\w+)\ndata: (.*)\n\n", answer.decode()).groups()
    return event, json.loads(data)


def uploaded(server, name, content, headers=None):
    """(status, path or message) of an upload."""
    body = f'--x\r\nContent-Disposition: form-data; name="files"; filename="{name}"\r\n\r\n'.encode() + content
    headers = {"Content-Type": "multipart/form-data; boundary=x"} | (headers or {})
    status, answer = server.ask("POST", "/gradio_api/upload", body + b"\r\n--x--\r\n", headers)
    return status, json.loads(answer)[0] if status == 200 else answer.decode()


def test_the_api_reads_no_file_but_uploads(server, data, tmp_path):
    status, own = uploaded(server, "own.png", (data / "red_cross.png").read_bytes())
    event, answer = called(server, {"path": own})
    assert (status, event) == (200, "complete"), answer
    assert answer[0]["results"][0]["id"] == "red_cross.png"
    folder = Path(own).parent
    outside = tmp_path / "outside.png"
    shutil.copy(data / "red_cross.png", outside)
    large = tmp_path / "large.png"
    large.write_bytes(b"0" * (21 << 20))
    (folder / "link.png").symlink_to(outside)
    (tmp_path / "loop.png").symlink_to(tmp_path / "loop.png")
    os.mkfifo(folder / "pipe.png")
    refused = [
        "/etc/passwd", str(outside), str(large), str(tmp_path / "missing.png"), f"{folder}/missing.png", str(folder),
        f"{folder}/link.png", f"{folder}/pipe.png", str(tmp_path / "loop.png"), f"{own}/../../../../etc/passwd",
        f"{folder}/{os.path.relpath(outside, folder)}", os.path.relpath(outside), "pyproject.toml", "/dev/zero",
        "/proc/self/environ", "", "a\0b", f"{own}\0", "\ud800", "a" * 10_000, None,
    ]  # fmt: skip
    found = {repr(path): called(server, {"path": path}) for path in refused}
    found |= {repr(image): called(server, image) for image in ({}, {"url": own})}
    told = [answer | {"duration": 0} for _, answer in found.values()]
    assert told[0]["error"] == "This upload is gone; choose the picture again."
    assert [name for name, answer in zip(found, told, strict=True) if answer != told[0]] == []
    for path in ([own], {"path": own}, 7):
        body = json.dumps({"data": ["", "", {"path": path}, 2, 2, 1, 24, -1, ""]}).encode()
        assert server.ask("POST", "/gradio_api/call/search", body)[0] == 400, path
    (folder / "large.png").write_bytes(large.read_bytes())
    assert "at most 20 MB, found 22,020,096 bytes" in repr(called(server, {"path": f"{folder}/large.png"}))


def test_other_sites_may_not_ask(server):
    port = server.port
    strangers = [
        {"Origin": origin}
        for origin in (
            "http://evil.com", f"http://evil.com:{port}", "null", "", "http://127.0.0.1.evil.com", "http://localhost@evil.com",
            f"http://evil.com/127.0.0.1:{port}", "http://evil.com#127.0.0.1", "file://", "http://[::1].evil.com",
        )
    ]  # fmt: skip
    strangers += [{"Sec-Fetch-Site": "cross-site"}, {"Sec-Fetch-Site": "cross-site", "Sec-Fetch-Mode": "navigate"}]
    strangers += [{"Sec-Fetch-Site": "cross-site", "Sec-Fetch-Mode": "navigate", "Sec-Fetch-Dest": "document"}]
    for headers in strangers:
        assert uploaded(server, "a.png", b"0", headers)[0] == 403, headers
        assert server.ask("POST", "/gradio_api/queue/join", b"{}", headers)[0] == 403, headers
        assert server.ask("GET", "/gradio_api/info", headers=headers)[0] == 403, headers
    for headers in strangers[:-1]:
        assert server.ask("GET", "/", headers=headers)[0] == 403, headers
    assert server.ask("GET", "/", headers=strangers[-1])[0] == 200, "a link to the page"
    for host in ("127.0.0.1", "localhost", "[::1]"):
        for headers in ({"Origin": f"http://{host}:{port}"}, {"Origin": f"http://{host}"}):
            assert uploaded(server, "a.png", b"0", headers | {"Sec-Fetch-Site": "same-origin"})[0] == 200, headers


def test_names_of_this_machine(server):
    for host in ("127.0.0.1", "localhost", "[::1]"):
        for name in (host, f"{host}:80", f"{host}:{server.port}", host.upper()):
            assert server.ask("GET", "/", headers={"Host": name})[0] == 200, name
    for name in (
        "evil.example", "evil.example:7860", "127.0.0.1.evil.example", "127.0.0.1:80:evil.example", "::1", "[::2]:80",
        "evil@127.0.0.1", "127.0.0.1:", ":80", "",
    ):  # fmt: skip
        assert server.ask("GET", "/", headers={"Host": name})[0] in (400, 403), name


def test_the_page_tells_its_address(server):
    _, body = server.ask("GET", "/config")
    assert f'Client("{server.address}")' in html.unescape(json.loads(body)["components"][-3]["props"]["value"])


def test_broken_and_huge_uploads(client, server, tmp_path):
    (tmp_path / "broken.png").write_bytes(b"no picture")
    with pytest.raises(gradio_client.exceptions.AppError, match="This picture cannot be used: image unreadable"):
        client.predict(image=gradio_client.handle_file(str(tmp_path / "broken.png")), api_name="/search")
    for size, length in ((21 << 20, None), (100, 1 << 40)):
        body = b'--x\r\nContent-Disposition: form-data; name="files"; filename="a.png"\r\n\r\n' + b"0" * size
        headers = {"Content-Type": "multipart/form-data; boundary=x"} | (
            {"Content-Length": str(length)} if length else {}
        )
        try:
            status, _ = server.ask("POST", "/gradio_api/upload", body + b"\r\n--x--\r\n", headers)
        except (BrokenPipeError, ConnectionResetError):
            continue  # it did not wait for the end
        assert status == 413


def test_no_file_is_served(server, data, finished_run):
    (data / "link.png").symlink_to("/etc/passwd")
    secrets = [
        "/etc/passwd", data.parent / "secret.txt", data / "pairs.jsonl", data / "red_cross.png", data / "link.png",
        finished_run / "config.json", data.parent / "index" / "embeddings.json", Path(align_jax.__file__),
        Path.cwd() / "pyproject.toml", "pyproject.toml", "/proc/self/environ",
    ]  # fmt: skip
    paths = [f"/gradio_api/file={path}" for path in secrets]
    paths += [f"/gradio_api/file/{path}" for path in secrets] + [f"/file={path}" for path in secrets]
    ups = [
        "../" * 12 + "etc/passwd",
        "..%2f" * 12 + "etc/passwd",
        "%2e%2e/" * 12 + "etc/passwd",
        "....//" * 8 + "etc/passwd",
    ]
    for root in (
        "/gradio_api/file=",
        "/static/",
        "/assets/",
        "/static/img/",
        "/svelte/",
        "/theme.css/",
        "/custom_component/x/client/component/",
        "/",
    ):
        paths += [root + up for up in ups]
    answers = [server.ask(method, path) for path in paths for method in ("GET", "HEAD")]
    for (status, body), path in zip(answers, np.repeat(paths, 2), strict=True):
        assert b"root:" not in body and b"nobody's business" not in body and b"PNG" not in body, path
        assert b"weights" not in body and b"ellipse" not in body and b"PATH=" not in body and b"[tool" not in body, path
        assert "file" not in path or status in (403, 404, 405, 422), (path, status)


def test_nothing_is_fetched_from_elsewhere(server):
    other = "http://127.0.0.1:9/a.png"
    for path in (
        f"/gradio_api/file={other}",
        "/gradio_api/file=http%3A%2F%2F127.0.0.1:9%2Fa.png",
        f"/gradio_api/proxy={other}",
    ):
        assert server.ask("GET", path)[0] == 403, path
    image = {"path": other, "meta": {"_type": "gradio.FileData"}}
    for path in ("/gradio_api/call/search", "/gradio_api/queue/join", "/gradio_api/run/search"):
        body = (
            json.dumps({"data": ["", "", image], "session_hash": "x", "fn_index": 0})
            .replace("http:", "http\\u003a")
            .encode()
        )
        assert server.ask("POST", path, body, {"Content-Type": "application/json"})[0] == 403, path
    assert server.ask("POST", "/gradio_api/queue/join", b"0" * (1 << 20) + b"0")[0] == 413
    assert server.ask("POST", "/gradio_api/queue/join", b"{")[0] == 400
    assert server.ask("POST", "/gradio_api/queue/join", b"[" * 100_000)[0] == 400
    assert server.ask("POST", "/gradio_api/queue/join")[0] == 411
    assert server.ask("GET", "/", headers={"Host": "evil.example"})[0] == 403, "a name that leads here by DNS"


def test_a_query_typed_into_the_browser(tab, wanted):
    page, _ = tab
    page.wait_for_function("document.activeElement.closest('#text') !== null")  # the field has the focus
    assert page.locator(".card").count() == 16 and page.locator(".score").count() == 0
    page.keyboard.type("blue ellipse")
    page.keyboard.press("Enter")
    page.wait_for_selector(".score")
    ids, scores = wanted("blue ellipse")
    cards = page.locator(".card")
    assert cards.count() == 16
    assert [cards.nth(i).locator(".id").inner_text().replace("\\u202e", "\u202e") for i in range(16)] == ids
    shown = [float(cards.nth(i).locator("data").get_attribute("value")) for i in range(16)]
    np.testing.assert_allclose(shown, scores, atol=1e-5)
    status = page.inner_text(".status")
    assert "16 pictures" in status and "ms" in status and "recall@10 1.000 for pictures" in status
    bar = cards.first.locator(".bar div").bounding_box()["width"] / cards.first.locator(".bar").bounding_box()["width"]
    assert bar == pytest.approx(scores[0], abs=0.02)
    assert all(cards.nth(i).locator("img").evaluate("e => e.naturalWidth > 0") for i in range(16))


def test_hostile_texts_are_texts(tab):
    page, _ = tab
    page.fill("#text input", HOSTILE[1])
    page.keyboard.press("Enter")
    page.wait_for_function("document.querySelectorAll('.score').length == 16")
    time.sleep(0.2)
    assert page.evaluate("window.harm") is None
    captions = page.locator(".caption").all_inner_texts()
    assert " ".join(HOSTILE).replace("\u202e", "\\u202e") in captions
    assert HOSTILE[0] in page.locator(".card .label").all_inner_texts()
    assert page.locator(".answer script, .answer svg, .answer img[src=x], #examples img").count() == 0
    assert HOSTILE[1] in page.locator("#examples button").all_inner_texts()


def test_a_picture_is_uploaded_and_a_message_shown(tab, data, tmp_path):
    page, _ = tab
    page.fill("#text input", "")
    page.set_input_files("#picture input[type=file]", data / "orange_rectangle.png")
    page.wait_for_function("document.querySelector('.card .id').innerText == 'orange_rectangle.png'")
    assert float(page.locator(".card data").first.get_attribute("value")) > 0.999
    page.fill("#without input", "x" * 2000)
    page.evaluate("document.querySelector('#without input').removeAttribute('maxlength')")
    page.fill("#without input", "\u200b")
    page.keyboard.press("Enter")
    page.wait_for_selector(".message.error")
    assert page.inner_text(".message.error") == "Expected a word in 'without', found none."
    page.fill("#without input", "")
    page.locator("#picture button[aria-label='Remove Image'], #picture button[aria-label='Clear']").first.click()
    page.wait_for_function("document.querySelectorAll('.card').length == 16 && !document.querySelector('.score')")
    (tmp_path / "broken.png").write_bytes(b"no picture")
    page.set_input_files("#picture input[type=file]", tmp_path / "broken.png")
    page.wait_for_selector(".message.error")
    assert page.inner_text(".message.error") == "This picture cannot be used: image unreadable."


def test_an_example_is_a_click_away(tab):
    page, _ = tab
    example = page.locator("#examples button").first
    example.click()
    page.wait_for_function("t => document.querySelector('#text input').value == t", arg=example.inner_text())


def test_the_page_fits_a_telephone(tab):
    page, _ = tab
    page.set_viewport_size({"width": 380, "height": 800})
    assert page.evaluate("document.documentElement.scrollWidth") <= 380
    page.set_viewport_size({"width": 1280, "height": 900})


def test_the_browser_asked_no_other_machine(tab):
    """After all that the tests above did."""
    _, seen = tab
    assert len(seen.requests) > 20 and seen.outside() == []
    # Gradio closes a stream of answers that it has read, and says so.
    closed = [error for error in seen.errors if re.search("/queue/data.*ERR_ABORTED|^Method not implemented.$", error)]
    assert [error for error in seen.errors if error not in closed] == []


def test_several_ask_at_once(client, wanted):
    texts = [f"{colour} {shape}" for colour in shapes_run.COLOURS for shape in shapes_run.SHAPES]
    with ThreadPoolExecutor(8) as pool:
        found = list(pool.map(lambda text: client.predict(text=text, count=3, api_name="/search"), texts))
    for text, answer in zip(texts[:3], found, strict=False):
        assert [row["id"] for row in answer["results"]] == wanted(text)[0][:3]


def test_the_server_asked_no_other_machine(server, data):
    """After all that the tests above did."""
    talked = (data.parent / "talked").read_text().splitlines()
    assert any(line.startswith("socket.connect ('127.0.0.1', ") for line in talked), (
        "Gradio asks itself whether it is up"
    )
    assert [line for line in talked if "127.0.0.1" not in line and "localhost" not in line] == []


def test_it_ends_when_told_to(server):
    server.process.send_signal(signal.SIGINT)
    _, err = server.process.communicate(timeout=20)
    assert server.process.returncode == 0 and "Traceback" not in err, err


def test_a_port_that_is_taken():
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        with pytest.raises(
            AlignError, match=f"^--port: expected a free port, found {port}: .*; give another, or 0 for"
        ):
            check(port)
