"""OpenVINO and NNCF without their telemetry: the one way they are imported here.

Left alone, OpenVINO reports to Google Analytics that it was imported and NNCF that it was used, unasked, and they leave
a number for that in the home folder. Where the package openvino_telemetry is missing both do without.
"""

import sys
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from importlib import import_module
from types import ModuleType
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import openvino

_TELEMETRY = "openvino_telemetry"


def import_openvino() -> ModuleType:
    """Import OpenVINO.

    Raises:
        ImportError: it is not installed.
    """
    with _as_if_missing():
        return import_module("openvino")


@cache
def openvino_core() -> "openvino.Core":
    """Return OpenVINO's core, one for the process and as long as it lives.

    On Linux each core comes with a stack of its own for signals and, when it goes, sets again what was there before it.
    When the first of two goes first, that is memory given back, and the next Ctrl-C ends in a segmentation fault.

    Raises:
        ImportError: OpenVINO is not installed.
    """
    core: openvino.Core = import_openvino().Core()
    return core


def import_nncf() -> ModuleType:
    """Import NNCF.

    Raises:
        ImportError: it is not installed.
    """
    with _as_if_missing(), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        nncf = import_module("nncf")
        user, maker = import_module("nncf.telemetry.decorator"), import_module("nncf.telemetry.wrapper")
    # A program that has imported it before has done so with its telemetry.
    vars(user)["telemetry"] = maker.NNCFTelemetryStub()
    return nncf


@contextmanager
def _as_if_missing() -> Iterator[None]:
    """Let the import of the telemetry fail meanwhile."""
    ours = {name: sys.modules.pop(name) for name in list(sys.modules) if name.split(".")[0] == _TELEMETRY}
    sys.modules[_TELEMETRY] = None  # type: ignore[assignment]  # by Python's rule its import then fails
    try:
        yield
    finally:
        del sys.modules[_TELEMETRY]
        sys.modules.update(ours)
