"""Tests of the programs in examples/: they print the same detections as `Detector.detect`.

The programs do not import the package.
"""

import json
import os
import re
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from detector import Detections, Detector
from detector.data.scenes import scenes
from detector.graph.to_onnx import to_onnx
from detector.images import write_image
from detector.model.checkpoint import load_weights

EXAMPLES = Path(__file__).parents[1] / "examples"
ONNXRUNTIME_WEB = os.environ.get("ONNXRUNTIME_WEB", "")
"""Path of the folder `dist` of the npm package onnxruntime-web, for the test of the web page; empty: skip this test."""

Objects = list[dict[str, Any]]
"""The output of an example program: a dictionary with the keys class, score and box for each object."""


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Convert the shipped weights `scenes` to an ONNX file, and return its path."""
    pytest.importorskip("onnx")
    network, info = load_weights("scenes")
    path = tmp_path_factory.mktemp("exported") / "model.onnx"
    path.write_bytes(to_onnx(network, info, info.input_hw))
    return path


@pytest.fixture(scope="module")
def images(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """Write images that test all cases of reading and letterboxing, and return their paths.

    halved.png is shrunk by exactly one half, where OpenCV rounds differently. small.png is enlarged. uneven.png is
    shrunk by an uneven factor. rotated.jpg has an EXIF orientation.
    """
    folder = tmp_path_factory.mktemp("images")
    first, second, third, fourth = (scenes.render("test", index).image for index in (0, 7, 5, 3))
    write_image(folder / "halved.png", np.tile(second, (2, 2, 1))[:512, :640].copy())
    write_image(folder / "small.png", third[100:301, 200:353].copy())
    write_image(folder / "uneven.png", first)
    exif = Image.Exif()
    exif[0x0112] = 6  # EXIF orientation: readers rotate the image by 90 degrees to the right
    Image.fromarray(np.rot90(fourth).copy()).save(folder / "rotated.jpg", quality=95, exif=exif)
    return sorted(folder.iterdir())


@pytest.fixture(scope="module")
def expected(images: list[Path]) -> list[Detections]:
    """Return the detections of `Detector.detect` on each image."""
    found = Detector.load("scenes", device="cpu").detect(images)
    assert all(len(detections) for detections in found)
    return found


def assert_same(expected: list[Detections], printed: list[Objects]) -> None:
    """Check that the printed objects equal the expected detections, within 0.1 pixels and a score of 0.005.

    Each detection is compared with the nearest printed object of the same class. The tolerances are smaller than those
    in examples/README.md (half a pixel and a score of 0.01), because larger tolerances would hide rounding mistakes.
    """
    for detections, objects in zip(expected, printed, strict=True):
        assert len(objects) == len(detections)
        assert [row["score"] for row in objects] == sorted((row["score"] for row in objects), reverse=True)
        remaining = list(objects)
        for name, score, box in detections:
            same_class = [row for row in remaining if row["class"] == name]
            assert same_class, name
            nearest = min(same_class, key=lambda row: float(np.abs(np.array(row["box"]) - box).max()))
            remaining.remove(nearest)
            assert np.abs(np.array(nearest["box"]) - box).max() <= 0.1
            assert abs(nearest["score"] - score) <= 0.005


def run(*command: str | Path) -> subprocess.CompletedProcess[str]:
    """Run a command for at most 100 seconds, and return its exit status and output."""
    return subprocess.run(
        [str(argument) for argument in command], capture_output=True, text=True, timeout=100, check=False
    )


def parse_lines(done: subprocess.CompletedProcess[str]) -> Objects:
    """Check that a program succeeded, and return the objects that it printed, one JSON object per line."""
    assert done.returncode == 0, done.stderr
    return [json.loads(line) for line in done.stdout.splitlines()]


def test_python_program_gives_the_same_detections(model: Path, images: list[Path], expected: list[Detections]) -> None:
    pytest.importorskip("onnxruntime")
    program = EXAMPLES / "python_onnxruntime.py"
    printed = [parse_lines(run(sys.executable, program, model, image, "--json")) for image in images]
    assert_same(expected, printed)
    (name, score, _), *_ = expected[0]
    assert run(sys.executable, program, model, images[0]).stdout.startswith(f"{name} {score:.3f} from (")


def test_python_program_does_not_import_the_package() -> None:
    assert "detector" not in {
        line.split()[1].split(".")[0]
        for line in (EXAMPLES / "python_onnxruntime.py").read_text().splitlines()
        if line.startswith(("import ", "from "))
    }


def test_cpp_program_gives_the_same_detections(
    model: Path, images: list[Path], expected: list[Detections], tmp_path: Path
) -> None:
    if not (shutil.which("g++") and shutil.which("pkg-config") and run("pkg-config", "opencv4").returncode == 0):
        pytest.skip("needs g++ and the headers of OpenCV (libopencv-dev)")
    command = re.findall(r"^g\+\+ .*$", (EXAMPLES / "README.md").read_text(), re.MULTILINE)[0]
    build = command.replace("-O2", "-O0").replace("-o detect", f"-o {tmp_path}/detect")
    subprocess.run(build, shell=True, cwd=EXAMPLES, check=True)
    assert_same(expected, [parse_lines(run(tmp_path / "detect", model, image)) for image in images])


@pytest.mark.posix
def test_web_page_gives_the_same_detections(
    model: Path, images: list[Path], expected: list[Detections], tmp_path: Path
) -> None:
    chromium = shutil.which("chromium") or shutil.which("google-chrome")
    if not (chromium and ONNXRUNTIME_WEB):
        pytest.skip("needs chromium, and ONNXRUNTIME_WEB=the folder dist of the npm package onnxruntime-web")
    site = shutil.copytree(EXAMPLES / "web", tmp_path / "site")
    shutil.copy(model, site / "model.onnx")
    (site / "ort").symlink_to(Path(ONNXRUNTIME_WEB).resolve())
    with serve(site) as url, open_page(chromium, tmp_path, url) as (call, wait_for):
        assert wait_for("status", "ready|error") == "ready"
        root = call("DOM.getDocument")["root"]["nodeId"]
        file = call("DOM.querySelector", nodeId=root, selector="#file")["nodeId"]
        shown = []
        for image in images:
            call("Runtime.evaluate", expression="document.getElementById('status').textContent = 'waiting'")
            call("DOM.setFileInputFiles", nodeId=file, files=[str(image)])
            assert "found" in wait_for("status", "found|error")
            shown.append(json.loads(wait_for("boxes", "]")))
    assert_same(expected, shown)


@contextmanager
def serve(folder: Path) -> Iterator[str]:
    """Serve the files of a folder over HTTP on this machine; yield the URL of the folder."""
    command = [sys.executable, "-u", "-m", "http.server", "--bind", "127.0.0.1", "--directory", str(folder), "0"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True) as server:
        assert server.stdout
        try:
            yield server.stdout.readline().split("(")[1].split(")")[0]
        finally:
            server.kill()


@contextmanager
def open_page(chromium: str, folder: Path, url: str) -> Iterator[tuple[Callable[..., Any], Callable[[str, str], str]]]:
    """Open a page in headless Chromium, and yield two functions.

    `call(method, **parameters)` runs a method of the DevTools protocol and returns its result.
    `wait_for(element, pattern)` waits until the text of an element matches a regular expression, and returns the text.
    """
    # The browser reads commands from file descriptor 3 and writes replies to file descriptor 4. Each command or reply
    # is a JSON object with a zero byte after it.
    launch = "import os, sys; r, w, *browser = sys.argv[1:]; os.dup2(int(r), 3); os.dup2(int(w), 4); "
    launch += "os.execv(browser[0], browser)"
    (browser_in, our_out), (our_in, browser_out) = os.pipe(), os.pipe()
    options = "--headless --no-sandbox --disable-gpu --no-first-run --no-proxy-server --disable-background-networking"
    command = [sys.executable, "-c", launch, str(browser_in), str(browser_out), chromium, *options.split()]
    command += ["--remote-debugging-pipe", f"--user-data-dir={folder / 'profile'}", "about:blank"]
    with ExitStack() as stack:
        process = subprocess.Popen(
            command, pass_fds=(browser_in, browser_out), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
        )
        browser = stack.enter_context(process)
        stack.callback(browser.kill)
        os.close(browser_in)
        os.close(browser_out)
        replies = stack.enter_context(os.fdopen(our_in, "rb"))
        commands = stack.enter_context(os.fdopen(our_out, "wb", buffering=0))
        session: dict[str, str] = {}
        number = iter(range(1, 10**6))

        def call(method: str, **parameters: Any) -> Any:
            request = {"id": next(number), "method": method, "params": parameters} | session
            commands.write(json.dumps(request).encode() + b"\0")
            while True:
                text = bytearray()
                while (byte := replies.read(1)) != b"\0":
                    assert byte, "the browser has exited"
                    text += byte
                reply = json.loads(text)
                if reply.get("id") == request["id"]:
                    assert "result" in reply, reply
                    return reply["result"]

        def wait_for(element: str, pattern: str) -> str:
            shown = f"document.getElementById({element!r})?.textContent ?? ''"
            for _ in range(3000):
                text = str(call("Runtime.evaluate", expression=shown)["result"]["value"])
                if re.search(pattern, text):
                    return text
                time.sleep(0.02)
            raise AssertionError(f"{element} still shows {text!r}")

        target = call("Target.createTarget", url="about:blank")["targetId"]
        session["sessionId"] = call("Target.attachToTarget", targetId=target, flatten=True)["sessionId"]
        call("Page.navigate", url=url)
        yield call, wait_for
