import http.client
import io
import os
import socket
import socketserver
import sys
from base64 import b64decode
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler
from pathlib import Path
from socketserver import ThreadingMixIn
from threading import Event, Thread

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from detector.arrays import ImageArray
from detector.data.scenes import scenes
from detector.errors import ConfigError, FileError, ImageError, ImageTooLargeError, InputError
from detector.images import write_image
from detector.media import sources, urls
from detector.media.sources import find_sources
from detector.options import ReadOptions

Requests = list[tuple[str, str | None]]
"""(path, Authorization header) of each HTTP request."""


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Create four images, one of them in a subfolder, and a text file; return the folder, which is the current one."""
    for level, name in enumerate(("b.png", "a.JPG", "c 1.bmp", "sub/d.png")):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        write_image(tmp_path / name, np.full((4, 5, 3), level * 50, np.uint8))
    (tmp_path / "notes.txt").write_text("no image")
    monkeypatch.chdir(tmp_path)
    return tmp_path


def names(*specs: str, recursive: bool = False, allow_url: bool = False) -> list[str]:
    options = ReadOptions(recursive=recursive, allow_url=allow_url)
    return [source.name.as_posix() for source in find_sources(specs, options)]


def test_a_folder_gives_its_images_sorted_by_name(folder: Path) -> None:
    assert names(".") == ["a.JPG", "b.png", "c 1.bmp"]
    assert names("sub") == ["sub/d.png"]


def test_glob_patterns_may_be_absolute_or_recursive(folder: Path) -> None:
    assert names("*.png") == ["b.png"]
    assert names(f"{folder}/?.png") == [f"{folder}/b.png"]
    assert names("*/*.png") == ["sub/d.png"]
    assert names("**/*.png") == ["b.png", "sub/d.png"]


def test_a_warning_names_skipped_videos_and_rare_formats(folder: Path, caplog: pytest.LogCaptureFixture) -> None:
    for name in ("x.MP4", "y.mp4", "z.psd"):
        (folder / name).write_bytes(b"")
    assert names(".") == ["a.JPG", "b.png", "c 1.bmp"]
    assert ".: skipped 2 videos; to include videos, also pass: *.mp4" in caplog.text
    assert (
        ".: skipped: 1 file is an image in a format that is not read (.psd): convert it to JPEG or PNG" in caplog.text
    )
    caplog.clear()
    names("sub")
    assert not caplog.text


def test_a_folder_gives_its_videos_if_requested(folder: Path, caplog: pytest.LogCaptureFixture) -> None:
    for name in ("x.MP4", "sub/y.avi", "._x.mp4"):
        (folder / name).write_bytes(b"video")
    (folder / "app.ts").write_text("export const answer = 42;")
    for name, head in {"a.ts": b"G" + bytes(9), "b.mts": bytes(4) + b"G"}.items():
        (folder / name).write_bytes(head)
    (folder / "z.mp4").mkdir()
    found = [source.name.as_posix() for source in find_sources(["."], ReadOptions(videos=True))]
    assert found == ["a.JPG", "b.png", "c 1.bmp", "a.ts", "b.mts", "x.MP4"]
    found = [source.name.as_posix() for source in find_sources(["."], ReadOptions(videos=True, recursive=True))]
    assert found[-1] == "sub/y.avi"
    assert not caplog.text
    (folder / "empty").mkdir()
    with pytest.raises(FileError, match="empty: no images or videos in this folder"):
        find_sources(["empty"], ReadOptions(videos=True))


def test_each_file_is_returned_once_in_the_given_order(folder: Path) -> None:
    assert names("sub/d.png", "b.png", "*.png", ".") == ["sub/d.png", "b.png", "a.JPG", "c 1.bmp"]


def test_an_existing_file_takes_precedence_over_a_pattern(folder: Path) -> None:
    (folder / "b.png").rename(folder / "[b].png")
    assert names("[b].png") == ["[b].png"]


def test_each_source_reads_its_own_image(folder: Path) -> None:
    levels = [int(source.read()[0, 0, 0]) for source in find_sources(["b.png", "c 1.bmp", "sub/d.png"])]
    assert levels == [0, 100, 150]


def test_scenes_gives_a_dozen_built_in_images(folder: Path) -> None:
    sources = find_sources(["scenes", "b.png"])
    assert len(sources) == 13
    assert len({source.name for source in sources}) == 13
    assert np.array_equal(sources[3].read(), scenes.render("test", 3).image)


def test_a_folder_named_scenes_takes_precedence(folder: Path) -> None:
    (folder / "sub").rename(folder / "scenes")
    assert names("scenes") == ["scenes/d.png"]


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        ("z.png", "z.png: no such file, folder or pattern"),
        ("*.tiff", r"\*.tiff: no such file, folder or pattern"),
        ("empty", "empty: no images in this folder"),
        ("", "'': not a valid file name"),
        ("a\0.png", r"'a\\x00\.png': not a valid file name"),
        ("x" * 5000, r"^x{300}\.\.\.: no such file, folder or pattern"),
        ("*/" * 2000, r"^(\*/){150}\.\.\.: no such file, folder or pattern"),
        ("b.png/c.png", "b.png/c.png: no such file, folder or pattern"),
        ("\ud800", r"\\ud800: no such file, folder or pattern"),
    ],
)
def test_a_spec_that_matches_nothing_is_refused(folder: Path, spec: str, message: str) -> None:
    (folder / "empty").mkdir()
    with pytest.raises(FileError, match=message):
        find_sources(["b.png", spec])


def test_at_least_one_spec_is_required() -> None:
    with pytest.raises(ConfigError, match="no image is given; pass files, folders or glob patterns"):
        find_sources([])


def test_a_file_that_is_not_an_image_fails_when_read(folder: Path) -> None:
    (folder / "notes.txt").rename("notes.md")
    [source] = find_sources(["notes.md"])
    with pytest.raises(ImageError, match=r"notes\.md: not an image"):
        source.read()


@pytest.mark.posix
def test_max_pixels_applies_to_every_kind_of_source(requests: Requests, monkeypatch: pytest.MonkeyPatch) -> None:
    set_stdin(monkeypatch, Path("b.png").read_bytes())
    Path("list.txt").write_text("c 1.bmp")
    specs = ["b.png", "sub", "list.txt", "http://host/a.png", "-"]
    found = find_sources(specs, ReadOptions(allow_url=True, max_pixels=19))
    assert len(found) == 5
    for source in found:
        with pytest.raises(ImageTooLargeError, match="5 x 4 pixels, more than 19: "):
            source.read()
    set_stdin(monkeypatch, Path("b.png").read_bytes())
    for source in find_sources(specs, ReadOptions(allow_url=True, max_pixels=20)):
        assert source.read().shape == (4, 5, 3)


@pytest.mark.parametrize("name", ["a\nb.png", "\"a'.png", os.fsdecode(b"\xff.png"), " .png", "-.png"])
def test_images_with_unusual_names_are_found(folder: Path, name: str) -> None:
    (folder / "sub" / "d.png").rename(folder / "sub" / name)
    expected = [str(Path("sub", name))]
    for spec in (f"sub/{name}", "sub/*", "sub"):
        [source] = find_sources([spec])
        assert [str(source.name)] == expected
        assert source.read()[0, 0, 0] == 150
    if "\n" not in name:  # a list cannot contain a name with a line break
        (folder / "list.txt").write_bytes(os.fsencode(f"sub/{name}\n"))
        assert [str(source.name) for source in find_sources(["list.txt"])] == expected


# --- subfolders


def test_recursive_includes_the_images_in_subfolders(folder: Path) -> None:
    for name in ("sub/a/e.png", "sub/B/f.png", "a/empty/deep/g.png"):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        write_image(folder / name, np.zeros((4, 5, 3), np.uint8))
    own, below = ["a.JPG", "b.png", "c 1.bmp"], ["a/empty/deep/g.png", "sub/d.png", "sub/B/f.png", "sub/a/e.png"]
    assert names(".", recursive=True) == own + below
    assert names("sub/a", ".", recursive=True)[:2] == ["sub/a/e.png", "a.JPG"]
    assert names(".") == own


def test_cyclic_and_repeated_links_give_each_image_once(folder: Path) -> None:
    (folder / "sub" / "up").symlink_to("..")
    (folder / "sub" / "self").symlink_to(".")
    (folder / "again").symlink_to("sub")
    (folder / "nowhere").symlink_to("gone")
    (folder / "ring").symlink_to("ring")
    assert names(".", recursive=True) == ["a.JPG", "b.png", "c 1.bmp", "again/d.png"]


def test_folders_nested_too_deeply_are_refused(folder: Path) -> None:
    for _ in range(40):
        Path("d" * 120).mkdir()
        os.chdir("d" * 120)
    os.chdir(folder)
    with pytest.raises(FileError, match=r"ddd: the folder cannot be read \(File name too long\)"):
        find_sources(["."], ReadOptions(recursive=True))


@pytest.mark.posix
@pytest.mark.skipif(not hasattr(os, "geteuid") or os.geteuid() == 0, reason="root can read everything")
@pytest.mark.parametrize("mode", [0o300, 0o400, 0o000])
def test_the_error_names_a_subfolder_that_cannot_be_read(folder: Path, mode: int) -> None:
    (folder / "sub" / "below").mkdir()
    (folder / "sub").chmod(mode)
    with pytest.raises(FileError, match=r"sub(/below)?: the folder cannot be read \(Permission denied\)"):
        find_sources(["."], ReadOptions(recursive=True))
    (folder / "sub").chmod(0o700)


def test_the_error_suggests_recursive_if_subfolders_contain_images(folder: Path) -> None:
    (folder / "out" / "in").mkdir(parents=True)
    with pytest.raises(FileError, match=r"out: no images in this folder \([^)]*\)$"):
        find_sources(["out"])
    with pytest.raises(FileError, match="out: no images in this folder or its subfolders"):
        find_sources(["out"], ReadOptions(recursive=True))
    (folder / "sub").rename(folder / "out" / "in" / "sub")
    with pytest.raises(FileError, match=r"out: no images in this folder .* subfolders contain images: add --recursive"):
        find_sources(["out"])
    assert names("out", recursive=True) == ["out/in/sub/d.png"]


# --- lists


def write_list(name: str, text: str | bytes) -> str:
    Path(name).write_bytes(text if isinstance(text, bytes) else text.encode())
    return name


def test_a_list_is_relative_to_its_own_folder(folder: Path) -> None:
    lines = "\ufeff# comment\r\n\r\nd.png\r\n  ../c*.bmp  \r\n.\r\n" + f"{folder}/b.png"
    assert names(write_list("sub/list.TXT", lines), "b.png") == [
        "sub/d.png",
        "sub/../c 1.bmp",
        f"{folder}/b.png",
        "b.png",
    ]
    assert names(write_list("deep.txt", "."), recursive=True) == ["a.JPG", "b.png", "c 1.bmp", "sub/d.png"]


@pytest.mark.parametrize("character", "[]*?")
def test_the_folder_of_a_list_is_not_a_pattern(folder: Path, character: str) -> None:
    (folder / "sub").rename(folder / f"x{character}y")
    assert names(write_list(f"x{character}y/list.txt", "*.png")) == [f"x{character}y/d.png"]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("b.png\n# no\nz.png", r"list\.txt:3: z\.png: no such file, folder or pattern"),
        ("b.png\nempty", r"list\.txt:2: empty: no images in this folder"),
        ("notes.txt", r"list\.txt:1: notes\.txt: a list must not contain another list"),
        ("list.txt", r"list\.txt:1: list\.txt: a list must not contain another list"),
        ("-", r"list\.txt:1: -: no such file"),
        ("scenes", r"list\.txt:1: scenes: no such file"),
        ("# nothing\n\n", r"list\.txt: the list contains no images"),
        ("", r"list\.txt: the list contains no images"),
        ("b.png".encode("utf-16"), r"list\.txt:1: .*not a valid file name; .* save the list as UTF-8"),
        ("b.png\n" + "x" * 100_000, r"list\.txt:2: x{300}\.\.\.: no such file, folder or pattern"),
    ],
)
def test_the_error_names_the_line_of_a_list(folder: Path, text: str | bytes, message: str) -> None:
    (folder / "empty").mkdir()
    with pytest.raises(FileError, match=message):
        find_sources([write_list("list.txt", text)])


def test_the_error_names_the_line_of_a_forbidden_url(folder: Path) -> None:
    with pytest.raises(ConfigError, match=r"^list\.txt:2: http://host/a\.png: .*--allow-url"):
        find_sources([write_list("list.txt", "b.png\nhttp://host/a.png")])


@given(
    st.binary(max_size=60).filter(lambda text: b"/" not in text and b".." not in text)
)  # no paths that lead to other folders
def test_a_list_with_any_content_gives_images_or_an_error(
    tmp_path_factory: pytest.TempPathFactory, text: bytes
) -> None:
    path = tmp_path_factory.getbasetemp() / "any" / "any.txt"
    path.parent.mkdir(exist_ok=True)
    path.write_bytes(text)
    try:
        find_sources([str(path)], ReadOptions(recursive=True))
    except InputError as error:
        assert "any.txt" in str(error)  # noqa: PT017 (both outcomes are valid, but no other exception)


def test_a_folder_with_suffix_txt_is_a_folder(folder: Path) -> None:
    (folder / "sub").rename(folder / "sub.txt")
    assert names("sub.txt") == ["sub.txt/d.png"]


# --- standard input


def set_stdin(monkeypatch: pytest.MonkeyPatch, data: bytes) -> None:
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(data)))


def test_standard_input_is_an_image_that_can_be_read_twice(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    set_stdin(monkeypatch, (folder / "c 1.bmp").read_bytes())
    write_image(folder / "stdin.jpg", np.zeros((4, 5, 3), np.uint8))
    first, second, third = find_sources(["-", "stdin.jpg", "-", "b.png"])
    assert [first.name, second.name, third.name] == [Path("stdin-2.jpg"), Path("stdin.jpg"), Path("b.png")]
    for _ in range(2):
        assert first.read()[0, 0, 0] == 100


@pytest.mark.parametrize(
    ("data", "message"),
    [(b"", "the file is empty"), (b"text", "not an image"), (b"\x89PNG\r\n\x1a\n", "not an image")],
)
def test_standard_input_must_be_an_image(monkeypatch: pytest.MonkeyPatch, data: bytes, message: str) -> None:
    set_stdin(monkeypatch, data)
    [source] = find_sources(["-"])
    with pytest.raises(ImageError, match=f"^standard input: {message}"):
        source.read()


def test_standard_input_that_is_too_long_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sources, "MAX_BYTES", 1000)
    set_stdin(monkeypatch, bytes(1001))
    with pytest.raises(FileError, match=r"the file on standard input is larger than .* MB; pass its path"):
        find_sources(["-"])[0].read()
    monkeypatch.setattr(sys, "stdin", None)
    with pytest.raises(FileError, match="standard input is closed"):
        find_sources(["-"])[0].read()


# --- URLs: every host is replaced by a local HTTP server on a Unix socket, because tests have no network


class Handler(BaseHTTPRequestHandler):
    """Sends a response that depends on the path of the request.

    The first part of the path selects the kind of response, and the rest of the path is a parameter.
    """

    requests: Requests
    stopped: Event
    image: bytes

    def do_GET(self) -> None:
        self.requests.append((self.path, self.headers["Authorization"]))
        kind, _, rest = self.path.removeprefix("/").partition("/")
        if kind in ("to", "endless-to"):  # `rest` is the number of redirects, or the URL to redirect to
            location = f"/{kind}/{int(rest) - 1}" if rest.isdigit() and rest != "1" else "/a.png"
            self.send_head(302, {"Location": location if rest.isdigit() else rest})
        elif kind == "odd":
            self.wfile.write(b"\x1b[2J secret\r\n\r\n")
        elif kind != "silent":
            self.send_head(int(kind) if kind.isdigit() else 200, {"Content-Length": rest} if rest else {})
        if kind.startswith("endless"):
            self.send_endless(bytes(2**16), 0)
        elif kind == "drip":
            self.send_endless(b"x", 0.01)
        elif kind == "silent":
            self.stopped.wait(60)
        else:
            self.wfile.write(self.image[:40] if kind == "cut.png" else self.image if "png" in kind else b"<html>")

    def send_head(self, status: int, headers: dict[str, str]) -> None:
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name, value)
        self.end_headers()

    def send_endless(self, data: bytes, pause: float) -> None:
        while not self.stopped.wait(pause):
            self.wfile.write(data)

    def log_message(self, *args: object) -> None:
        pass


class Server(ThreadingMixIn, getattr(socketserver, "UnixStreamServer", socketserver.TCPServer)):  # type: ignore[misc]
    daemon_threads = True

    def handle_error(self, *args: object) -> None:
        pass  # the client is expected to close the connection early


@pytest.fixture
def requests(folder: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Requests]:
    """Start the server for all hosts, and yield the list of its requests."""

    def connect(self: http.client.HTTPConnection) -> None:
        self.sock = socket.socket(socket.AF_UNIX)
        self.sock.settimeout(self.timeout)
        self.sock.connect("server")

    monkeypatch.setenv("no_proxy", "*")
    monkeypatch.setattr(http.client.HTTPConnection, "connect", connect)
    stopped = Event()
    for name, value in {"requests": [], "stopped": stopped, "image": (folder / "c 1.bmp").read_bytes()}.items():
        monkeypatch.setattr(Handler, name, value, raising=False)
    with Server("server", Handler) as server:
        thread = Thread(target=server.serve_forever, args=(0.01,))
        thread.start()
        yield Handler.requests
        stopped.set()
        server.shutdown()
        thread.join()


def fetch(url: str) -> ImageArray:
    [source] = find_sources([url], ReadOptions(allow_url=True))
    return source.read()


@pytest.mark.posix
def test_a_url_is_fetched_if_allowed_and_when_read(requests: Requests) -> None:
    with pytest.raises(ConfigError, match=r"^http://host/a\.png: URLs are not opened by default; add --allow-url"):
        find_sources(["http://me:secret@host/a.png?token=secret"])
    url = "HTTP://b\u00fccher.de/png%20gr\u00f6\u00dfe/../\u00e4 1.png?x= \u00e4&y=%20#z"
    [source] = find_sources([url], ReadOptions(allow_url=True))
    assert requests == []
    assert source.name == Path("\u00e4 1.png")
    assert (source.read() == 100).all()
    assert requests == [("/png%20gr%C3%B6%C3%9Fe/../%C3%A4%201.png?x=%20%C3%A4&y=%20", None)]


def test_images_from_urls_get_different_names(folder: Path) -> None:
    write_image(folder / "a-2.png", np.zeros((4, 5, 3), np.uint8))
    urls = ["http://x/a.png", "http://y/a.png", "http://y/a.png", "http://y/a.png?1", "http://h", "http://h/x/"]
    urls += ["http://h/..", "http://h/%2e%2e%2fCON.jpg", "http://h/" + "x" * 999 + ".jpeg", "http://h/get.php?a.png"]
    found = names("a-2.png", *urls, allow_url=True)
    assert found[:6] == ["a-2.png", "a.png", "a-3.png", "a-4.png", "h", "x"]
    assert found[6:] == ["_", "_CON.jpg", "x" * 150 + ".jpeg", "get.php"]
    assert names(write_list("list.txt", "http://x/a.png\n"), allow_url=True) == ["a.png"]


@pytest.mark.posix
def test_credentials_are_sent_to_their_host_only(requests: Requests) -> None:
    assert fetch("http://me:se%40cret@host/to/2").shape == (4, 5, 3)
    sent = [(path, b64decode(header.removeprefix("Basic ")) if header else None) for path, header in requests]
    assert sent == [("/to/2", b"me:se@cret"), ("/to/1", None), ("/a.png", None)]


@pytest.mark.posix
@pytest.mark.parametrize("suffix", ["404?token=secret", "page#secret", "odd"])
def test_messages_contain_no_password_and_no_query(requests: Requests, suffix: str) -> None:
    with pytest.raises(InputError, match=r"^http://host/(404|page|odd): [^@]*$") as caught:
        fetch(f"http://me:secret@host/{suffix}")
    assert "secret" not in str(caught.value)


@pytest.mark.parametrize(
    "url",
    ["http://", "http:///a.png", "http://[x/a.png", "http://me:sec/ret@host/a", "http://h:99999/", "http://h:0/a"],
)
def test_an_invalid_url_is_refused_without_showing_the_password(url: str) -> None:
    with pytest.raises(FileError, match="not a valid URL; expected for example http://host/image") as caught:
        find_sources([url], ReadOptions(allow_url=True))
    assert "sec" not in str(caught.value)


@pytest.mark.posix
@pytest.mark.parametrize(
    ("path", "message"),
    [
        ("404", "the server returned status 404 Not Found"),
        ("599", "the server returned status 599$"),
        ("a.png/50000001", "the file is larger than the limit of 50 MB"),
        ("endless", "the file is larger than the limit of 50 MB"),
        ("to/4", "the server redirects more than 3 times"),
        ("to/to/x", "the server redirects more than 3 times"),
        ("to/file:///etc/passwd", "the server redirects .* to a URL that is not http:// or https://"),
        ("to/ftp://host/a.png", "the server redirects .* to a URL that is not http:// or https://"),
        ("to/data:image/png;base64,AAAA", "the server redirects .* to a URL that is not http:// or https://"),
        ("to/http://me:secret@host:x/", r"the download failed \(InvalidURL\)"),
        ("endless-to/4", "the server redirects more than 3 times"),
        ("odd", r"the download failed \(BadStatusLine\)"),
    ],
)
def test_a_failed_download_is_an_error_with_the_url(requests: Requests, path: str, message: str) -> None:
    with pytest.raises(FileError, match=rf"^http://host/{path.replace('me:secret@', '')}: .*({message})"):
        fetch(f"http://host/{path}")


@pytest.mark.posix
@pytest.mark.parametrize(
    ("path", "message"),
    [
        ("page", "not an image in a supported format"),
        ("page/0", "the file is empty"),
        ("cut.png", "the image cannot be decoded"),
    ],
)
def test_a_download_that_is_not_an_image_is_an_error(requests: Requests, path: str, message: str) -> None:
    with pytest.raises(ImageError, match=rf"^http://host/{path}: {message}"):
        fetch(f"http://host/{path}")


@pytest.mark.posix
def test_three_redirects_are_followed(requests: Requests) -> None:
    assert fetch("http://host/to/3").shape == (4, 5, 3)
    assert len(requests) == 4


@pytest.mark.posix
@pytest.mark.parametrize("path", ["silent", "drip"])
def test_a_download_has_a_time_limit(requests: Requests, monkeypatch: pytest.MonkeyPatch, path: str) -> None:
    monkeypatch.setattr(urls, "_TIMEOUT", 0.1)
    with pytest.raises(
        FileError, match=rf"^http://host/{path}: the download took longer than the limit of 0.1 seconds"
    ):
        fetch(f"http://host/{path}")


def test_a_host_that_cannot_be_reached_is_an_error(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def connect(self: http.client.HTTPConnection) -> None:
        raise ConnectionRefusedError(111, "Connection refused")

    monkeypatch.setattr(http.client.HTTPConnection, "connect", connect)
    with pytest.raises(FileError, match=r"^http://host/a\.png: the download failed \(Connection refused\)"):
        fetch("http://host/a.png")


@pytest.mark.posix
def test_an_invalid_host_name_is_an_error(requests: Requests) -> None:
    with pytest.raises(FileError, match=r"the download failed \(Unicode"):
        fetch("http://" + "\u00e4" * 99 + "/a.png")
    assert requests == []
