"""Detection on a Ray cluster: Ray Data distributes groups of images to a pool of actors, each of which holds a runtime.

Ray restarts an actor or repeats a group when a process or a machine is lost. The results arrive in this process, in any
order, and each group once; the caller writes them. A group has complete batches, so that the results are the same as
without Ray.

Images in Parquet files and tar archives are groups of the same kind: each image is read at its place in its file. The
readers of Ray Data for such files are not used: `read_parquet` gives no row numbers; `read_webdataset` stops at a key
that occurs again, and takes a damaged header for the end of an archive. A run that continues would read all files
again, and its batches would be others than without Ray.
"""

import logging
import os
import pickle
import platform
import socket
from collections.abc import Generator, Iterator, Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import numpy as np

from detector.arrays import ImageArray
from detector.detections import Detections
from detector.errors import ConfigError, FileError, InputError, MissingPackageError, ProcessError
from detector.media.sources import Source
from detector.options import DetectOptions
from detector.predict.detector import Detector
from detector.version import VERSION

_LOG = logging.getLogger(__name__)

_GROUP_IMAGES = 64
"""Number of images that an actor processes at a time: about a second of work, so that the cost of a group is small."""

_STARTS = 3
"""Number of attempts to start Ray on this machine: on a busy machine, its processes wait too short for each other."""

_CONNECT_SECONDS = 10
"""How long a cluster may take to accept a connection."""

_STORE_BYTES = 256 * 2**20
"""Memory for the objects of a cluster on this machine: names of images and detections, no pixels."""

Result = tuple[ImageArray, Detections] | InputError
"""An image without content, which only has the right shape, and its detections; or why it cannot be read."""


class RayCluster:
    """A connection to a Ray cluster. Use it as a context manager: the connection, or a local cluster, is closed.

    Args:
        address: `local`: start Ray on this machine; `auto`: the cluster that runs on this machine or that the
            environment variable RAY_ADDRESS names; or HOST:PORT.
        threads: number of CPU cores for each actor.
        uses_gpu: whether each actor needs a GPU.

    Raises:
        MissingPackageError: the package ray is not installed.
        ConfigError: there is no cluster at this address.
        ProcessError: Ray does not start on this machine.
    """

    def __init__(self, address: str, *, threads: int = 1, uses_gpu: bool = False) -> None:
        self._threads, self._uses_gpu = threads, uses_gpu
        os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")  # no telemetry
        os.environ.setdefault("RAY_BACKEND_LOG_LEVEL", "fatal")  # lost processes are restarted; the logs have the rest
        try:
            import ray
            import ray.data
        except ImportError:
            raise MissingPackageError("--engine ray needs the package ray: pip install 'grid-detector[ray]'") from None
        self._ray: Any = ray
        if address == "local":
            self._start()
        else:
            self._connect(address)
        context = ray.data.DataContext.get_current()
        context.enable_progress_bars = False
        logging.getLogger("ray.data").setLevel(logging.ERROR)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._ray.shutdown()

    def _start(self) -> None:
        """Start Ray on this machine.

        Raises:
            ProcessError: it does not start.
        """
        for attempt in range(1, _STARTS + 1):
            try:
                self._ray.init(
                    "local",
                    include_dashboard=False,
                    object_store_memory=_STORE_BYTES,
                    logging_level=logging.ERROR,
                    log_to_driver=False,
                )
                return
            except Exception as error:  # Ray raises several types, also Exception itself
                self._ray.shutdown()
                if attempt == _STARTS:
                    raise ProcessError(
                        f"Ray does not start on this machine, also at attempt {attempt} ({error}); its processes wait "
                        "only seconds for each other, which is not enough on a busy machine: try again later, or use "
                        "`detect` without --engine ray"
                    ) from None
                _LOG.warning("Ray has not started (attempt %d of %d): %s", attempt, _STARTS, error)

    def _connect(self, address: str) -> None:
        """Connect to a cluster.

        Raises:
            ConfigError: there is none.
        """
        try:
            host, colon, port = (os.environ.get("RAY_ADDRESS", "") if address == "auto" else address).rpartition(":")
            if colon:  # Ray itself would try for many minutes
                socket.create_connection((host, int(port)), timeout=_CONNECT_SECONDS).close()
            self._ray.init(address, logging_level=logging.ERROR, log_to_driver=False)
        except (OSError, ValueError, RuntimeError) as error:
            raise ConfigError(
                f"--address {address}: no Ray cluster can be reached ({error}); expected auto, HOST:PORT or local; "
                "start a cluster with `ray start --head`, or use --address local"
            ) from None

    def detect(
        self, detector: Detector, sources: Sequence[Source], options: DetectOptions
    ) -> Generator[tuple[Source, Result], None, None]:
        """Yield each source with its result, in any order.

        Args:
            detector: the detector, which every actor loads from the same path.
            sources: the images; each `options.batch_size` consecutive ones are a batch.
            options: resolved options.

        Raises:
            InputError: a machine has other files, another version of this package, or an actor fails.
        """
        if not sources:
            return
        import ray.data

        size = max(1, _GROUP_IMAGES // options.batch_size) * options.batch_size
        groups = [
            {"start": start, "images": pickle.dumps([source.read for source in sources[start : start + size]])}
            for start in range(0, len(sources), size)
        ]
        results = ray.data.from_items(groups, override_num_blocks=len(groups)).map_batches(
            Worker,
            fn_constructor_args=(pickle.dumps(detector), options, str(Path.cwd()), VERSION),
            batch_size=1,
            compute=ray.data.ActorPoolStrategy(min_size=1),
            num_cpus=self._threads,
            num_gpus=int(self._uses_gpu),
        )
        del groups
        try:
            for row in results.iter_rows():
                group = pickle.loads(row["results"])
                if isinstance(group, InputError):
                    raise group
                for source, result in zip(sources[row["start"] : row["start"] + size], group, strict=True):
                    if isinstance(result, InputError):
                        check_unreadable(source, result, row["node"])
                        yield source, result
                    else:
                        (height, width), found = result
                        yield source, (np.broadcast_to(np.uint8(0), (height, width, 3)), found)
        except self._ray.exceptions.RayError as error:
            raise ProcessError(f"a process of Ray failed: {str(error).strip().splitlines()[-1]}") from error


class Worker:
    """An actor: loads the detector once, and detects in one group of images after the other.

    Args:
        detector: the pickled detector.
        options: resolved options.
        folder: working directory, to which names of images are relative.
        version: version of this package in the process that writes the results.
    """

    def __init__(self, detector: bytes, options: DetectOptions, folder: str, version: str) -> None:
        self._options = options
        self._error: InputError | None = None
        try:
            if version != VERSION:
                raise ConfigError(f"{platform.node()} has version {VERSION} of detector, but {version} is needed")
            try:
                os.chdir(folder)
            except OSError:
                raise FileError(
                    f"{folder}: this folder does not exist on {platform.node()}; all machines of the cluster need the "
                    "same paths"
                ) from None
            self._detector: Detector = pickle.loads(detector)
        except InputError as error:  # returned instead of raised, because Ray would start the actor again
            self._error = error

    def __call__(self, batch: Mapping[str, Any]) -> dict[str, list[Any]]:
        """Return the results of a group of images, pickled."""
        results = self._error or list(self._detect(pickle.loads(batch["images"][0])))
        return {"start": [int(batch["start"][0])], "node": [platform.node()], "results": [pickle.dumps(results)]}

    def _detect(self, images: Sequence[Any]) -> Iterator[tuple[tuple[int, int], Detections] | InputError]:
        for result in self._detector.detect_with_images(images, self._options):
            yield result if isinstance(result, InputError) else (result[0].shape[:2], result[1])


def check_unreadable(source: Source, error: InputError, node: str) -> None:
    """Raise FileError if an image that a machine of the cluster cannot read can be read here.

    Else a machine without the images would quickly get all of them, and report them as unreadable.
    """
    try:
        source.read()
    except InputError:
        return
    raise FileError(
        f"{source.name}: can be read here, but not on {node} ({error}); all machines of the cluster need the same paths"
    )
