import http.client
import io
import os
import socket
import sys
from base64 import b64decode
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler
from pathlib import Path
from socketserver import ThreadingMixIn, UnixStreamServer
from threading import Event, Thread

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from detector.arrays import ImageArray
from detector.data.scenes import scenes
from detector.errors import InputError
from detector.images import write_image
from detector.media import sources, urls
from detector.media.sources import Source, find_sources, not_done


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Four images, one of them in a subfolder, and a text file."""
    for level, name in enumerate(("b.png", "a.JPG", "c 1.bmp", "sub/d.png")):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        write_image(tmp_path / name, np.full((4, 5, 3), level * 50, np.uint8))
    (tmp_path / "notes.txt").write_text("no image")
    monkeypatch.chdir(tmp_path)
    return tmp_path


def names(*words: str, **options: bool) -> list[str]:
    return [source.name.as_posix() for source in find_sources(words, **options)]


def test_a_folder_stands_for_its_own_images_by_name(folder: Path) -> None:
    assert names(".") == ["a.JPG", "b.png", "c 1.bmp"]
    assert names("sub") == ["sub/d.png"]


def test_patterns_are_understood_also_absolute_ones_and_deep_ones(folder: Path) -> None:
    assert names("*.png") == ["b.png"]
    assert names(f"{folder}/?.png") == [f"{folder}/b.png"]
    assert names("*/*.png") == ["sub/d.png"]
    assert names("**/*.png") == ["b.png", "sub/d.png"]


def test_what_may_be_meant_in_a_folder_and_is_not_taken_is_said(folder: Path, caplog: pytest.LogCaptureFixture) -> None:
    for name in ("x.MP4", "y.mp4", "z.heic"):
        (folder / name).write_bytes(b"")
    assert names(".") == ["a.JPG", "b.png", "c 1.bmp"]
    assert "3 files that may be meant too are taken only if named: *.heic, *.mp4" in caplog.text
    caplog.clear()
    names("sub")
    assert not caplog.text


def test_files_come_in_the_order_they_are_named_and_each_once(folder: Path) -> None:
    assert names("sub/d.png", "b.png", "*.png", ".") == ["sub/d.png", "b.png", "a.JPG", "c 1.bmp"]


def test_a_name_with_the_signs_of_a_pattern_is_a_file_first(folder: Path) -> None:
    (folder / "b.png").rename(folder / "[b].png")
    assert names("[b].png") == ["[b].png"]


def test_each_source_reads_its_own_image(folder: Path) -> None:
    levels = [int(source.read()[0, 0, 0]) for source in find_sources(["b.png", "c 1.bmp", "sub/d.png"])]
    assert levels == [0, 100, 150]


def test_the_word_scenes_stands_for_a_dozen_images_of_the_built_in_set(folder: Path) -> None:
    sources = find_sources(["scenes", "b.png"])
    assert len(sources) == 13
    assert len({source.name for source in sources}) == 13
    assert np.array_equal(sources[3].read(), scenes.render("test", 3).image)


def test_a_folder_called_scenes_goes_before_the_built_in_set(folder: Path) -> None:
    (folder / "sub").rename(folder / "scenes")
    assert names("scenes") == ["scenes/d.png"]


@pytest.mark.parametrize(
    ("word", "message"),
    [
        ("z.png", "z.png: no such file, folder or pattern"),
        ("*.tiff", r"\*.tiff: no such file, folder or pattern"),
        ("empty", "empty: no images in this folder"),
        ("", "'': no name of a file"),
        ("a\0.png", r"'a\\x00\.png': no name of a file"),
        ("x" * 5000, "x{100}.*: (cannot be looked for|no such file)"),
        ("*/" * 2000, r"\*/.*: (cannot be looked for|no such file)"),
        ("b.png/c.png", "b.png/c.png: no such file"),
        ("\ud800", "no such file|cannot be looked for"),
    ],
)
def test_a_word_that_names_nothing_is_refused(folder: Path, word: str, message: str) -> None:
    (folder / "empty").mkdir()
    with pytest.raises(InputError, match=message):
        find_sources(["b.png", word])


def test_a_file_that_is_no_image_is_a_source_that_does_not_read(folder: Path) -> None:
    (folder / "notes.txt").rename("notes.md")
    [source] = find_sources(["notes.md"])
    with pytest.raises(InputError, match=r"notes\.md: not an image"):
        source.read()


@pytest.mark.parametrize("name", ["a\nb.png", "\"a'.png", os.fsdecode(b"\xff.png"), " .png", "-.png"])
def test_a_image_of_any_name_is_found_by_name_by_pattern_in_its_folder_and_in_a_list(folder: Path, name: str) -> None:
    (folder / "sub" / "d.png").rename(folder / "sub" / name)
    wanted = [str(Path("sub", name))]
    for word in (f"sub/{name}", "sub/*", "sub"):
        [source] = find_sources([word])
        assert [str(source.name)] == wanted
        assert source.read()[0, 0, 0] == 150
    if "\n" not in name:  # which ends a line
        (folder / "list.txt").write_bytes(os.fsencode(f"sub/{name}\n"))
        assert [str(source.name) for source in find_sources(["list.txt"])] == wanted


# --- subfolders


def test_subfolders_are_searched_on_request_each_folder_by_name(folder: Path) -> None:
    for name in ("sub/a/e.png", "sub/B/f.png", "a/empty/deep/g.png"):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        write_image(folder / name, np.zeros((4, 5, 3), np.uint8))
    own, below = ["a.JPG", "b.png", "c 1.bmp"], ["a/empty/deep/g.png", "sub/d.png", "sub/B/f.png", "sub/a/e.png"]
    assert names(".", recursive=True) == own + below
    assert names("sub/a", ".", recursive=True)[:2] == ["sub/a/e.png", "a.JPG"]
    assert names(".") == own


def test_links_that_lead_in_circles_or_twice_to_a_folder_give_each_image_once(folder: Path) -> None:
    (folder / "sub" / "up").symlink_to("..")
    (folder / "sub" / "self").symlink_to(".")
    (folder / "again").symlink_to("sub")
    (folder / "nowhere").symlink_to("gone")
    (folder / "ring").symlink_to("ring")
    assert names(".", recursive=True) == ["a.JPG", "b.png", "c 1.bmp", "again/d.png"]


def test_folders_deeper_than_a_name_may_be_long_are_refused_in_words(folder: Path) -> None:
    for _ in range(40):
        Path("d" * 120).mkdir()
        os.chdir("d" * 120)
    os.chdir(folder)
    with pytest.raises(InputError, match=r"ddd: the folder cannot be read \(File name too long\)"):
        find_sources(["."], recursive=True)


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read anything")
@pytest.mark.parametrize("mode", [0o300, 0o400, 0o000])
def test_a_subfolder_that_cannot_be_read_is_named(folder: Path, mode: int) -> None:
    (folder / "sub" / "below").mkdir()
    (folder / "sub").chmod(mode)
    with pytest.raises(InputError, match=r"sub(/below)?: the folder cannot be read \(Permission denied\)"):
        find_sources(["."], recursive=True)
    (folder / "sub").chmod(0o700)


def test_a_folder_whose_subfolders_alone_hold_images_says_how_to_find_them(folder: Path) -> None:
    (folder / "out" / "in").mkdir(parents=True)
    with pytest.raises(InputError, match=r"out: no images in this folder \([^)]*\)$"):
        find_sources(["out"])
    with pytest.raises(InputError, match="out: no images in this folder or below"):
        find_sources(["out"], recursive=True)
    (folder / "sub").rename(folder / "out" / "in" / "sub")
    with pytest.raises(InputError, match=r"out: no images in this folder .* in its subfolders: add --recursive"):
        find_sources(["out"])
    assert names("out", recursive=True) == ["out/in/sub/d.png"]


# --- lists


def write_list(name: str, text: str | bytes) -> str:
    Path(name).write_bytes(text if isinstance(text, bytes) else text.encode())
    return name


def test_a_list_names_files_folders_and_patterns_from_its_own_folder(folder: Path) -> None:
    lines = "\ufeff# mine\r\n\r\nd.png\r\n  ../c*.bmp  \r\n.\r\n" + f"{folder}/b.png"
    assert names(write_list("sub/list.TXT", lines), "b.png") == [
        "sub/d.png",
        "sub/../c 1.bmp",
        f"{folder}/b.png",
        "b.png",
    ]
    assert names(write_list("deep.txt", "."), recursive=True) == ["a.JPG", "b.png", "c 1.bmp", "sub/d.png"]


@pytest.mark.parametrize("sign", "[]*?")
def test_a_list_in_a_folder_with_the_signs_of_a_pattern_in_its_name_is_read(folder: Path, sign: str) -> None:
    (folder / "sub").rename(folder / f"x{sign}y")
    assert names(write_list(f"x{sign}y/list.txt", "*.png")) == [f"x{sign}y/d.png"]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("b.png\n# no\nz.png", r"list\.txt:3: z\.png: no such file, folder or pattern"),
        ("b.png\nempty", r"list\.txt:2: empty: no images in this folder"),
        ("notes.txt", r"list\.txt:1: notes\.txt: a list in a list"),
        ("list.txt", r"list\.txt:1: list\.txt: a list in a list"),
        ("-", r"list\.txt:1: -: no such file"),
        ("scenes", r"list\.txt:1: scenes: no such file"),
        ("# nothing\n\n", r"list\.txt: a list without images"),
        ("", r"list\.txt: a list without images"),
        ("b.png".encode("utf-16"), r"list\.txt:1: .*no name of a file \(a list has to be UTF-8\)"),
        ("b.png\n" + "x" * 100_000, r"list\.txt:2: .{100,200}\)$|no such file"),
        ("b.png\nhttp://host/a.png", r"list\.txt:2: http://host/a\.png: nothing is fetched.*--allow-url"),
    ],
)
def test_a_bad_line_of_a_list_is_named(folder: Path, text: str | bytes, message: str) -> None:
    (folder / "empty").mkdir()
    with pytest.raises(InputError, match=message):
        find_sources([write_list("list.txt", text)])


@given(st.binary(max_size=60).filter(lambda text: b"/" not in text and b".." not in text))  # which lead out of there
def test_whatever_a_list_holds_it_names_images_or_is_refused(
    tmp_path_factory: pytest.TempPathFactory, text: bytes
) -> None:
    path = tmp_path_factory.getbasetemp() / "any" / "any.txt"
    path.parent.mkdir(exist_ok=True)
    path.write_bytes(text)
    try:
        find_sources([str(path)], recursive=True)
    except InputError as error:
        assert "any.txt" in str(error)  # noqa: PT017 (either will do)


def test_a_folder_called_txt_is_a_folder(folder: Path) -> None:
    (folder / "sub").rename(folder / "sub.txt")
    assert names("sub.txt") == ["sub.txt/d.png"]


# --- standard input


def give(monkeypatch: pytest.MonkeyPatch, data: bytes) -> None:
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(data)))


def test_standard_input_is_one_image_that_can_be_read_again(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    give(monkeypatch, (folder / "c 1.bmp").read_bytes())
    write_image(folder / "stdin.jpg", np.zeros((4, 5, 3), np.uint8))
    one, other, third = find_sources(["-", "stdin.jpg", "-", "b.png"])
    assert [one.name, other.name, third.name] == [Path("stdin-2.jpg"), Path("stdin.jpg"), Path("b.png")]
    for _ in range(2):
        assert one.read()[0, 0, 0] == 100


@pytest.mark.parametrize("data", [b"", b"text", b"\x89PNG\r\n\x1a\n"])
def test_standard_input_that_is_no_image_does_not_read(monkeypatch: pytest.MonkeyPatch, data: bytes) -> None:
    give(monkeypatch, data)
    [source] = find_sources(["-"])
    with pytest.raises(InputError, match=r"standard input: (is empty|not an image|the image does not decode)"):
        source.read()


def test_standard_input_without_an_end_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sources, "MOST_BYTES", 1000)
    give(monkeypatch, bytes(1001))
    with pytest.raises(InputError, match=r"more than .* MB on standard input"):
        find_sources(["-"])[0].read()
    monkeypatch.setattr(sys, "stdin", None)
    with pytest.raises(InputError, match="there is no standard input"):
        find_sources(["-"])[0].read()


# --- the network: a server of this machine behind a socket of the file system, since the network is shut

Asked = list[tuple[str, str | None]]
"""Path and Authorization of each request."""


class Handler(BaseHTTPRequestHandler):
    """Answers as the first part of the path says: a status, an image, a page; what else stands in it says how."""

    asked: Asked
    over: Event
    image: bytes

    def do_GET(self) -> None:
        self.asked.append((self.path, self.headers["Authorization"]))
        what, _, rest = self.path.removeprefix("/").partition("/")
        if what in ("to", "endless-to"):  # how often, or where
            again = f"/{what}/{int(rest) - 1}" if rest.isdigit() and rest != "1" else "/a.png"
            self.answer(302, {"Location": again if rest.isdigit() else rest})
        elif what == "odd":
            self.wfile.write(b"\x1b[2J secret\r\n\r\n")
        elif what != "silent":
            self.answer(int(what) if what.isdigit() else 200, {"Content-Length": rest} if rest else {})
        if what.startswith("endless"):
            self.send_endless(bytes(2**16), 0)
        elif what == "drip":
            self.send_endless(b"x", 0.01)
        elif what == "silent":
            self.over.wait(60)
        else:
            self.wfile.write(self.image[:40] if what == "cut.png" else self.image if "png" in what else b"<html>")

    def answer(self, status: int, headers: dict[str, str]) -> None:
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name, value)
        self.end_headers()

    def send_endless(self, some: bytes, pause: float) -> None:
        while not self.over.wait(pause):
            self.wfile.write(some)

    def log_message(self, *words: object) -> None:
        pass


class Server(ThreadingMixIn, UnixStreamServer):
    daemon_threads = True

    def handle_error(self, *words: object) -> None:
        pass  # the other side went away, as it should


@pytest.fixture
def asked(folder: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Asked]:
    """What is asked of a server that stands for every host; its path and who says to ask."""

    def connect(self: http.client.HTTPConnection) -> None:
        self.sock = socket.socket(socket.AF_UNIX)
        self.sock.settimeout(self.timeout)
        self.sock.connect("server")

    monkeypatch.setenv("no_proxy", "*")
    monkeypatch.setattr(http.client.HTTPConnection, "connect", connect)
    over = Event()
    for name, value in {"asked": [], "over": over, "image": (folder / "c 1.bmp").read_bytes()}.items():
        monkeypatch.setattr(Handler, name, value, raising=False)
    with Server("server", Handler) as server:
        thread = Thread(target=server.serve_forever, args=(0.01,))
        thread.start()
        yield Handler.asked
        over.set()
        server.shutdown()
        thread.join()


def fetch(url: str) -> ImageArray:
    [source] = find_sources([url], allow_url=True)
    return source.read()


def test_a_url_is_fetched_when_it_is_read_and_not_without_leave(asked: Asked) -> None:
    with pytest.raises(InputError, match=r"^http://host/a\.png: nothing is fetched .* without --allow-url$"):
        find_sources(["http://me:secret@host/a.png?token=secret"])
    [source] = find_sources(
        ["HTTP://b\u00fccher.de/png%20gr\u00f6\u00dfe/../\u00e4 1.png?x= \u00e4&y=%20#z"], allow_url=True
    )
    assert asked == []
    assert source.name == Path("\u00e4 1.png")
    assert (source.read() == 100).all()
    assert asked == [("/png%20gr%C3%B6%C3%9Fe/../%C3%A4%201.png?x=%20%C3%A4&y=%20", None)]


def test_urls_have_names_of_their_own(folder: Path) -> None:
    write_image(folder / "a-2.png", np.zeros((4, 5, 3), np.uint8))
    urls = ["http://x/a.png", "http://y/a.png", "http://y/a.png", "http://y/a.png?1", "http://h", "http://h/x/"]
    urls += ["http://h/..", "http://h/%2e%2e%2fCON.jpg", "http://h/" + "x" * 999 + ".jpeg", "http://h/get.php?a.png"]
    found = names("a-2.png", *urls, allow_url=True)
    assert found[:6] == ["a-2.png", "a.png", "a-3.png", "a-4.png", "h", "x"]
    assert found[6:] == ["_", "_CON.jpg", "x" * 150 + ".jpeg", "get.php"]
    assert names(write_list("list.txt", "http://x/a.png\n"), allow_url=True) == ["a.png"]


def test_user_and_password_go_to_their_server_only_and_into_no_message(asked: Asked) -> None:
    assert fetch("http://me:se%40cret@host/to/2").shape == (4, 5, 3)
    said = [(path, b64decode(word.removeprefix("Basic ")) if word else None) for path, word in asked]
    assert said == [("/to/2", b"me:se@cret"), ("/to/1", None), ("/a.png", None)]
    for url in (
        "http://me:secret@host/404?token=secret",
        "http://me:secret@host/page#secret",
        "http://me:secret@host/odd",
    ):
        with pytest.raises(InputError, match=r"^http://host/(404|page|odd): [^@]*$") as caught:
            fetch(url)
        assert "secret" not in str(caught.value)


@pytest.mark.parametrize(
    "url",
    ["http://", "http:///a.png", "http://[x/a.png", "http://me:sec/ret@host/a", "http://h:99999/", "http://h:0/a"],
)
def test_what_is_no_url_is_refused_at_once_and_shows_no_password(url: str) -> None:
    with pytest.raises(InputError, match="not a URL that can be fetched; expected http://host/image") as caught:
        find_sources([url], allow_url=True)
    assert "sec" not in str(caught.value)


@pytest.mark.parametrize(
    ("path", "message"),
    [
        ("404", "the server answers 404 Not Found"),
        ("599", "the server answers 599$"),
        ("page", "not an image in a format that can be read"),
        ("page/0", "is empty"),
        ("cut.png", "the image does not decode"),
        ("a.png/50000001", "larger than 50 MB"),
        ("endless", "larger than 50 MB"),
        ("to/4", "leads on more than 3 times"),
        ("to/to/x", "leads on more than 3 times"),
        ("to/file:///etc/passwd", "or to neither http nor https"),
        ("to/ftp://host/a.png", "or to neither http nor https"),
        ("to/data:image/png;base64,AAAA", "or to neither http nor https"),
        ("to/http://me:secret@host:x/", r"cannot be fetched \(InvalidURL\)"),
        ("endless-to/4", "leads on more than 3 times"),
        ("odd", r"cannot be fetched \(BadStatusLine\)"),
    ],
)
def test_what_the_server_does_not_give_is_said_with_the_url(asked: Asked, path: str, message: str) -> None:
    with pytest.raises(InputError, match=rf"^http://host/{path.replace('me:secret@', '')}: .*({message})"):
        fetch(f"http://host/{path}")


def test_three_redirects_are_followed(asked: Asked) -> None:
    assert fetch("http://host/to/3").shape == (4, 5, 3)
    assert len(asked) == 4


@pytest.mark.parametrize("path", ["silent", "drip"])
def test_a_server_that_takes_too_long_is_given_up(asked: Asked, monkeypatch: pytest.MonkeyPatch, path: str) -> None:
    monkeypatch.setattr(urls, "_SECONDS", 0.1)
    with pytest.raises(InputError, match=rf"^http://host/{path}: takes longer than 0.1 seconds"):
        fetch(f"http://host/{path}")


def test_a_host_that_cannot_be_reached_is_said(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def connect(self: http.client.HTTPConnection) -> None:
        raise ConnectionRefusedError(111, "Connection refused")

    monkeypatch.setattr(http.client.HTTPConnection, "connect", connect)
    with pytest.raises(InputError, match=r"^http://host/a\.png: cannot be fetched \(Connection refused\)"):
        fetch("http://host/a.png")


def test_a_host_whose_name_cannot_be_asked_for_is_said(asked: Asked) -> None:
    with pytest.raises(InputError, match=r"cannot be fetched \(Unicode"):
        fetch("http://" + "\u00e4" * 99 + "/a.png")
    assert asked == []


@given(st.lists(st.booleans(), max_size=40), st.integers(1, 9))
def test_what_is_not_done_comes_in_whole_batches_of_the_unbroken_run(is_done: list[bool], batch: int) -> None:
    sources = [Source(Path(f"{index}.png"), lambda: np.zeros((1, 1, 3), np.uint8)) for index in range(len(is_done))]
    done = {f"{index}.png" for index, so in enumerate(is_done) if so}
    left = [sources.index(source) for source in not_done(sources, done, batch)]
    wanted = {index // batch for index, so in enumerate(is_done) if not so}
    assert left == [index for index in range(len(sources)) if index // batch in wanted]
