"""Import OpenVINO and NNCF without their telemetry. All other modules import them through this one.

By default, without asking for consent, OpenVINO reports its import and NNCF its use to Google Analytics, and both store
a client id in the home folder. Both work without telemetry if the package openvino_telemetry is missing, so its import
is blocked here.
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
    """Import OpenVINO without telemetry.

    Raises:
        ImportError: OpenVINO is not installed.
    """
    with _block_telemetry():
        return import_module("openvino")


@cache
def openvino_core() -> "openvino.Core":
    """Return the OpenVINO core of this process; it is created once and never destroyed.

    On Linux each core installs its own signal stack and, when destroyed, restores the one that was active at its
    creation. If the first of two cores is destroyed first, the second one restores memory that was freed already, and
    the next Ctrl-C ends in a segmentation fault.

    Raises:
        ImportError: OpenVINO is not installed.
    """
    core: openvino.Core = import_openvino().Core()
    return core


def import_nncf() -> ModuleType:
    """Import NNCF without telemetry.

    Raises:
        ImportError: NNCF is not installed.
    """
    with _block_telemetry(), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        nncf = import_module("nncf")
        decorator, wrapper = import_module("nncf.telemetry.decorator"), import_module("nncf.telemetry.wrapper")
    # If other code imported NNCF before, it did so with telemetry: replace it by NNCF's own stub.
    vars(decorator)["telemetry"] = wrapper.NNCFTelemetryStub()
    return nncf


@contextmanager
def _block_telemetry() -> Iterator[None]:
    """Make imports of openvino_telemetry fail inside the context."""
    loaded = {name: sys.modules.pop(name) for name in list(sys.modules) if name.split(".")[0] == _TELEMETRY}
    # Python raises ModuleNotFoundError for a module whose entry is None.
    sys.modules[_TELEMETRY] = None  # type: ignore[assignment]
    try:
        yield
    finally:
        del sys.modules[_TELEMETRY]
        sys.modules.update(loaded)
