"""Tests of forks: a detector works in a forked process, whatever the first process and its other threads do."""

import os
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from detector.forks import no_fork

pytestmark = pytest.mark.skipif(not hasattr(os, "fork"), reason="this system cannot fork")

SECONDS = 600
"""A process that has not ended after this time hangs. The tests take seconds, but the machine may be busy."""

AFTER_DETECTION = """
import os, sys, threading, time
import numpy as np
from detector import Detector
from detector.errors import ConfigError

weights, runtime = sys.argv[1:]
image = np.random.default_rng(0).integers(0, 256, (300, 400, 3)).astype(np.uint8)

def detect(detector):
    return detector.detect(image, score_threshold=0.001)

def child(work):
    pid = os.fork()
    if not pid:
        try:
            status = work()
        finally:
            os._exit(status if "status" in locals() else 1)
    end = time.monotonic() + 300
    while not (done := os.waitpid(pid, os.WNOHANG))[0]:
        if time.monotonic() > end:
            os.kill(pid, 9)
            sys.exit(f"{work.__name__}: the forked process hangs")
        time.sleep(0.02)
    assert done[1] == 0, work.__name__

model = Detector.load(weights, runtime=runtime, device="cpu", threads=2)
expected = detect(model)
assert len(expected)

def same(found):
    assert len(found) == len(expected)
    np.testing.assert_allclose(found.boxes, expected.boxes, atol=0.01)
    return 0

def inherited():
    return same(detect(model))

def inherited_in_a_thread():
    found = []
    thread = threading.Thread(target=lambda: found.append(detect(model)))
    thread.start()
    thread.join()
    return same(found[0])

def loaded():
    global model
    model = Detector.load(weights, runtime=runtime, device="cpu", threads=2)  # and the first one is destroyed
    return same(detect(model))

def grandchild():
    child(inherited)
    return 0

results = model.detect_each([image] * 3, batch_size=1)
next(results)

def inherited_iteration():
    try:
        next(results)
    except ConfigError as error:
        return 0 if "start the iteration in this process" in str(error) else 2
    return 3

for work in (inherited, inherited_in_a_thread, loaded, grandchild, inherited_iteration):
    child(work)

stop = threading.Event()
def busy():
    while not stop.is_set():
        detect(model)

threads = [threading.Thread(target=busy) for _ in range(3)]
[thread.start() for thread in threads]
for _ in range(5):
    child(inherited)
stop.set()
[thread.join() for thread in threads]
same(detect(model))

if not os.fork():
    detect(model)
    sys.exit(0)  # the end of the interpreter destroys the detector
assert os.wait()[1] == 0
print("done")
"""


@pytest.mark.parametrize("runtime", ["torch", "onnxruntime", "openvino"])
def test_detector_works_in_a_forked_process(runtime: str, tiny_weights: Path) -> None:
    environment = {name: value for name, value in os.environ.items() if name != "OMP_NUM_THREADS"}
    done = subprocess.run(
        [sys.executable, "-c", AFTER_DETECTION, str(tiny_weights), runtime],
        env=environment,
        capture_output=True,
        text=True,
        timeout=SECONDS,
        check=False,
    )
    assert (done.returncode, done.stdout) == (0, "done\n"), done.stderr


AFTER_DELETION = """
import os, sys
import numpy as np
from detector import Detector
from detector.errors import ProcessError
weights, runtime = sys.argv[1:]
image = np.zeros((64, 96, 3), np.uint8)
load = lambda: Detector.load(weights, runtime=runtime, device="cpu", threads=2)
first, second = load(), load()
del first
third = load()  # has the threads of the first one
pid = os.fork()
if not pid:
    load().detect(image)
    os._exit(0)
assert os.waitpid(pid, 0)[1] == 0
del second, third
pid = os.fork()
if not pid:
    try:
        load().detect(image)
    except ProcessError as error:
        os._exit(5 if "spawn" in str(error) else 6)
    os._exit(0)
status = os.waitpid(pid, 0)[1]
load().detect(image)
print(os.waitstatus_to_exitcode(status))
"""


@pytest.mark.parametrize(("runtime", "status"), [("torch", "0"), ("onnxruntime", "0"), ("openvino", "5")])
def test_a_fork_after_a_detector_was_deleted_never_hangs(runtime: str, status: str, tiny_weights: Path) -> None:
    command = [sys.executable, "-c", AFTER_DELETION, str(tiny_weights), runtime]
    done = subprocess.run(command, capture_output=True, text=True, timeout=SECONDS, check=False)
    assert (done.returncode, done.stdout) == (0, status + "\n"), done.stderr


TRAINING = """
import os, sys
import torch
from detector import Config, Detector, InputError, train
torch.set_num_threads(2)
Detector.load(sys.argv[1], device="cpu")
if not os.fork():
    try:
        train("scenes", Config(steps=1, device="cpu"), out="run")
    except InputError as error:
        os._exit(0 if "training in a forked process" in str(error) and "spawn" in str(error) else 3)
    os._exit(4)
assert os.wait()[1] == 0
"""


def test_training_in_a_forked_process_is_refused(tiny_weights: Path, tmp_path: Path) -> None:
    command = [sys.executable, "-c", TRAINING, str(tiny_weights)]
    subprocess.run(command, cwd=tmp_path, timeout=SECONDS, check=True)
    assert not (tmp_path / "run").exists()


OPENCV = """
import os, signal, sys
import cv2, numpy as np
from detector import Detector
from detector.runtime.hardware import training_process

def blur():
    cv2.GaussianBlur(np.zeros((2000, 2000, 3), np.uint8), (0, 0), 3)

cv2.setNumThreads(2)
blur()
if not os.fork():
    signal.alarm(120)  # ends a process that waits forever
    Detector.load("scenes", device="cpu", threads=1)
    blur()
    with training_process():
        blur()
    blur()
    os._exit(0)
assert os.wait()[1] == 0
blur()
"""


def test_opencv_does_not_wait_for_threads_of_the_first_process() -> None:
    subprocess.run([sys.executable, "-c", OPENCV], timeout=SECONDS, check=True)


def fork_and_wait() -> None:
    pid = os.fork()
    if not pid:
        os._exit(0)
    os.waitpid(pid, 0)


def test_fork_waits_for_the_sections_of_other_threads() -> None:
    entered, leave = threading.Event(), threading.Event()
    order = []

    def section() -> None:
        with no_fork(), no_fork():
            entered.set()
            leave.wait()
            order.append("section")

    def fork() -> None:
        fork_and_wait()
        order.append("fork")

    threads = [threading.Thread(target=section), threading.Thread(target=fork)]
    threads[0].start()
    entered.wait()
    threads[1].start()
    time.sleep(0.05)
    assert not order
    leave.set()
    for thread in threads:
        thread.join(60)
    assert order == ["section", "fork"]


def test_section_that_forks_itself_does_not_wait() -> None:
    with no_fork():
        fork_and_wait()
    fork_and_wait()


def test_many_forks_and_sections_end() -> None:
    def sections() -> None:
        for _ in range(200):
            with no_fork():
                pass

    one_fork = threading.Lock()  # filelock may refuse a fork during one of another thread (seen with Python 3.13)

    def forks() -> None:
        for _ in range(5):
            with one_fork:
                fork_and_wait()

    threads = [threading.Thread(target=work, daemon=True) for work in (sections, sections, forks, forks)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(SECONDS)
        assert not thread.is_alive()
