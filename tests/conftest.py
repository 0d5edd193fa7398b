"""Fixtures that several test folders use: no network, one thread, a tiny dataset, and weights trained on it."""

import atexit
import json
import os
import shutil
import signal
import socket
import sys
import tempfile
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import settings

from detector.config import Config
from detector.images import write_image
from detector.training.train import train

# The tensors in tests are too small for more threads, and synchronizing threads on a busy machine is expensive.
# Child processes inherit the variable.
torch.set_num_threads(1)
os.environ["OMP_NUM_THREADS"] = "1"

# A cache of their own: the tests neither depend on the cache of the user nor change it. Child processes inherit it.
os.environ["XDG_CACHE_HOME"] = tempfile.mkdtemp(prefix="detector-tests-")
atexit.register(shutil.rmtree, os.environ["XDG_CACHE_HOME"], ignore_errors=True)

# Under `nohup` or in a background job SIGINT is ignored, and child processes would inherit that.
signal.signal(signal.SIGINT, signal.default_int_handler)

# By default the same examples are tested each time; `pytest --hypothesis-profile=explore` tests random ones.
settings.register_profile("explore", deadline=None)
settings.register_profile("repeat", deadline=None, derandomize=True)
settings.load_profile("repeat")


_loopback_is_allowed = threading.Event()


@pytest.fixture
def loopback() -> Iterator[None]:
    """Allow the test to connect to the address 127.0.0.1."""
    _loopback_is_allowed.set()
    yield
    _loopback_is_allowed.clear()


def pytest_runtest_setup(item: pytest.Item) -> None:
    """Skip tests of what an operating system does not have."""
    if item.get_closest_marker("posix") and os.name != "posix":
        pytest.skip("needs signals, pipes or permissions of POSIX")
    if item.get_closest_marker("linux") and sys.platform != "linux":
        pytest.skip("needs /proc or devices of Linux")


@pytest.fixture(scope="session")
def attempts() -> Iterator[list[str]]:
    """Disable the network for this process and list the attempts to use it, which a library may hide."""
    found: list[str] = []
    connect = socket.socket.connect

    def refuse(function: str, address: object) -> None:
        found.append(f"{function} {address!r}")
        raise OSError("tests have no network")

    def connect_locally(self: socket.socket, address: Any) -> None:
        # Unix sockets only connect processes of this machine. On Windows, `socketpair` uses the loopback address.
        if self.family == getattr(socket, "AF_UNIX", None):
            connect(self, address)
            return
        is_allowed = _loopback_is_allowed.is_set() or os.name == "nt"
        if not (is_allowed and address[0] == "127.0.0.1"):
            refuse("connect", address)
        connect(self, address)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(socket.socket, "connect", connect_locally)
        patch.setattr(socket.socket, "connect_ex", connect_locally)
        patch.setattr(socket.socket, "sendto", lambda self, *arguments: refuse("sendto", arguments[-1]))
        for name in ("getaddrinfo", "gethostbyname", "create_connection"):
            patch.setattr(socket, name, lambda *arguments, name=name, **_: refuse(name, arguments[:2]))
        yield found
        assert not found


@pytest.fixture(autouse=True)
def no_network(attempts: list[str]) -> Iterator[None]:
    """Fail a test that tries to use the network."""
    before = len(attempts)
    yield
    assert not attempts[before:]


@pytest.fixture(scope="session")
def tiny_data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A COCO folder of images, 96 x 64 (width x height), with red and blue rectangles; category ids 3 and 17."""
    folder = tmp_path_factory.mktemp("tiny")
    (folder / "images").mkdir()
    rng = np.random.default_rng(0)
    image_id = 0
    for split, count in (("train", 12), ("val", 4), ("test", 4)):
        data: dict[str, list[Any]] = {
            "images": [],
            "annotations": [],
            "categories": [{"id": 3, "name": "red"}, {"id": 17, "name": "blue"}],
        }
        for _ in range(count):
            image_id += 1
            image = rng.integers(90, 140, size=(64, 96, 3)).astype(np.uint8)
            name = f"{image_id}.png"
            for side in range(2):
                w, h = rng.integers(16, 33, size=2).tolist()
                x, y = int(rng.integers(48 * side, 48 * side + 48 - w + 1)), int(rng.integers(0, 64 - h + 1))
                is_blue = bool(rng.integers(2))
                image[y : y + h, x : x + w] = (20, 20, 230) if is_blue else (230, 20, 20)
                row = {"id": len(data["annotations"]) + 1, "image_id": image_id, "category_id": 17 if is_blue else 3}
                data["annotations"].append(row | {"bbox": [x, y, w, h], "area": w * h, "iscrowd": 0})
            write_image(folder / "images" / name, image)
            data["images"].append({"id": image_id, "file_name": name, "height": 64, "width": 96})
        (folder / f"{split}.json").write_text(json.dumps(data))
    return folder


@pytest.fixture(scope="session")
def tiny_config() -> Config:
    """Settings of a run that takes seconds."""
    return Config(
        model="pico",
        input_size=(64, 96),
        steps=80,
        batch=4,
        evaluations=2,
        precision="fp32",
        device="cpu",
        copy_paste=0.0,  # pasted objects slow down such a short run
    )


@pytest.fixture(scope="session")
def tiny_run(tiny_data: Path, tiny_config: Config, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The output folder of a training run on the tiny dataset."""
    return train(tiny_data, tiny_config, out=tmp_path_factory.mktemp("runs") / "tiny").folder


@pytest.fixture(scope="session")
def tiny_weights(tiny_run: Path) -> Path:
    """The best weights of `tiny_run`."""
    return tiny_run / "weights" / "best.safetensors"
