"""Make inference work in a process that was forked from one that has used it.

`os.fork`, and on Linux by default `multiprocessing`, copies a process, but of its threads only the one that forks.
Five things would then make the new process wait forever, and this module prevents them:

- A lock that another thread held at the moment of the fork. So a fork waits until no thread loads weights or runs a
  network: `no_fork`.
- The destructor of a library's object, and the library's exit handler, which end threads that are missing. So such an
  object is never destroyed in the new process, and its exit handlers of C and C++ do not run: `keep_after_fork`.
- Threads of a destroyed object, which a library keeps for the next one, as OpenVINO does. They are missing in the new
  process, so it refuses to create such an object: `check_pools`.
- OpenMP, with which PyTorch computes in several threads, waits for its missing threads. So PyTorch uses one thread in
  the new process: `openmp_is_unusable`.
- OpenCV, which waits for its missing threads when their number is changed. So it computes with one thread in the new
  process: `limit_opencv_threads`.

The code of a program that uses these libraries itself needs the same care. Processes started with `spawn` or
`forkserver` have none of these problems.
"""

import ctypes
import os
import platform
import threading
import weakref
from collections.abc import Iterator
from contextlib import contextmanager

import cv2

from detector.errors import ProcessError


class _ForkState:
    """The state of this process with regard to forks.

    Attributes:
        openmp_used: whether this process, or one it was forked from, may have computed with OpenMP in several threads.
        openmp_unusable: whether this process was forked after that.
        kept: objects that must not be destroyed in a forked process.
        pools: name of a kind of thread pool → the existing objects that have such a pool.
        pool_counts: name of a kind of thread pool → number of such pools: the library creates one only if all others
            are in use.
        lost_pools: whether this process was forked while a pool was not in use; its threads do not exist here.
        is_forked: whether this process was forked from one that had imported this module.
    """

    def __init__(self) -> None:
        self.openmp_used = False
        self.openmp_unusable = False
        self.kept = weakref.WeakSet[object]()
        self.pools: dict[str, weakref.WeakSet[object]] = {}
        self.pool_counts: dict[str, int] = {}
        self.lost_pools = False
        self.is_forked = False
        self._reset()

    def _reset(self) -> None:
        """Forget the sections and locks of other threads, which do not exist in a new process."""
        self._changed = threading.Condition()
        self._sections = 0
        self._forking = False
        self._own = threading.local()

    def enter(self) -> None:
        """Start a section of this thread in which no other thread can fork; wait while a thread forks."""
        depth = getattr(self._own, "depth", 0)
        if depth == 0:
            with self._changed:
                while self._forking:
                    self._changed.wait()
                self._sections += 1
        self._own.depth = depth + 1

    def leave(self) -> None:
        """End the section that `enter` started."""
        self._own.depth -= 1
        if self._own.depth == 0:
            with self._changed:
                self._sections -= 1
                self._changed.notify_all()

    def before_fork(self) -> None:
        """Wait until the sections of all other threads have ended, and prevent new ones."""
        self._changed.acquire()
        while self._forking:
            self._changed.wait()
        self._forking = True
        own = 1 if getattr(self._own, "depth", 0) else 0
        while self._sections > own:
            self._changed.wait()

    def after_fork_in_parent(self) -> None:
        """Allow new sections."""
        self._forking = False
        self._changed.notify_all()
        self._changed.release()

    def after_fork_in_child(self) -> None:
        """Set up the new process."""
        depth = getattr(self._own, "depth", 0)
        self._reset()
        self.is_forked = True
        self._own.depth, self._sections = depth, 1 if depth else 0
        self.openmp_unusable = self.openmp_unusable or self.openmp_used
        self.lost_pools = self.lost_pools or any(
            len(self.pools[name]) < count for name, count in self.pool_counts.items()
        )
        for kept in self.kept:
            # A reference that is never removed, so that not even the end of the interpreter destroys the object.
            ctypes.pythonapi.Py_IncRef(ctypes.py_object(kept))
        if self.kept:
            _skip_exit_handlers()


def _skip_exit_handlers() -> None:
    """Let this process end without the exit handlers of C and C++; those of Python still run, and output is flushed.

    The C function `exit` runs the handler that was added last first. Here this is `_exit`, which ends the process.
    `on_exit` passes the exit status to the handler; only glibc has this function.
    """
    if platform.libc_ver()[0] == "glibc":
        libc = ctypes.CDLL(None)
        libc.on_exit(libc._exit, None)


_STATE = _ForkState()
if hasattr(os, "register_at_fork"):  # not on Windows, which cannot fork
    os.register_at_fork(
        before=_STATE.before_fork,
        after_in_parent=_STATE.after_fork_in_parent,
        after_in_child=_STATE.after_fork_in_child,
    )


@contextmanager
def no_fork() -> Iterator[None]:
    """Context manager and decorator: another thread that forks waits until the code inside has ended."""
    _STATE.enter()
    try:
        yield
    finally:
        _STATE.leave()


def keep_after_fork(value: object, *, pool: str | None = None) -> None:
    """Never destroy `value` in a process that is forked from this one while `value` exists; it has threads.

    Args:
        value: an object of a library.
        pool: kind of the thread pool of `value`, if the library uses the pool again after `value` was destroyed, for
            the next object with the same kind of pool.
    """
    _STATE.kept.add(value)
    if pool is not None:
        users = _STATE.pools.setdefault(pool, weakref.WeakSet())
        users.add(value)
        _STATE.pool_counts[pool] = max(_STATE.pool_counts.get(pool, 0), len(users))


def check_pools(library: str) -> None:
    """Raise ProcessError if a new object could get a thread pool whose threads were lost in a fork.

    Args:
        library: name of the library, for the message.
    """
    if _STATE.lost_pools:
        raise ProcessError(
            f"loading a detector in a forked process: the process from which it was forked has deleted a detector that "
            f"used {library}, and {library} would wait forever for its threads; start this process with "
            'multiprocessing.get_context("spawn"), load the detector before the fork, or use runtime="onnxruntime"'
        )


def note_openmp() -> None:
    """Note that this process computes with OpenMP from now on; to be called before."""
    _STATE.openmp_used = True


def openmp_is_unusable() -> bool:
    """Return whether OpenMP would wait forever for threads that were lost in a fork."""
    return _STATE.openmp_unusable


def limit_opencv_threads(threads: int) -> None:
    """Set the number of threads with which OpenCV computes in this process; in a forked process, it is always 1.

    `cv2.setNumThreads(1)` after a fork makes the next computation wait forever for the threads of the first process.
    `cv2.setNumThreads(0)` has the same effect as 1, but does not use these threads.
    """
    cv2.setNumThreads(0 if threads == 1 or _STATE.is_forked else threads)
