"""`ObjectStore`: lists, reads and writes files at a URL of an object store or in a zip archive, with fsspec.

The libraries retry in different ways, and raise different errors. Here, each request is retried a few times with
growing pauses, and each failure is one of two errors: a `FileError` for a URL that cannot be used, which is noticed
before the work, and a `StorageError` for a request that fails during the work.
"""

import base64
import errno
import hashlib
import logging
import random
import re
import time
import zipfile
import zlib
from bisect import bisect_left
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import Any, TypeVar

from detector.errors import FileError, MissingPackageError, StorageError

_LOG = logging.getLogger(__name__)

_PACKAGES = {
    "s3": "s3fs",
    "s3a": "s3fs",
    "gs": "gcsfs",
    "gcs": "gcsfs",
    "az": "adlfs",
    "abfs": "adlfs",
    "abfss": "adlfs",
    "memory": "fsspec",
    "zip": "fsspec",
}
"""Scheme of a URL → package that reads it."""

_URL = re.compile(rf"({'|'.join(_PACKAGES)})://", re.IGNORECASE)

CONNECTIONS = 64
"""Number of requests at the same time: 64 requests of 50 ms each are 1,280 files per second."""

_TRIES = 5
_TRIES_GOOGLE = 1
"""The same for gcsfs, which itself tries 6 times in half a minute, and cannot be told to leave that to this module."""

_LISTED_AS_EMPTY = {"gcsfs": "bucket", "adlfs": "container"}
"""Package → what it lists as empty if it does not exist, instead of failing as s3fs does."""

_PAUSE = 0.5
"""Seconds before the second try; twice as long before each other. The pauses take 7.5 seconds together."""

_NO_CACHE = {"use_listings_cache": False, "skip_instance_cache": True}
"""Options of all stores: a cached listing would hide what other processes write, and what has changed."""

_S3_OPTIONS = _NO_CACHE | {
    # Retried here, and not by botocore and s3fs as well: 5 x 5 x 5 tries would take minutes.
    "config_kwargs": {
        "max_pool_connections": CONNECTIONS,
        "connect_timeout": 10,
        "read_timeout": 30,
        "retries": {"mode": "standard", "total_max_attempts": 1},
    },
    "max_concurrency": 1,  # else each read begins with a request for the size
}
"""Options of s3fs."""

_REFUSED = {
    "NoCredentialsError",
    "PartialCredentialsError",
    "CredentialRetrievalError",
    "ProfileNotFound",
    "TokenRetrievalError",
    "DefaultCredentialsError",
    "ClientAuthenticationError",
}
"""Names of the types of errors of botocore, google-auth and azure-core for missing or wrong credentials."""

_ERRNO_OTHER_REGION = getattr(errno, "EREMCHG", None)
_WRONG_REGION = {"PermanentRedirect", "AuthorizationHeaderMalformed", "IllegalLocationConstraintException", "301"}
"""Error codes of S3 for a request that was sent to another region than that of the bucket."""

_EXISTS = {"PreconditionFailed", "412"}
_NO_CONDITIONS = {"NotImplemented", "501"}
"""Error codes for `If-None-Match`: there is such a file; the store does not have this condition."""

_FINAL = {errno.EINVAL, errno.ENOSYS, errno.EPERM, errno.ENAMETOOLONG, errno.EEXIST}
"""Numbers of errors for which another try cannot help."""

_Result = TypeVar("_Result")


@dataclass(frozen=True, slots=True)
class StoredFile:
    """A file in a store.

    Attributes:
        path: path in the store, as fsspec names it.
        size: size in bytes.
        version: changes if the content changes: the ETag, or what the store has instead.
        md5: hexadecimal MD5 of the content, if the store says it; may also be something else.
    """

    path: str
    size: int
    version: str
    md5: str = field(default="", compare=False)


def is_store_url(value: str | Path) -> bool:
    """Return whether a text is a URL that `ObjectStore` reads.

    >>> [is_store_url(text) for text in ("s3://bucket/a", "zip://::a.zip", "https://a.b/c.jpg", "s3/a")]
    [True, True, False, False]
    """
    return isinstance(value, str) and _URL.match(value) is not None


def absolute_url(url: str) -> str:
    """Return a URL in which the path of a local zip archive is absolute."""
    first, chained, last = url.rpartition("::")
    return url if not chained or "://" in last else f"{first}::{Path(last).resolve()}"


class ObjectStore:
    """The store of a URL. It may be used by several threads.

    Args:
        url: the URL, such as `s3://bucket/folder`, `zip://folder::s3://bucket/file.zip`.

    Attributes:
        url: the argument.
        path: path of the URL in the store.
        may_be_missing: "bucket" or "container" if the list of a missing one is empty; None: `list` raises FileError.

    Raises:
        MissingPackageError: the package for this kind of URL is not installed.
        FileError: the URL is not valid, or the store refuses the access.
    """

    def __init__(self, url: str) -> None:
        self.url = url
        match = _URL.match(url)
        assert match is not None, url  # the caller has asked `is_store_url`
        package = _PACKAGES[match[1].lower()]
        try:
            from fsspec.core import url_to_fs

            stores = {
                scheme: own for scheme, own in _PACKAGES.items() if own != "fsspec" and f"{scheme}://" in url.lower()
            }
            self.may_be_missing = next(
                (_LISTED_AS_EMPTY[own] for own in stores.values() if own in _LISTED_AS_EMPTY), None
            )
            self._tries = _TRIES_GOOGLE if "gcsfs" in stores.values() else _TRIES
            options = {scheme: _S3_OPTIONS if own == "s3fs" else _NO_CACHE for scheme, own in stores.items()}
            self._fs, path = self._first(lambda: url_to_fs(url, **options))
        except ImportError:
            known = "pip install 'grid-detector[remote]'" if package in ("s3fs", "fsspec") else f"pip install {package}"
            raise MissingPackageError(f"{url}: this URL needs a package that is not installed: {known}") from None
        except ValueError as error:
            problem = "no connection with these credentials" if package == "adlfs" else "not a valid URL"
            raise FileError(f"{url}: {problem} ({_reason(error)})") from None
        self.path: str = path.rstrip("/")
        if isinstance(archive := getattr(self._fs, "zip", None), zipfile.ZipFile):
            _use_slashes(archive)
        if "s3" in self._fs.protocol:
            self._fs.retries = 1
        # adlfs has no setting for the retries of azure-storage-blob, which take minutes.
        policy = getattr(getattr(getattr(self._fs, "service_client", None), "_config", None), "retry_policy", None)
        if policy is not None and hasattr(policy, "total_retries"):
            policy.total_retries = 0
        for library in ("gcsfs", "adlfs", "azure"):  # print nothing of their own if the program has not set up logging
            logging.getLogger(library).addHandler(logging.NullHandler())

    def url_of(self, path: str) -> str:
        """Return the URL of a path in the store."""
        first, chained, rest = self.url.partition("::")
        return f"{first.partition('://')[0]}://{path.lstrip('/')}{chained}{rest}"

    def list(self, path: str, *, recursive: bool = True) -> list[StoredFile]:
        """Return the files below a path, or the file at the path, sorted by path; empty if there are none.

        Args:
            path: a path in the store.
            recursive: whether to include the files in subfolders.

        Raises:
            FileError: the store cannot be reached, or refuses the access.
        """

        def find() -> dict[str, dict[str, Any]]:
            # `find` with `maxdepth` hides each failure, as of a wrong key, and returns an empty list.
            if not recursive:
                return {info["name"]: info for info in self._fs.ls(path, detail=True)}
            found = self._fs.find(path, detail=True)
            # adlfs returns a list for the path of a file.
            return found if isinstance(found, dict) else {name: self._fs.info(name) for name in found}

        none: dict[str, dict[str, Any]] = {}
        found = self._first(find, missing=none)
        files = [_stored(name, info) for name, info in found.items() if info["type"] == "file"]
        return _without_folder_marks(sorted(files, key=lambda file: file.path))

    def read(self, file: StoredFile, name: str) -> bytes:
        """Return the content of a file that was listed.

        Args:
            file: the file.
            name: name of the file in messages.

        Raises:
            StorageError: the file cannot be read completely, was removed, or has changed since it was listed.
        """

        def read() -> bytes:
            data: bytes = self._fs.cat_file(file.path)
            # Where this is no MD5, as for files that were written in parts, ask whether the file is still the same.
            if len(data) != file.size or hashlib.md5(data, usedforsecurity=False).hexdigest() != file.md5:
                if (now := _stored(file.path, self._fs.info(file.path))) != file:
                    raise _ChangedError(f"{now.size} bytes now, {file.size} bytes before")
                if len(data) != file.size:
                    raise ConnectionError(f"{len(data)} of {file.size} bytes were received")
            return data

        return self._retried(name, read)

    def read_text(self, path: str) -> bytes | None:
        """Return the content of a small file that may be missing (then None), and may change at any time."""
        try:
            return self._retried(self.url, lambda: bytes(self._fs.cat_file(path)), pass_on=FileNotFoundError)
        except FileNotFoundError:
            return None

    def write(self, path: str, data: bytes, name: str) -> None:
        """Write a file. A reader sees the old file or the new one, never a part.

        Raises:
            StorageError: the file cannot be written.
        """
        try:
            self._retried(name, lambda: self._fs.pipe_file(path, data), pass_on=FileNotFoundError)
        except FileNotFoundError:
            raise StorageError(f"{name}: no such bucket") from None

    def create(self, path: str, data: bytes, name: str) -> bool:
        """Write a file only if there is none, by a conditional request; return whether it was written.

        Raises:
            FileError: the store has no conditional requests, or there is no such bucket.
            StorageError: the file cannot be written.
        """

        def put() -> None:
            try:
                self._fs.pipe_file(path, data, mode="create")
            except OSError as error:
                # s3fs only knows the answer of Amazon, which names the condition. That of Ceph does not.
                code = _details(error).get("Code")
                if code in _EXISTS:
                    raise FileExistsError(path) from None
                if code in _NO_CONDITIONS:
                    raise NotImplementedError from None
                raise

        try:
            self._retried(name, put, (FileExistsError, FileNotFoundError, NotImplementedError))
        except FileExistsError:
            return False
        except FileNotFoundError:
            raise FileError(f"{self.url}: no such bucket") from None
        except NotImplementedError:
            raise FileError(f"{name}: this kind of store cannot exclude two writers; write to a local folder") from None
        return True

    def remove(self, path: str, name: str) -> None:
        """Remove a file; do nothing if there is none.

        Raises:
            StorageError: the file cannot be removed.
        """
        with suppress(FileNotFoundError):
            self._retried(name, lambda: self._fs.rm_file(path), pass_on=FileNotFoundError)

    def _first(self, request: Callable[[], _Result], missing: _Result | None = None) -> _Result:
        """Return the result of a request for the URL that the user named, or `missing` if there is no such file.

        Raises:
            FileError: the request fails.
        """
        try:
            return self._retried(self.url, request, pass_on=FileNotFoundError)
        except StorageError as error:
            raise FileError(*error.args) from None
        except FileNotFoundError as error:
            if _details(error).get("Code") == "NoSuchBucket":
                raise FileError(f"{self.url}: no such bucket") from None
            if missing is None:
                raise FileError(f"{self.url}: no such file, folder or bucket") from None
            return missing

    def _retried(
        self, name: str, request: Callable[[], _Result], pass_on: type[Exception] | tuple[type[Exception], ...] = ()
    ) -> _Result:
        """Return the result of a request; repeat a request that fails for a reason that may pass.

        Args:
            name: name of the file in messages.
            request: does the request.
            pass_on: types of errors that are raised as they are.

        Raises:
            StorageError: the request fails.
        """
        tries = self._tries
        for number in range(1, tries + 1):
            try:
                return request()
            except ImportError:
                raise
            except Exception as raised:
                error = _translated(raised)
                if isinstance(error, pass_on):
                    raise error from error.__cause__
                if (problem := _archive_problem(error) or _final_problem(error)) is not None:
                    raise StorageError(f"{name}: {problem}") from None
                if type(error).__module__ == "builtins" and not isinstance(error, OSError):
                    raise  # a bug, not a failure of the store
                reason = _reason(error)
                if number == tries:
                    times = f" {tries} times, last" if tries > 1 else ""
                    raise StorageError(
                        f"{name}: the request failed{times} with: {reason}; try again when the store works, or resume "
                        "the interrupted command"
                    ) from None
                if number > 1:
                    _LOG.warning("%s: %s; trying again (%d of %d)", name, reason, number + 1, tries)
                time.sleep(_PAUSE * 2 ** (number - 1) * random.uniform(0.8, 1.2))
        raise AssertionError  # the last try has returned or raised


def _use_slashes(archive: zipfile.ZipFile) -> None:
    """Replace backslashes in the names of an archive, which some programs on Windows write as separators."""
    for info in archive.infolist():
        name = info.filename.replace("\\", "/")
        if name not in archive.NameToInfo:
            archive.NameToInfo[name] = archive.NameToInfo.pop(info.filename)
            info.filename = name  # the header in the archive is still compared with `orig_filename`


class _ChangedError(Exception):
    """A file has changed since it was listed."""


def _without_folder_marks(files: list[StoredFile]) -> list[StoredFile]:
    """Leave out the empty objects of folders, which consoles create: `name/`, which adlfs lists as `name`.

    Args:
        files: files, sorted by path.
    """
    paths = [file.path for file in files]

    def is_mark(file: StoredFile) -> bool:
        folder = f"{file.path.rstrip('/')}/"
        below = bisect_left(paths, folder)
        return file.path == folder or (below < len(paths) and paths[below].startswith(folder))

    return [file for file in files if file.size or not is_mark(file)]


def _stored(path: str, info: dict[str, Any]) -> StoredFile:
    """Return a file from the description that fsspec gives of it."""
    if info.get("generation") is not None:  # Google; its ETag also changes with the metadata
        version = f"{info['generation']} {info.get('md5Hash', '')}"
    else:
        keys = ("ETag", "etag", "md5Hash", "CRC", "LastModified", "mtime", "created", "last_modified")
        found = next((info[key] for key in keys if info.get(key) is not None), "")
        version = str(found.timestamp() if isinstance(found, datetime) else found).strip('"')
    return StoredFile(path, int(info["size"] or 0), version, _md5(info) or version)


def _md5(info: dict[str, Any]) -> str:
    """Return the MD5 of the content that Google and Azure have besides an ETag; "" if there is none."""
    value = info.get("md5Hash") or (info.get("content_settings") or {}).get("content_md5") or b""
    with suppress(ValueError):
        return (base64.b64decode(value) if isinstance(value, str) else bytes(value)).hex()
    return ""


def _translated(error: Exception) -> Exception:
    """Return the builtin error that means the same as an error of gcsfs or azure-core; other errors as they are."""
    text = str(error)
    if type(error).__module__.startswith(("azure.", "gcsfs.")):
        status = getattr(error, "status_code", None) or getattr(error, "code", None)
        if status == 404:
            return FileNotFoundError(_reason(error))
        if status in (401, 403):
            return PermissionError(_reason(error))
    elif type(error) is OSError and text.startswith("Forbidden: "):  # gcsfs
        return PermissionError(_reason(error))
    elif type(error) is ValueError and text.startswith("Bad Request: "):  # gcsfs
        return OSError(errno.EINVAL, _reason(error))
    return error


def _final_problem(error: Exception) -> str | None:
    """Return what is wrong and what to do, for an error that another try would not change; None for other errors."""
    details = _details(error)
    number = getattr(error, "errno", None)
    if isinstance(error, _ChangedError):
        return f"the file has changed since it was listed ({error}); start again when nobody writes to this place"
    if details.get("Code") in _WRONG_REGION or (number is not None and number == _ERRNO_OTHER_REGION):
        region = details.get("Region")
        where = f" ({region})" if region else ""
        return f"the bucket is in another region{where}; set AWS_REGION to the region of the bucket"
    if isinstance(error, FileNotFoundError):
        return "the file does not exist, or was removed since it was listed"
    if {base.__name__ for base in type(error).__mro__} & _REFUSED:
        return f"no credentials ({error}); set them up as for the tool of the store, for S3: `aws configure`"
    if isinstance(error, PermissionError):
        return (
            f"access denied ({_reason(error)}); check the credentials, for S3 with `aws sts get-caller-identity`, and "
            "whether they may list and read this place"
        )
    is_final = number in _FINAL or isinstance(error, FileExistsError | IsADirectoryError)
    return _reason(error) if is_final else None


def _archive_problem(error: Exception) -> str | None:
    """Return what is wrong with a zip archive, for an error of the module zipfile; None for other errors."""
    if isinstance(error, zipfile.BadZipFile | EOFError | zlib.error):
        return f"not a zip archive, or a damaged one ({_reason(error)})"
    if isinstance(error, NotImplementedError):
        return f"the archive cannot be read ({_reason(error)}); unpack it"
    if isinstance(error, RuntimeError) and "encrypted" in str(error):
        return "the archive is encrypted; unpack it"
    return None


def _details(error: Exception) -> dict[str, Any]:
    """Return the error code and the other details in the response of S3; empty if there is none."""
    response = getattr(error.__cause__, "response", None) or getattr(error, "response", None)
    return response.get("Error", {}) if isinstance(response, dict) else {}


def _reason(error: Exception) -> str:
    """Return the message of an error on one line, or its type if it has none."""
    text = error.strerror if isinstance(error, OSError) and error.strerror else str(error)
    if text in ("", "None"):  # Ceph sends no message
        text = str(_details(error).get("Code", ""))
    text = text.partition("\nRequestId:")[0]  # Azure appends the number of the request and the complete answer
    return f"{' '.join(text.split()):.200}" or type(error).__name__
