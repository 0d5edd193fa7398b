"""The command `serve`: loads models and runs the server.

By default the server listens only on the loopback address, so other machines cannot reach it.
"""

import contextlib
import logging
import os
import socket
import sys
from collections.abc import Collection, Sequence
from pathlib import Path
from typing import NoReturn

from detector.errors import ConfigError, FileError, InputError, MissingPackageError
from detector.options import RuntimeName
from detector.predict.detector import Detector
from detector.serving.app import make_app

try:
    import uvicorn  # noqa: F401
except ImportError as error:
    raise MissingPackageError(
        f"the server needs the package {error.name}: pip install 'grid-detector[serve]'"
    ) from None

from detector.serving.connections import (
    MAX_CONNECTIONS,
    ConnectionLimits,
    Server,
    fit_to_open_files,
    uvicorn_config,
)
from detector.serving.guard import Access, is_loopback
from detector.serving.limits import CONCURRENCY, MAX_BYTES, MAX_PIXELS
from detector.serving.log_limit import limit_logs

log = logging.getLogger(__name__)

KEY_VARIABLE = "DETECTOR_API_KEY"
"""Environment variable with the API key."""

_MIN_KEY = 16
"""Smallest number of characters of an API key."""


def serve(
    weights: Sequence[str],
    *,
    device: str = "auto",
    runtime: RuntimeName = "auto",
    threads: int | None = None,
    host: str = "127.0.0.1",
    port: int = 8000,
    host_names: Collection[str] = (),
    api_key_file: Path | None = None,
    with_metrics: bool = False,
    max_bytes: int = MAX_BYTES,
    max_pixels: int = MAX_PIXELS,
    concurrency: int = CONCURRENCY,
    max_connections: int = MAX_CONNECTIONS,
) -> None:
    """Load models, log the address of the server, and run the server until Ctrl-C.

    Requests get half a second to finish after Ctrl-C. If something still goes on half a second later, the process ends.
    A thread may still run a model when this function returns; the command calls `end_process`.

    Args:
        weights: weights of each model, as for `Detector.load`. The name of a model is the stem of the weights file, or
            its complete path if two files have the same stem.
        device: as for `Detector.load`.
        runtime: as for `Detector.load`.
        threads: as for `Detector.load`, for each model.
        host: address to listen on. With an address that is not a loopback address, other machines can use the server.
        port: TCP port; 0: any free port.
        host_names: names under which the server may also be reached while it listens on a loopback address, such as
            the name of a reverse proxy.
        api_key_file: file with the API key that requests must contain; None: the key is in the environment variable
            `DETECTOR_API_KEY`, or no key is needed.
        with_metrics: whether there is an endpoint `/metrics` for Prometheus.
        max_bytes: largest size of an uploaded file, in bytes.
        max_pixels: largest number of pixels of an image that is decoded.
        concurrency: largest number of images that are processed or queued at the same time; more requests are refused.
        max_connections: largest number of connections at the same time.

    Raises:
        InputError: weights cannot be loaded or are passed twice, the API key cannot be used, or the server cannot
            listen on the address and port.
    """
    api_key = _read_key(api_key_file)
    with _listen(host, port) as listener:
        names = _model_names(weights)
        models = {
            name: Detector.load(path, device=device, runtime=runtime, threads=threads) for name, path in names.items()
        }
        local_only = is_loopback(host)
        app = make_app(
            models,
            max_bytes=max_bytes,
            max_pixels=max_pixels,
            concurrency=concurrency,
            access=Access(
                local_only=local_only, host_names=frozenset(name.lower() for name in host_names), api_key=api_key
            ),
            with_metrics=with_metrics,
        )
        limits = ConnectionLimits(connections=fit_to_open_files(max_connections))
        limit_logs()
        url_host = f"[{host}]" if ":" in host else host
        log.info("serving %s at http://%s:%d (Ctrl-C stops)", ", ".join(models), url_host, listener.getsockname()[1])
        if not local_only:
            who = "anyone on the network who has the API key" if api_key else "anyone on the network"
            rest = "without encryption" if api_key else "without password or encryption"
            log.warning("listening on %s: %s can use the server, %s", host, who, rest)

        def give_up() -> None:
            app.stop()
            end_process()

        with contextlib.suppress(KeyboardInterrupt):
            Server(uvicorn_config(app, limits), give_up).run(sockets=[listener])
    app.stop()


def end_process() -> NoReturn:
    """End this process at once with status 0, as after Ctrl-C.

    A thread that runs a model cannot be stopped, and Python would wait for it. Also without such a thread, Python takes
    seconds to end a process with PyTorch on a busy machine.
    """
    logging.shutdown()
    for stream in (sys.stdout, sys.stderr):
        with contextlib.suppress(OSError, ValueError):
            stream.flush()
    os._exit(0)


def _read_key(path: Path | None) -> str | None:
    """Return the API key from a file or from the environment; None if there is none.

    Raises:
        FileError: the file cannot be read.
        ConfigError: the key is too short, or contains other characters than printable ASCII.
    """
    if path is None:
        key, source = os.environ.get(KEY_VARIABLE), f"environment variable {KEY_VARIABLE}"
        if key is None:
            return None
    else:
        source = str(path)
        try:
            key = path.read_text(encoding="utf-8")
        except (OSError, UnicodeDecodeError) as error:
            reason = getattr(error, "strerror", None) or "not text"
            raise FileError(f"{path}: the API key cannot be read ({reason})") from None
    key = key.strip()
    if len(key) < _MIN_KEY or not all("!" <= character <= "~" for character in key):
        raise ConfigError(
            f"{source}: expected an API key of at least {_MIN_KEY} letters, digits and signs on one line; create one "
            "with: openssl rand -hex 32"
        )
    return key


def _listen(host: str, port: int) -> socket.socket:
    """Return a socket that listens on a host and port.

    Called before the models are loaded, so that a port that is in use is reported immediately.

    Raises:
        InputError: the server cannot listen on this host and port.
    """
    if not 0 <= port <= 65535:
        raise ConfigError(f"port {port}: expected a number from 0 to 65535")
    try:
        return socket.create_server((host, port), family=socket.AF_INET6 if ":" in host else socket.AF_INET)
    except OSError as error:
        reason = str(error.strerror).partition(" (")[0]  # without the address, which is in the message already
        raise InputError(f"{host}, port {port}: cannot listen ({reason}); pass another --port or --host") from None


def _model_names(weights: Sequence[str]) -> dict[str, str]:
    """Return model name → weights. The name is the stem of the file, or the complete path if the stem occurs twice.

    Raises:
        ConfigError: the same weights are passed twice.

    >>> _model_names(["cells", "mine.onnx", "a/best.onnx", "b/best.onnx"])
    {'cells': 'cells', 'mine': 'mine.onnx', 'a/best.onnx': 'a/best.onnx', 'b/best.onnx': 'b/best.onnx'}
    """
    stems = [Path(path).stem for path in weights]
    names = {path if stems.count(stem) > 1 else stem: path for path, stem in zip(weights, stems, strict=True)}
    if len(names) < len(weights):
        raise ConfigError(f"--weights {' '.join(weights)}: the same weights are passed twice; pass them once")
    return names
