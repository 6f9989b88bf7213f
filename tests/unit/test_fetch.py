"""Fetching, against a real server that gives ranges, breaks off, lies and changes its files."""

import hashlib
import io
import threading
import zipfile
from email.utils import formatdate
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

from kt_forecast.data.cards import Card
from kt_forecast.data.fetch import fetch
from kt_forecast.errors import InputError

CONTENT = bytes(range(256)) * 5000
"""More than one block of a transfer."""


class Shelf:
    """What the server holds and how it behaves."""

    def __init__(self):
        self.files = {"/a.csv": CONTENT}
        self.modified = 1_600_000_000
        self.breaks_after = []
        self.ranges = True
        self.requests = []


@pytest.fixture
def shelf():
    held = Shelf()

    class Handler(BaseHTTPRequestHandler):
        def log_message(self, *_):
            pass

        def do_GET(self):
            held.requests.append(self.headers.get("Range"))
            if self.path not in held.files:
                self.send_error(404)
                return
            body = held.files[self.path]
            first = self._first(len(body))
            if first is None:
                self.send_error(416)
                return
            self.send_response(206 if first else 200)
            self.send_header("Content-Length", str(len(body) - first))
            self.send_header("Last-Modified", formatdate(held.modified, usegmt=True))
            self.end_headers()
            body = body[first:]
            if held.breaks_after:
                body = body[: held.breaks_after.pop(0)]
            self.wfile.write(body)

        def _first(self, size):
            wanted, since = self.headers.get("Range"), self.headers.get("If-Range")
            if not (wanted and held.ranges and since == formatdate(held.modified, usegmt=True)):
                return 0
            first = int(wanted.removeprefix("bytes=").rstrip("-"))
            return first if first < size else None

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
    held.address = f"http://127.0.0.1:{server.server_port}"
    yield held
    server.shutdown()
    server.server_close()


def card(shelf, name="a.csv", **file) -> Card:
    return Card(
        title="A set",
        description="d",
        task="knowledge_tracing",
        licence="l",
        citation="c",
        homepage="http://home",
        obtain="ask for it",
        files=({"url": f"{shelf.address}/{name}", "name": name, **file},),
    )


def names(folder) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


SHA256 = hashlib.sha256(CONTENT).hexdigest()


def test_a_file_comes_whole_with_progress_and_checksum(shelf, tmp_path):
    seen = []
    made = fetch(
        card(shelf, sha256=SHA256, bytes=len(CONTENT)),
        tmp_path / "raw",
        lambda name, done, total: seen.append((name, done, total)),
    )
    assert (tmp_path / "raw" / "a.csv").read_bytes() == CONTENT
    assert [(one.sha256, one.verified) for one in made] == [(SHA256, True)]
    assert seen[-1] == ("a.csv", len(CONTENT), len(CONTENT))
    assert len(seen) > 1
    assert names(tmp_path / "raw") == ["a.csv"]


def test_an_unknown_checksum_is_told_and_not_called_verified(shelf, tmp_path):
    made = fetch(card(shelf), tmp_path)
    assert [(one.sha256, one.verified) for one in made] == [(SHA256, False)]


def test_what_is_here_is_not_fetched_again(shelf, tmp_path):
    fetch(card(shelf, sha256=SHA256), tmp_path)
    fetch(card(shelf, sha256=SHA256), tmp_path)
    assert len(shelf.requests) == 1
    (tmp_path / "a.csv").write_bytes(b"spoilt")
    with pytest.raises(InputError, match="move it away and fetch again"):
        fetch(card(shelf, sha256=SHA256), tmp_path)


def test_a_transfer_that_breaks_off_goes_on_by_itself(shelf, tmp_path):
    shelf.breaks_after = [700_000]
    fetch(card(shelf, sha256=SHA256), tmp_path)
    assert (tmp_path / "a.csv").read_bytes() == CONTENT
    assert shelf.requests == [None, "bytes=700000-"]


def test_a_transfer_that_keeps_breaking_off_is_resumed_by_the_next_call(shelf, tmp_path):
    shelf.breaks_after = [300_000, 200_000, 100_000]
    with pytest.raises(InputError, match="broke off after 600000 of 1280000 bytes"):
        fetch(card(shelf), tmp_path)
    assert names(tmp_path) == ["a.csv.part"]
    fetch(card(shelf), tmp_path)
    assert shelf.requests[-1] == "bytes=600000-"
    assert (tmp_path / "a.csv").read_bytes() == CONTENT
    assert names(tmp_path) == ["a.csv"]


def test_a_file_that_changed_meanwhile_is_fetched_anew(shelf, tmp_path):
    shelf.breaks_after = [300_000] * 3
    with pytest.raises(InputError, match="broke off"):
        fetch(card(shelf), tmp_path)
    shelf.files["/a.csv"] = new = CONTENT[::-1]
    shelf.modified += 60
    fetch(card(shelf), tmp_path)
    assert (tmp_path / "a.csv").read_bytes() == new


def test_a_server_without_ranges_starts_over(shelf, tmp_path):
    shelf.ranges = False
    shelf.breaks_after = [300_000]
    fetch(card(shelf), tmp_path)
    assert (tmp_path / "a.csv").read_bytes() == CONTENT


def test_a_part_that_is_already_whole_is_taken_or_replaced(shelf, tmp_path):
    fetch(card(shelf), tmp_path)
    (tmp_path / "a.csv").rename(tmp_path / "a.csv.part")
    fetch(card(shelf, sha256=SHA256), tmp_path)
    assert names(tmp_path) == ["a.csv"]


@pytest.mark.parametrize("wrong", [{"sha256": "0" * 64}, {"bytes": 5}])
def test_a_wrong_checksum_or_size_leaves_nothing(shelf, tmp_path, wrong):
    with pytest.raises(InputError, match=r"the card says .*; nothing was kept"):
        fetch(card(shelf, **wrong), tmp_path)
    assert names(tmp_path) == []


def test_a_server_that_does_not_have_it(shelf, tmp_path):
    with pytest.raises(InputError, match="the server answers 404"):
        fetch(card(shelf, name="b.csv"), tmp_path)
    assert names(tmp_path) == []


def test_no_server(tmp_path):
    lost = Shelf()
    lost.address = "http://127.0.0.1:9"
    with pytest.raises(InputError, match=r"could not be fetched .* run the same command again"):
        fetch(card(lost), tmp_path)


def zipped() -> bytes:
    packed = io.BytesIO()
    with zipfile.ZipFile(packed, "w") as archive:
        archive.writestr("KT1/u1.csv", "1")
        archive.writestr("KT1/u2.csv", "2")
        archive.writestr("../outside.csv", "3")
    return packed.getvalue()


def test_an_archive_is_unpacked_within_the_folder(shelf, tmp_path):
    shelf.files["/a.zip"] = zipped()
    fetch(card(shelf, name="a.zip", unzip=True), tmp_path / "raw")
    assert names(tmp_path / "raw") == ["KT1", "a.zip", "outside.csv"]
    assert names(tmp_path / "raw" / "KT1") == ["u1.csv", "u2.csv"]
    assert names(tmp_path) == ["raw"]


@pytest.mark.parametrize("body", [b"<html>please log in</html>", zipped()[:-30]])
def test_what_is_no_archive_leaves_nothing(shelf, tmp_path, body):
    shelf.files["/a.zip"] = body
    with pytest.raises(InputError, match="no whole zip archive"):
        fetch(card(shelf, name="a.zip", unzip=True), tmp_path)
    assert names(tmp_path) == []


def test_a_set_that_cannot_be_fetched_says_how_to_get_it(shelf, tmp_path):
    with pytest.raises(InputError, match=r"ask for it \(http://home\)"):
        fetch(card(shelf).model_copy(update={"files": ()}), tmp_path)
