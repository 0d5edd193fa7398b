"""Import OpenVINO, NNCF and ONNX Runtime without their telemetry. All other modules import them with these functions.

By default and without consent, OpenVINO reports each import and NNCF reports each use to Google Analytics. Both
packages store a client id in the home folder. They work without telemetry if the package openvino_telemetry cannot be
imported, so this module blocks the import of openvino_telemetry. ONNX Runtime reports to Microsoft and stores a device
id in the cache folder, from its import on, unless an environment variable is set.
"""

import os
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
_ONNXRUNTIME_SWITCH = "ORT_DISABLE_TELEMETRY"


def import_openvino() -> ModuleType:
    """Import OpenVINO without telemetry, and return the module `openvino`.

    Raises:
        ImportError: OpenVINO is not installed.
    """
    with _block_telemetry():
        return import_module("openvino")


@cache
def openvino_core() -> "openvino.Core":
    """Return the only OpenVINO core of this process. The core is created at the first call and never destroyed.

    Reason: on Linux, each core installs its own signal stack. When a core is destroyed, it restores the signal stack
    that was active before its creation. If the older of two cores is destroyed first, the newer core later restores a
    signal stack that is already freed, and the next Ctrl-C ends in a segmentation fault.

    Raises:
        ImportError: OpenVINO is not installed.
    """
    core: openvino.Core = import_openvino().Core()
    return core


def import_onnxruntime() -> ModuleType:
    """Import ONNX Runtime without telemetry, and return the module `onnxruntime`.

    Raises:
        ImportError: ONNX Runtime is not installed.
    """
    os.environ.setdefault(_ONNXRUNTIME_SWITCH, "1")  # stays set: sessions and child processes read it too
    module = import_module("onnxruntime")
    module.disable_telemetry_events()  # if other code imported it before
    return module


def import_nncf() -> ModuleType:
    """Import NNCF without telemetry, and return the module `nncf`.

    Raises:
        ImportError: NNCF is not installed.
    """
    with _block_telemetry(), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        nncf = import_module("nncf")
        decorator, wrapper = import_module("nncf.telemetry.decorator"), import_module("nncf.telemetry.wrapper")
    # If other code imported NNCF before, its telemetry is active: replace the telemetry by the stub that NNCF contains.
    vars(decorator)["telemetry"] = wrapper.NNCFTelemetryStub()
    return nncf


@contextmanager
def _block_telemetry() -> Iterator[None]:
    """Make every import of openvino_telemetry fail inside the context; restore the previous state at the end."""
    loaded = {name: sys.modules.pop(name) for name in list(sys.modules) if name.split(".")[0] == _TELEMETRY}
    # Importing a module whose entry in sys.modules is None raises ModuleNotFoundError.
    sys.modules[_TELEMETRY] = None  # type: ignore[assignment]
    try:
        yield
    finally:
        del sys.modules[_TELEMETRY]
        sys.modules.update(loaded)
