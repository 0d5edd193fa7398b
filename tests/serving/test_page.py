"""Tests of the web page in a real Chromium, which the tests control over pipes, without a network connection."""

import itertools
import json
import os
import shutil
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from detector.arrays import ImageArray

pytest.importorskip("starlette", reason="the extra `serve` is not installed")
pytest.importorskip("python_multipart", reason="the extra `serve` is not installed")
uvicorn = pytest.importorskip("uvicorn", reason="the extra `serve` is not installed")

from detector.data.scenes import scenes  # noqa: E402
from detector.detections import Detections  # noqa: E402
from detector.graph.metadata import GraphInfo  # noqa: E402
from detector.images import read_image, write_image  # noqa: E402
from detector.predict.detector import Detector  # noqa: E402
from detector.runtime.base import PointPredictions  # noqa: E402
from detector.serving.app import make_app  # noqa: E402
from detector.weights_info import WeightsInfo  # noqa: E402

BROWSER = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome", "chrome"))), None)
pytestmark = pytest.mark.skipif(BROWSER is None, reason="Chromium is not installed")

FLAGS = (
    "--headless=new --no-sandbox --disable-gpu --disable-dev-shm-usage --no-first-run --disable-extensions "
    "--disable-sync --disable-background-networking --disable-component-update "  # Chromium itself sends no requests
    "--remote-debugging-pipe --window-size=1100,760"
)

MAX_BYTES = 300_000


class Browser:
    """A Chromium process with one page, controlled with the DevTools protocol.

    The messages of the protocol are JSON over pipes, with a zero byte after each message.

    Attributes:
        events: received events that `wait_for` has not returned yet.
        all_requests: all requests that the page has sent.
        page_errors: exceptions in the page, and violations of the content security policy of the page.
    """

    def __init__(self, profile: Path) -> None:
        browser_input, self._to = os.pipe()
        self._from, browser_output = os.pipe()
        # Chromium reads from file descriptor 3 and writes to file descriptor 4.
        launch = (
            f"import os, sys; os.dup2({browser_input}, 3); os.dup2({browser_output}, 4); "
            "os.execv(sys.argv[1], sys.argv[1:])"
        )
        flags = [*FLAGS.split(), f"--user-data-dir={profile}"]
        self.process = subprocess.Popen(
            [sys.executable, "-c", launch, str(BROWSER), *flags, "about:blank"],
            pass_fds=(browser_input, browser_output),
            stderr=subprocess.DEVNULL,
        )
        os.close(browser_input)
        os.close(browser_output)
        self._buffer, self._count, self._session = b"", 0, ""
        self.events: list[dict[str, Any]] = []
        self.all_requests: list[dict[str, Any]] = []
        self.page_errors: list[dict[str, Any]] = []
        [page] = [target for target in self.call("Target.getTargets")["targetInfos"] if target["type"] == "page"]
        self._session = self.call("Target.attachToTarget", targetId=page["targetId"], flatten=True)["sessionId"]

    def close(self) -> None:
        self.process.kill()
        self.process.wait()
        os.close(self._to)
        os.close(self._from)

    def call(self, method: str, **parameters: Any) -> dict[str, Any]:
        self._count += 1
        number, session = self._count, {"sessionId": self._session} if self._session else {}
        message = {"id": number, "method": method, "params": parameters} | session
        os.write(self._to, json.dumps(message).encode() + b"\0")
        while (reply := self._next()).get("id") != number:
            self.events.append(reply)
        assert "error" not in reply, f"{method}: {reply['error']}"
        result: dict[str, Any] = reply["result"]
        return result

    def wait_for(self, method: str, **expected: Any) -> dict[str, Any]:
        """Wait for an event `method` with the expected values and return its parameters; drop the events before it."""
        while True:
            event = self.events.pop(0) if self.events else self._next()
            if event.get("method") == method and expected.items() <= event["params"].items():
                parameters: dict[str, Any] = event["params"]
                return parameters

    def _next(self) -> dict[str, Any]:
        while b"\0" not in self._buffer:
            more = os.read(self._from, 1 << 16)
            assert more, "the browser has exited"
            self._buffer += more
        message, _, self._buffer = self._buffer.partition(b"\0")
        decoded: dict[str, Any] = json.loads(message)
        if decoded.get("method") == "Network.requestWillBeSent":
            self.all_requests.append(decoded)
        if decoded.get("method") == "Runtime.exceptionThrown" or decoded.get("params", {}).get("entry", {}).get(
            "source"
        ) in ("security", "javascript"):
            self.page_errors.append(decoded)
        return decoded

    def run(self, script: str) -> Any:
        """Evaluate a JavaScript expression in the page and return its value; wait for the value of a promise."""
        evaluated = self.call("Runtime.evaluate", expression=script, awaitPromise=True, returnByValue=True)
        assert "exceptionDetails" not in evaluated, evaluated
        return evaluated["result"].get("value")

    def until(self, condition: str) -> None:
        """Wait until a JavaScript expression in the page is true."""
        self.run(
            f"new Promise((done) => {{ const check = () => {condition} ? done() : setTimeout(check, 5); check(); }})"
        )

    def upload(self, path: Path) -> None:
        """Choose a file in the page, and wait for the detections or the error message."""
        self.run("response = null; byId('error').textContent = ''")
        node = self.call("DOM.querySelector", nodeId=self.call("DOM.getDocument")["root"]["nodeId"], selector="#file")
        self.call("DOM.setFileInputFiles", files=[str(path)], nodeId=node["nodeId"])
        self.until("response || byId('error').textContent")

    def slide(self, slider: str, value: float) -> list[dict[str, Any]]:
        """Move a slider and return the detections that the page shows immediately after that."""
        script = f"byId('{slider}').value = {value}; byId('{slider}').dispatchEvent(new Event('input')); shown"
        shown: list[dict[str, Any]] = self.run(script)
        return shown


class Crowd:
    """A runtime that predicts the same boxes for any image. Many of the boxes overlap, and some scores are equal."""

    name = "crowd"
    input_hw = (64, 96)
    graph_info = GraphInfo()

    def __init__(self, count: int) -> None:
        rng = np.random.default_rng(count)
        centers = np.tile(rng.uniform((0, 0), (96, 64), size=(12, 2)), (count // 12, 2)) + rng.normal(0, 2, (count, 4))
        self._boxes = (centers + rng.uniform((-14, -14, 8, 8), (-8, -8, 14, 14), size=(count, 4))).astype(np.float32)
        self._scores = np.round(rng.uniform(0, 1, size=(count, 3)) ** 2, 2).astype(np.float32)

    def predict(self, inputs: Sequence[ImageArray]) -> PointPredictions:
        return PointPredictions(self._boxes[None], self._scores[None])


def crowd(count: int, **config: Any) -> Detector:
    return Detector(Crowd(count), WeightsInfo("crowd", ("a", "b", "c"), (1, 2, 3), Crowd.input_hw, config, {}))


@pytest.fixture(scope="module")
def models() -> dict[str, Detector]:
    return {
        "scenes": Detector.load("scenes", device="cpu"),
        "crowd": crowd(600),
        "agnostic": crowd(600, class_agnostic=True),
        "large crowd": crowd(1800),
        "soft": crowd(600, suppression="soft"),
    }


@pytest.fixture(scope="module")
def address(models: dict[str, Detector]) -> Iterator[str]:
    """Start a server in a thread of this process, and yield its address."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        config = uvicorn.Config(make_app(models, max_bytes=MAX_BYTES), log_config=None, lifespan="off", ws="none")
        server = uvicorn.Server(config)
        thread = threading.Thread(target=server.run, kwargs={"sockets": [listener]})
        thread.start()
        yield f"http://127.0.0.1:{listener.getsockname()[1]}"
        server.should_exit = True
        thread.join()


@pytest.fixture(scope="module")
def browser(address: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Browser]:
    browser = Browser(tmp_path_factory.mktemp("profile"))
    try:
        browser.call("Network.enable")
        browser.call("Page.enable")
        browser.call("Runtime.enable")
        browser.call("Log.enable")
        browser.call("Page.navigate", url=address)
        browser.wait_for("Page.loadEventFired")
        browser.until("server")
        yield browser
    finally:
        browser.close()


@pytest.fixture(scope="module")
def image(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("image") / "drawn scene.png"
    write_image(path, scenes.render("test", 3).image)
    return path


def select(browser: Browser, name: str) -> None:
    browser.run(f"byId('model').value = '{name}'; byId('model').dispatchEvent(new Event('change'))")


MOVE_SLIDERS = """async (positions) => {
  const seen = [];
  for (const [score, iou] of positions) {
    const before = pending;
    byId("score").value = score;
    byId("iou").value = iou;
    byId("iou").dispatchEvent(new Event("input"));
    const requested = pending !== before;
    while (byId("status").textContent === "Detecting …") await new Promise((done) => setTimeout(done, 2));
    seen.push([shown.map((each) => [each.class_id, each.score, each.box]), requested]);
  }
  return seen;
}"""
"""Moves the sliders to each position, and returns for each the shown detections and whether the page sent a request."""


def as_rows(found: Detections) -> list[list[Any]]:
    rows = zip(found.class_ids.tolist(), found.scores.tolist(), found.boxes.tolist(), strict=True)
    return [[*row] for row in rows]


def test_page_shows_the_detections_of_the_chosen_image(
    browser: Browser, image: Path, models: dict[str, Detector]
) -> None:
    select(browser, "scenes")
    browser.upload(image)
    found = models["scenes"].detect(image)
    assert browser.run("shown.map((each) => [each.class_id, each.score, each.box])") == as_rows(found)
    rows = browser.run("[...byId('list').querySelectorAll('button')].map((row) => row.innerText.split('\\n'))")
    assert rows == [[name, f"{score:.2f}"] for name, score, _ in found]
    counts = browser.run("[...byId('counts').children].map((count) => count.innerText)")
    names = [name for name, _, _ in found]
    assert sorted(counts) == sorted(f"{name}{names.count(name)}" for name in set(names))
    assert browser.run("byId('total').textContent") == f"{len(found)} objects"


@pytest.mark.parametrize("name", ["scenes", "crowd", "agnostic", "large crowd", "soft"])
def test_sliders_show_the_same_detections_as_the_server(
    browser: Browser, image: Path, models: dict[str, Detector], name: str
) -> None:
    select(browser, name)
    browser.upload(image)
    positions = [*itertools.product((0.05, 0.25, 0.75), (0.0, 0.6, 0.9)), (0.36, 0.6), (0.05, 1.0), (1.0, 0.6)]
    seen = browser.run(f"({MOVE_SLIDERS})({json.dumps(positions)})")
    local_scores, counts = [], set()
    for (score, iou), (shown, requested) in zip(positions, seen, strict=True):
        found = models[name].detect(image, score_threshold=score, iou_threshold=iou)
        assert shown == as_rows(found), (score, iou)
        counts.add(len(found))
        local_scores += [] if requested else [score]
    assert len(counts) > 3
    if name == "soft":  # the page does not implement soft NMS, so it sends a request for each position
        assert local_scores == []
    elif name == "large crowd":  # the page has only the best 1000 boxes, so lower thresholds need a request
        assert local_scores
        assert 0.05 < min(local_scores) < 1
    else:
        assert len(local_scores) == len(positions)


def test_download_contains_the_shown_detections(browser: Browser, image: Path, tmp_path: Path) -> None:
    browser.call("Browser.setDownloadBehavior", behavior="allow", downloadPath=str(tmp_path), eventsEnabled=True)
    select(browser, "scenes")
    browser.upload(image)
    browser.slide("iou", 0.6)
    browser.slide("score", 0.5)
    browser.run("byId('download').click()")
    browser.wait_for("Browser.downloadProgress", state="completed")
    saved = json.loads((tmp_path / "drawn scene.json").read_text())
    assert saved["detections"] == browser.run("shown")
    assert {key: saved[key] for key in ("file", "model", "width", "height", "score_threshold", "iou_threshold")} == {
        "file": "drawn scene.png",
        "model": "scenes",
        "width": 480,
        "height": 384,
        "score_threshold": 0.5,
        "iou_threshold": 0.6,
    }


@pytest.mark.parametrize("kind", ["jpg", "png", "webp", "tif"])
@pytest.mark.parametrize("orientation", range(1, 9))
def test_rotated_image_is_drawn_as_the_server_decoded_it(
    browser: Browser, tmp_path: Path, kind: str, orientation: int
) -> None:
    corners = np.array([[[250, 0, 0], [0, 250, 0]], [[0, 0, 250], [250, 250, 0]]], np.uint8)
    exif = Image.Exif()
    exif[0x0112] = orientation
    path = tmp_path / f"rotated.{kind}"
    Image.fromarray(corners.repeat(40, axis=0).repeat(60, axis=1)).save(path, exif=exif)
    browser.upload(path)
    upright = read_image(path)
    height, width = upright.shape[:2]
    assert browser.run("[image.width, image.height]") == [width, height]
    assert browser.run("byId('error').textContent") == ""
    for x, y in itertools.product((0.25, 0.75), repeat=2):
        position = f"p.left + {x} * p.width * p.scale, p.top + {y} * p.height * p.scale"
        pixel = f"byId('image').getContext('2d').getImageData({position}, 1, 1)"
        drawn = browser.run(f"(() => {{ const p = placement(); return [...{pixel}.data] }})()")
        assert np.abs(upright[int(y * height), int(x * width)].astype(int) - drawn[:3]).max() < 30


def test_image_can_be_dropped_and_pasted(browser: Browser, image: Path) -> None:
    dropped = {"items": [], "files": [str(image)], "dragOperationsMask": 1}
    browser.run("response = null")
    for kind in ("dragEnter", "dragOver", "drop"):
        browser.call("Input.dispatchDragEvent", type=kind, x=300, y=300, data=dropped)
    browser.until("response")
    assert browser.run("file.name") == image.name
    browser.run(
        """response = null; const clipboard = new DataTransfer(); clipboard.items.add(new File([file], 'pasted.png'));
        dispatchEvent(new ClipboardEvent('paste', { clipboardData: clipboard }))"""
    )
    browser.until("response")
    assert browser.run("file.name") == "pasted.png"


def test_page_reports_files_that_are_refused(browser: Browser, tmp_path: Path) -> None:
    text, large = tmp_path / "text.jpg", tmp_path / "large.png"
    text.write_text("no image")
    large.write_bytes(bytes(MAX_BYTES + 1))
    browser.upload(text)
    message = browser.run("byId('error').textContent")
    assert message.startswith("text.jpg: image: not an image in a supported format (")
    assert browser.run("byId('download').disabled")
    browser.upload(large)
    expected = "large.png has 0.3 MB; the server accepts at most 0.3 MB."
    assert browser.run("byId('error').textContent") == expected
    # The server refuses the same file if a program sends it, and the connection does not break.
    body = f"new Blob([new Uint8Array({int(1.9 * MAX_BYTES)})], {{ type: 'image/png' }})"
    assert browser.run(f"fetch('detect', {{ method: 'POST', body: {body} }}).then((reply) => reply.status)") == 413


def test_page_works_with_the_keyboard_alone(browser: Browser, image: Path) -> None:
    select(browser, "scenes")
    browser.upload(image)
    browser.run("byId('model').focus()")
    focused = []
    for _ in range(5):
        press(browser, "Tab")
        focused.append(browser.run("document.activeElement.id || document.activeElement.closest('[id]').id"))
    assert focused == ["choose", "score", "iou", "list", "list"]
    assert browser.run("highlighted") == 1
    browser.run("byId('score').focus()")
    before = browser.run("shown.length")
    press(browser, "End")
    assert browser.run("byId('score-shown').value") == "1.00"
    assert browser.run("shown.length") == 0 < before


def press(browser: Browser, key: str) -> None:
    codes = {"Tab": 9, "End": 35}
    for kind in ("keyDown", "keyUp"):
        browser.call("Input.dispatchKeyEvent", type=kind, key=key, code=key, windowsVirtualKeyCode=codes[key])


def test_pointer_highlights_the_smallest_box_under_it(
    browser: Browser, image: Path, models: dict[str, Detector]
) -> None:
    select(browser, "scenes")
    browser.upload(image)
    browser.slide("score", 0.05)
    browser.slide("iou", 1.0)
    boxes = np.array([row["box"] for row in browser.run("shown")])
    for x, y in boxes.reshape(-1, 2, 2).mean(axis=1)[:5]:
        left, top, placement = browser.run(
            "(() => { const s = byId('stage').getBoundingClientRect(); return [s.left, s.top, placement()] })()"
        )
        browser.call(
            "Input.dispatchMouseEvent",
            type="mouseMoved",
            x=left + placement["left"] + x * placement["scale"],
            y=top + placement["top"] + y * placement["scale"],
        )
        highlighted = browser.run("highlighted")
        inside = np.flatnonzero((boxes[:, 0] <= x) & (x <= boxes[:, 2]) & (boxes[:, 1] <= y) & (y <= boxes[:, 3]))
        areas = np.prod(boxes[:, 2:] - boxes[:, :2], axis=1)
        assert areas[highlighted] == pytest.approx(areas[inside].min(), rel=0.05)


def test_page_sends_requests_only_to_its_server(browser: Browser, address: str) -> None:
    browser.run("1")
    urls = [request["params"]["request"]["url"] for request in browser.all_requests]
    assert f"{address}/" in urls
    assert not [url for url in urls if not url.startswith((f"{address}/", f"blob:{address}/", "data:"))]
    assert not browser.page_errors
