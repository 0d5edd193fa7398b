"""From what a detector was loaded, so that another process can load the same: pickling, `spawn`, joblib, Dask."""

from dataclasses import dataclass
from pathlib import Path

from detector.errors import FileError, WeightsError
from detector.files import file_sha256
from detector.graph.export_format import NCNN_FILES, OPENVINO_FILES, export_files
from detector.options import RuntimeName
from detector.shipped_weights import lasting_name, weights_path


@dataclass(frozen=True)
class Origin:
    """The file and the options with which a detector was loaded.

    Attributes:
        weights: absolute path of the file or folder, or its URL, or the name of shipped weights.
        sha256: hash of the content of the file, or of the files in the folder of an export.
        device: as for `load_runtime`, like all following attributes.
        runtime: as for `load_runtime`.
        input_size: as for `load_runtime`.
        threads: as for `load_runtime`.
        cache: as for `load_runtime`.
    """

    weights: str
    sha256: str
    device: str
    runtime: RuntimeName
    input_size: int | None
    threads: int | None
    cache: bool

    def check(self) -> None:
        """Check that the file is still there and has the same content.

        Raises:
            FileError: the file is missing or cannot be read.
            WeightsError: the file has changed.
        """
        try:
            found = file_sha256(*weights_files(self.weights))
        except FileError as error:
            raise FileError(
                f"{self.weights}: a pickled detector cannot be loaded, because its weights are not there any more: a "
                f"pickle contains only their path ({error}). Put the file back, or make it available under "
                "the same path on this machine"
            ) from None
        if found != self.sha256:
            raise WeightsError(
                f"{self.weights}: a pickled detector cannot be loaded, because this file has changed since then "
                f"(SHA-256 {found[:12]}..., expected {self.sha256[:12]}...); load a detector from the new "
                "file, or restore the old file"
            )


def origin_of(
    weights: str | Path,
    *,
    device: str = "auto",
    runtime: RuntimeName = "auto",
    input_size: int | None = None,
    threads: int | None = None,
    cache: bool = True,
) -> Origin:
    """Return the origin of a detector; the arguments are those of `load_runtime`.

    To be called before `load_runtime`: if the file is replaced in between, `Origin.check` reports it later.

    Raises:
        InputError, StorageError: as for `weights_path`.
    """
    files = weights_files(weights)
    try:
        sha256 = file_sha256(*files)
    except FileError:
        sha256 = ""  # `load_runtime` raises an error that describes what is missing
    return Origin(lasting_name(weights), sha256, device, runtime, input_size, threads, cache)


def is_folder(path: Path) -> bool:
    """Return True if `path` is a folder; False also if it is not a valid path or cannot be accessed."""
    try:
        return path.is_dir()
    except OSError:  # not a valid file name, or no permission
        return False


def weights_files(weights: str | Path) -> list[Path]:
    """Return the files that contain weights: one file, or the files in the folder of an export. They may not exist.

    Args:
        weights: as for `load_runtime`.

    Raises:
        InputError, StorageError: as for `weights_path`.
    """
    path = export_path(weights)
    return export_files(path) if is_folder(path) else [path]


def export_path(weights: str | Path) -> Path:
    """Return the path of weights: of an export the folder, also if `weights` is its model.xml or model.ncnn.param.

    Raises:
        InputError, StorageError: as for `weights_path`.
    """
    path = weights_path(weights)
    return path.parent if path.name in (OPENVINO_FILES[0], NCNN_FILES[0]) else path
