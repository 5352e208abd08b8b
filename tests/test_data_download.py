"""Downloads, against a server on this machine and a stand-in of learn2learn."""

from __future__ import annotations

import hashlib
import io
import sys
import threading
from collections.abc import Iterator
from dataclasses import replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest
from data_layouts import MINI, TINY, batch_files, mini_images, write_archive, write_mini_caches
from rich.console import Console

from slabench.core.errors import DataError, DataMissingError
from slabench.data.catalog import info
from slabench.data.loading import ensure_store
from slabench.data.sources.download import fetch


class Server(ThreadingHTTPServer):
    """Serves `body`; says `length` in its header."""

    body = b""
    length = 0

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_port}/cifar-100-python.tar.gz"


class Handler(BaseHTTPRequestHandler):
    server: Server

    def do_GET(self) -> None:
        self.send_response(200)
        self.send_header("Content-Length", str(self.server.length))
        self.end_headers()
        self.wfile.write(self.server.body)

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture
def server(tmp_path, parts) -> Iterator[Server]:
    with Server(("127.0.0.1", 0), Handler) as served:
        served.body = write_archive(tmp_path / "served.tar.gz", batch_files(parts)).read_bytes()
        served.length = len(served.body)
        thread = threading.Thread(target=served.serve_forever, daemon=True)
        thread.start()
        yield served
        served.shutdown()
        thread.join()


def entry_of(server: Server):
    return replace(TINY, url=server.url, md5=hashlib.md5(server.body, usedforsecurity=False).hexdigest())


def test_download_prepares_the_store_and_keeps_nothing_else(tmp_path, server):
    screen = io.StringIO()
    entry = entry_of(server)
    store, notes = fetch(entry, tmp_path / "data", console=Console(file=screen, force_terminal=True, width=120))
    assert store.manifest["source"]["kind"] == "python batches"
    assert store.manifest["n_images"] == 24
    assert notes == ["test images that are training images too, bit for bit: 1 of 9"]  # as `tiny_parts` makes them
    assert [child.name for child in (tmp_path / "data").iterdir()] == ["tiny"]
    assert "cifar-100-python.tar.gz" in screen.getvalue()
    server.body = b"never asked again"
    assert ensure_store(entry, tmp_path / "data") == store.folder


def test_a_proxy_counts_only_while_it_is_set(tmp_path, server, monkeypatch):
    """In a notebook: the wrong proxy is corrected and the next attempt goes through."""
    entry = entry_of(server)
    with monkeypatch.context() as patch:
        patch.setenv("http_proxy", "http://127.0.0.1:9")  # nobody listens on port 9
        patch.delenv("no_proxy", raising=False)
        assert "cannot be reached" in failed(entry, tmp_path, DataMissingError)
    assert fetch(entry, tmp_path / "data")[0].manifest["n_images"] == 24


def failed(entry, tmp_path, kind=DataError) -> str:
    with pytest.raises(kind) as caught:
        fetch(entry, tmp_path / "data")
    assert list((tmp_path / "data").iterdir()) == []
    return caught.value.message


def test_a_download_that_breaks_off(tmp_path, server):
    entry = entry_of(server)
    server.body = server.body[: len(server.body) // 2]
    assert "broke off after" in failed(entry, tmp_path)


def test_other_bytes_than_the_publisher_s(tmp_path, server):
    entry = entry_of(server)
    server.body = server.body[:-1] + bytes([server.body[-1] ^ 1])
    assert entry.md5 in failed(entry, tmp_path)


def test_a_web_page_in_place_of_the_archive(tmp_path, server):
    entry = entry_of(server)
    server.body = b"<!DOCTYPE html><html>please log in</html>"
    server.length = len(server.body)
    assert "HTML page" in failed(entry, tmp_path)


def test_no_network_lists_every_way(tmp_path):
    entry = replace(TINY, url="http://127.0.0.1:9/cifar-100-python.tar.gz", md5="0" * 32)  # nobody listens on port 9
    with pytest.raises(DataMissingError) as caught:
        ensure_store(entry, tmp_path / "data")
    assert "cannot be reached" in caught.value.message
    for way in ("data get tiny", "data import tiny PATH", "parquet", "SLABENCH_DATA", "--dataset glyphs"):
        assert way in caught.value.remedy
    assert list((tmp_path / "data").iterdir()) == []
    assert caught.value.exit_code == 2


def test_the_catalog_has_torchvision_s_addresses_and_checksums():
    from torchvision.datasets import CIFAR10, CIFAR100

    for name, theirs in (("cifar100", CIFAR100), ("cifar10", CIFAR10)):
        assert (info(name).url, info(name).md5) == (theirs.url, theirs.tgz_md5)


LEARN2LEARN = """
import os, pickle, shutil
from pathlib import Path

class MiniImagenet:
    '''As learn2learn 0.2 does it: download, then pickle.load; on a web page, once more from elsewhere.'''
    def __init__(self, root, mode="train", transform=None, target_transform=None, download=False):
        file = Path(root) / f"mini-imagenet-cache-{mode}.pkl"
        try:
            if not file.exists() and download:
                shutil.copy(Path(SERVED) / file.name, file)
            with open(file, "rb") as f:
                self.data = pickle.load(f)
        except pickle.UnpicklingError:
            if not file.exists() and download:
                shutil.copy(Path(MIRROR) / file.name, file)
            with open(file, "rb") as f:
                self.data = pickle.load(f)
        raise AssertionError("learn2learn has unpickled a download")
"""


@pytest.fixture
def learn2learn(tmp_path, monkeypatch):
    """A package called learn2learn that copies from tmp_path/served, then from tmp_path/mirror."""
    package = tmp_path / "site" / "learn2learn" / "vision" / "datasets"
    package.mkdir(parents=True)
    for folder in (package, package.parent, package.parent.parent):
        (folder / "__init__.py").touch()
    places = f"SERVED = {str(tmp_path / 'served')!r}\nMIRROR = {str(tmp_path / 'mirror')!r}\n"
    (package / "mini_imagenet.py").write_text(places + LEARN2LEARN)
    for name in [name for name in sys.modules if name.split(".")[0] == "learn2learn"]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.syspath_prepend(str(tmp_path / "site"))
    yield
    for name in [name for name in sys.modules if name.split(".")[0] == "learn2learn"]:
        sys.modules.pop(name)


@pytest.mark.usefixtures("learn2learn")
def test_learn2learn_downloads_and_slabench_reads(tmp_path):
    images = mini_images()
    write_mini_caches(tmp_path / "served", images, val="validation")
    store, _ = fetch(MINI, tmp_path / "data")
    assert store.manifest["source"]["kind"] == "pickle caches"
    assert store.manifest["n_images"] == 12
    assert [child.name for child in (tmp_path / "data").iterdir()] == ["mini-imagenet"]
    import pickle

    from learn2learn.vision.datasets import mini_imagenet

    assert mini_imagenet.pickle is pickle  # put back


@pytest.mark.usefixtures("learn2learn")
def test_learn2learn_s_second_address_is_tried(tmp_path):
    images = mini_images()
    write_mini_caches(tmp_path / "mirror", images, val="validation")
    write_mini_caches(tmp_path / "served", images, val="validation")
    for file in (tmp_path / "served").iterdir():
        file.write_text("<html>quota exceeded</html>")
    assert fetch(MINI, tmp_path / "data")[0].manifest["n_images"] == 12
    for file in (tmp_path / "mirror").iterdir():
        file.write_text("<html>quota exceeded</html>")
    assert "give a web page" in failed(MINI, tmp_path / "again", DataMissingError)


def test_without_learn2learn_the_error_says_so(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "learn2learn", None)
    with pytest.raises(DataMissingError, match="needs learn2learn"):
        ensure_store(MINI, tmp_path / "data")
