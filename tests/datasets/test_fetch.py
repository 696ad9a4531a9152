from __future__ import annotations

import importlib
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
from idx_files import write_small_mnist

from robal.datasets import Known, fetch, load, present
from robal.errors import DataCorrupt, DataMissing


@dataclass
class Site:
    """A web site on loopback that serves `files`, and cuts those in `cut` short."""

    url: str
    files: dict[str, bytes] = field(default_factory=dict)
    cut: set[str] = field(default_factory=set)
    asked: list[str] = field(default_factory=list)


@pytest.fixture
def site() -> Iterator[Site]:
    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            name = self.path.lstrip("/")
            served.asked.append(name)
            if name not in served.files:
                self.send_error(404)
                return
            body = served.files[name]
            self.send_response(200)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body[: len(body) // 2] if name in served.cut else body)

        def log_message(self, format: str, *args: object) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        served = Site(f"http://127.0.0.1:{server.server_port}/")
        thread = threading.Thread(target=server.serve_forever, args=(0.02,))
        thread.start()
        yield served
        server.shutdown()
        thread.join()


@pytest.fixture
def small(tmp_path: Path, site: Site, monkeypatch: pytest.MonkeyPatch) -> Known:
    known, _ = write_small_mnist(tmp_path / "publisher")
    site.files = {file.name: (tmp_path / "publisher" / file.name).read_bytes() for file in known.files}
    monkeypatch.setattr(importlib.import_module("robal.datasets.catalogue"), "_KNOWN", (known,))
    return known


def test_what_was_fetched_can_be_loaded(tmp_path: Path, site: Site, small: Known) -> None:
    folder = tmp_path / "new" / "data"
    assert fetch("mnist", folder, mirrors=[site.url]) == folder / "mnist"
    assert len(load("mnist", folder)) == 30
    assert present("mnist", folder) == "here"
    assert sorted(path.name for path in (folder / "mnist").iterdir()) == sorted(site.files)


def test_files_that_are_there_and_right_are_left_alone(tmp_path: Path, site: Site, small: Known) -> None:
    fetch("mnist", tmp_path, mirrors=[site.url])
    site.asked.clear()
    fetch("mnist", tmp_path, mirrors=[site.url])
    assert site.asked == []
    wrong, gone = (tmp_path / "mnist" / file.name for file in small.files[:2])
    wrong.write_bytes(b"half")
    gone.unlink()
    fetch("mnist", tmp_path, mirrors=[site.url])
    assert site.asked == [wrong.name, gone.name]
    assert present("mnist", tmp_path) == "here"


def test_a_connection_cut_short_leaves_no_file_behind_and_can_be_resumed(
    tmp_path: Path, site: Site, small: Known
) -> None:
    name = small.files[2].name
    site.cut = {name}
    with pytest.raises(DataMissing) as caught:
        fetch("mnist", tmp_path, mirrors=[site.url])
    assert site.url + name in str(caught.value)
    assert str(tmp_path / "mnist" / name) in str(caught.value)
    assert sorted(path.name for path in (tmp_path / "mnist").iterdir()) == sorted(file.name for file in small.files[:2])
    site.cut, site.asked = set(), []
    fetch("mnist", tmp_path, mirrors=[site.url])
    assert site.asked == [file.name for file in small.files[2:]]


def test_the_next_mirror_is_tried(tmp_path: Path, site: Site, small: Known) -> None:
    fetch("mnist", tmp_path, mirrors=[site.url + "nothing-here", site.url])
    assert present("mnist", tmp_path) == "here"


def test_a_file_with_another_md5_is_refused_and_removed(tmp_path: Path, site: Site, small: Known) -> None:
    name = small.files[0].name
    site.files[name] = b"<html>please log in</html>"
    with pytest.raises(DataCorrupt, match=f"{name}: its md5 should be {small.files[0].md5}"):
        fetch("mnist", tmp_path, mirrors=[site.url])
    assert list((tmp_path / "mnist").iterdir()) == []


def test_without_a_network_the_url_and_the_place_are_said(tmp_path: Path, small: Known) -> None:
    with pytest.raises(
        DataMissing, match=r"http://127.0.0.1:9/train-images.*get it by hand .* put it at .*mnist/train"
    ):
        fetch("mnist", tmp_path, mirrors=["http://127.0.0.1:9"])


def test_what_cannot_be_fetched_says_what_to_do(tmp_path: Path) -> None:
    with pytest.raises(DataMissing, match=r"download shoes_64\.zip and handbag_64.zip"):
        fetch("shoe-bag", tmp_path)


def test_the_embedded_digits_need_no_fetching(tmp_path: Path) -> None:
    fetch("digits", tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_chosen_sketches_are_fetched(tmp_path: Path, site: Site) -> None:
    site.files = {"cat.npy": b"1", "eye.npy": b"2"}
    fetch("quickdraw:cat,eye", tmp_path, mirrors=[site.url])
    assert sorted(path.name for path in (tmp_path / "quickdraw").iterdir()) == ["cat.npy", "eye.npy"]
