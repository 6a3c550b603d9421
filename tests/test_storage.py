"""Files in a bucket, by a real S3 server: the same records, few requests, and an error that passes is no bad record."""

import logging
import re
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor

import braceexpand
import fsspec
import numpy as np
import pytest
from moto.server import ThreadedMotoServer
from pair_files import FORMATS, pairs

from align_jax.data import images, listing, storage
from align_jax.data import source as sources
from align_jax.data.source import BadExample
from align_jax.types import AlignError

PAIRS = pairs(24)


class Bucket:
    """s3://pairs on a server of this process, and the requests that it answered."""

    def __init__(self, server):
        self.server = server
        self.requests = []
        self.fs = fsspec.filesystem("s3", use_listings_cache=False)

    def put(self, folder):
        """The files of a folder, as objects <folder's name>/<file's name>."""
        for path in folder.iterdir():
            self.fs.pipe_file(f"pairs/{folder.name}/{path.name}", path.read_bytes())

    def reads(self, kind="GET"):
        """Object keys read since the last call; HEAD requests and listings apart."""
        found = [key for line in self.requests for key in re.findall(rf"{kind} /pairs/([^ ?]+) HTTP", line)]
        self.requests.clear()
        return found


@pytest.fixture(scope="module")
def server():
    found = ThreadedMotoServer(port=0, verbose=True)
    found.start()
    yield found
    found.stop()


@pytest.fixture
def bucket(server, monkeypatch, tmp_path):
    host, port = server.get_host_and_port()
    for name, value in (("AWS_ENDPOINT_URL", f"http://{host}:{port}"), ("AWS_ACCESS_KEY_ID", "key"),
                        ("AWS_SECRET_ACCESS_KEY", "secret"), ("AWS_DEFAULT_REGION", "us-east-1"),
                        ("XDG_CACHE_HOME", str(tmp_path / "cache"))):  # fmt: skip
        monkeypatch.setenv(name, value)
    monkeypatch.setattr(storage, "WAITS", (0.01, 0.01))
    found = Bucket(server)
    found.fs.mkdir("pairs")
    handler = logging.Handler()
    handler.emit = lambda record: found.requests.append(record.getMessage())
    logging.getLogger("werkzeug").addHandler(handler)
    yield found
    logging.getLogger("werkzeug").removeHandler(handler)
    found.fs.rm("pairs", recursive=True)


def stored(bucket, tmp_path, name, **options):
    """The options of a source in the bucket."""
    local = FORMATS[name](tmp_path / name, PAIRS)
    bucket.put(tmp_path / name)
    remote = local["path"].replace(str(tmp_path), "s3://pairs")
    return local, local | {"path": remote} | options


@pytest.mark.parametrize("name", FORMATS)
def test_a_bucket_gives_the_same_records(bucket, tmp_path, name):
    local, remote = stored(bucket, tmp_path, name)
    here, there = sources.make(**local), sources.make(**remote)
    assert here.ids() == there.ids() and list(here.texts()) == list(there.texts())
    for i in (0, 7, 8, 23):
        one, other = (images.decode(source[i].image) for source in (here, there))
        np.testing.assert_array_equal(np.asarray(one), np.asarray(other))


def test_a_block_is_one_read(bucket, tmp_path):
    source = sources.make(**stored(bucket, tmp_path, "tar", block=3)[1])
    assert source.blocks.tolist() == [0, 3, 6, 8, 11, 14, 16, 19, 22]
    bucket.reads()
    with ThreadPoolExecutor(8) as pool:
        found = list(pool.map(lambda i: source[i].image, range(6)))
    assert found == [pair.image for pair in PAIRS[:6]]
    assert bucket.reads() == ["tar/000.tar"] * 2
    assert source[8].image == PAIRS[8].image and bucket.reads() == ["tar/001.tar"]


def test_a_small_cache_reads_again(bucket, tmp_path):
    source = sources.make(**stored(bucket, tmp_path, "tar", block=4, cache_mb=0)[1])
    bucket.reads()
    for i in (0, 1, 4, 5, 0):
        assert source[i].image == PAIRS[i].image
    assert len(bucket.reads()) == 3


def test_a_row_group_is_one_read_after_the_footer(bucket, tmp_path):
    source = sources.make(**stored(bucket, tmp_path, "parquet")[1])
    source[0]
    bucket.reads()
    assert [source[i].image for i in (3, 4, 5)] == [pair.image for pair in PAIRS[3:6]]
    assert bucket.reads() == ["parquet/000.parquet"]


def test_an_array_record_is_copied_once(bucket, tmp_path):
    source = sources.make(**stored(bucket, tmp_path, "array_record")[1])
    assert len(bucket.reads()) == 3
    assert [source[i].image for i in range(24)] == [pair.image for pair in PAIRS] and not bucket.reads()


def test_a_change_in_the_bucket_is_seen(bucket, tmp_path):
    options = stored(bucket, tmp_path, "tar")[1]
    sources.make(**options)
    bucket.fs.pipe_file("pairs/tar/001.tar", (tmp_path / "tar" / "002.tar").read_bytes())
    with pytest.raises(AlignError, match=r"found 1 changed, first s3://pairs/tar/001\.tar; .* delete"):
        sources.make(**options)
    bucket.fs.rm("pairs/tar/001.tar")
    with pytest.raises(AlignError, match=r"expected s3://pairs/tar/001\.tar, found no such file"):
        sources.make(**options)


def test_a_remote_image_of_a_manifest_may_be_missing(bucket, tmp_path):
    source = sources.make(**stored(bucket, tmp_path, "manifest")[1])
    bucket.fs.rm("pairs/manifest/k003.jpg")
    with pytest.raises(BadExample, match="image file missing"):
        images.decode(source[3].image)
    (tmp_path / "local.jsonl").write_text('{"image": "s3://pairs/manifest/k001.jpg", "text": "x"}\n')
    local = sources.make(name="manifest", path=str(tmp_path / "local.jsonl"))
    assert images.decode(local[0].image).size == images.decode(PAIRS[1].image).size
    (tmp_path / "near.jsonl").write_text('{"image": "k001.jpg", "text": "x"}\n')
    near = sources.make(name="manifest", path=str(tmp_path / "near.jsonl"), images="s3://pairs/manifest")
    assert near[0].image == "s3://pairs/manifest/k001.jpg"


def test_what_passes_is_tried_again(bucket, tmp_path, monkeypatch):
    source = sources.make(**stored(bucket, tmp_path, "tar", block=1)[1])
    fs = storage.filesystem("s3://pairs")[0]
    real, failures = fs.cat_file, []

    def failing(*args, **options):
        if len(failures) < limit:
            failures.append(args)
            raise ConnectionResetError("reset by peer")
        return real(*args, **options)

    monkeypatch.setattr(fs, "cat_file", failing)
    limit = 2
    assert source[5].image == PAIRS[5].image and len(failures) == 2
    limit = 100
    with pytest.raises(storage.StorageError, match=r"s3://pairs/tar/000\.tar: expected to read it, found Connection"):
        source[6]
    assert len(failures) == 2 + 3, "and then no more"
    with pytest.raises(storage.StorageError):
        images.decode("s3://pairs/tar/000.tar")  # no bad record: it may be as good as ever


def test_a_server_that_is_gone(bucket):
    """The connection is refused by the system, each time."""
    server = ThreadedMotoServer(port=0)
    server.start()
    host, port = server.get_host_and_port()
    server.stop()
    with pytest.raises(storage.StorageError, match=r"x\.tar: expected to read it, found .*Connect.* start again"):
        storage.read(f"http://{host}:{port}/x.tar")


def test_a_bucket_that_is_not_there(bucket):
    for name in ("s3://no-such-bucket/*.tar", "s3://no-such-bucket/000.tar", "s3://pairs/{0..9}.tar"):
        with pytest.raises(AlignError, match="found no such file"):
            sources.make(name="tar", path=name)


@pytest.mark.parametrize(
    ("path", "message"),
    [
        ("gs://a/b.tar", r'expected a package that reads gs://; run: pip install "align-jax\[gcs\]"'),
        ("s3://a/b.tar", r'expected a package that reads s3://; run: pip install "align-jax\[s3\]"'),
        ("abfs://a/b.tar", r"expected a package that reads abfs://; run: pip install .*adlfs"),
        ("nope://a/b.tar", "expected a protocol that fsspec knows, found nope://"),
    ],
)
def test_a_missing_package_is_named(path, message):
    code = f"""
import sys
sys.modules["gcsfs"] = sys.modules["s3fs"] = None
from align_jax.data import source
try:
    source.make(name="tar", path={path!r})
except source.AlignError as error:
    print(error)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert re.search(message, done.stdout) and done.stdout.count("\n") == 1, done.stderr


@pytest.mark.parametrize(
    "pattern",
    ["a", "{0..3}", "{00..10}", "{1..010}", "{8..12}x{a,b}", "{3..1}", "a{b,c{1,2}}", "{0..10}", "x{}", "{a}", "{,x}"],
)
def test_braces_are_those_of_webdataset(pattern):
    assert sorted(set(listing.braces(pattern))) == sorted(set(braceexpand.braceexpand(pattern)))


def test_files_of_several_patterns(tmp_path):
    (tmp_path / "b").mkdir()
    for name in ("a1", "a2", "b/a3", "a10"):
        (tmp_path / name).write_text(name)
    found = listing.expand([f"{tmp_path}/a[12]", f"{tmp_path}/{{a1,b/a3}}", f"{tmp_path}/*/a?", f"{tmp_path}/a10"])
    assert [file.path.removeprefix(f"{tmp_path}/") for file in found] == ["a1", "a10", "a2", "b/a3"]
    assert [file.size for file in found] == [2, 3, 2, 4]
    with pytest.raises(AlignError, match="found no such file"):
        listing.expand(f"{tmp_path}/b")  # a folder


@pytest.mark.parametrize("count", [3, 30])
def test_a_missing_file_among_many(tmp_path, count):
    """Asked for one by one, or by a listing of the folder."""
    for i in range(count):
        (tmp_path / f"{i:02d}").touch()
    assert len(listing.expand(f"{tmp_path}/{{00..{count - 1:02d}}}")) == count
    with pytest.raises(AlignError, match=f"expected {tmp_path}/{count:02d}, found no such file"):
        listing.expand(f"{tmp_path}/{{00..{count:02d}}}")
