"""The storage of a study, which all workers share: a SQLite file, another database, or a journal file."""

import json
import sqlite3
import warnings
from collections.abc import Iterator
from contextlib import closing, contextmanager, suppress
from pathlib import Path
from typing import Any

import filelock

from detector.errors import FileError, InputError, MissingPackageError
from detector.files import local_path, make_folder

_SQLITE_SECONDS = 60.0
"""How long to wait for another process that writes to a SQLite file, in seconds."""


def require_optuna() -> Any:
    """Import the package optuna and return it.

    Raises:
        MissingPackageError: it is not installed.
    """
    try:
        import optuna
    except ModuleNotFoundError as error:
        raise MissingPackageError(
            f"tuning needs the package {error.name}, which is not installed: pip install 'grid-detector[tune]'"
        ) from None
    return optuna


@contextmanager
def quiet_optuna() -> Iterator[None]:
    """Context manager in which optuna prints nothing but errors: the log has its own lines about each trial."""
    optuna = require_optuna()
    before = optuna.logging.get_verbosity()
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", category=optuna.exceptions.ExperimentalWarning)
            yield
    finally:
        optuna.logging.set_verbosity(before)


class Storage:
    """The place where a study is stored.

    Args:
        place: a database URL, such as `sqlite:///tune.db`, or the path of a journal file.

    Attributes:
        name: the place for messages, without the password of a database.
        backend: the storage object of optuna.

    Raises:
        FileError: the storage cannot be used, or is a file of another program.
        MissingPackageError: optuna, or the driver of the database, is not installed.
    """

    def __init__(self, place: str) -> None:
        require_optuna()
        self.name, self._file = place, None
        if "://" in place:
            with self.errors():
                self._open_database(place)
        else:
            self._file = local_path(place)
            make_folder(self._file.parent)
            with self.errors():
                self._open_journal(self._file)

    def _open_database(self, url: str) -> None:
        """Open a database, and create its tables if they do not exist."""
        import optuna
        import sqlalchemy

        parts = sqlalchemy.engine.make_url(url)
        self.name = parts.render_as_string(hide_password=True)
        options: dict[str, Any] = {}
        if parts.get_backend_name() == "sqlite":
            if not parts.database or parts.database == ":memory:":
                raise FileError(f"{url}: expected the path of a file, such as sqlite:///tune.db")
            self._file = Path(parts.database)
            make_folder(self._file.parent)
            _check_sqlite(self._file)
            options = {"connect_args": {"timeout": _SQLITE_SECONDS}}
        try:
            with self.lock():  # two processes that create the tables at the same time fail
                self.backend: Any = optuna.storages.RDBStorage(url.replace("{", "{{").replace("}", "}}"), options)
        except ImportError as error:
            raise MissingPackageError(f"{self.name}: the driver of this database is not installed ({error})") from None
        except RuntimeError as error:  # tables of another version of optuna
            raise FileError(f"{self.name}: the storage cannot be used ({error!s:.300})") from None

    def _open_journal(self, path: Path) -> None:
        """Open a journal file, and create it if it does not exist."""
        from optuna.storages import JournalStorage
        from optuna.storages.journal import JournalFileBackend, JournalFileOpenLock

        _check_journal(path)
        try:
            self.backend = JournalStorage(JournalFileBackend(str(path), lock_obj=JournalFileOpenLock(str(path))))
        except (ValueError, KeyError) as error:
            raise FileError(f"{path}: the journal is damaged ({error!s:.100}); use another --storage") from None

    @contextmanager
    def lock(self) -> Iterator[None]:
        """Context manager for decisions that only one worker may make at a time.

        The lock is a file beside the storage. Databases that are no file have none: there, two workers that decide in
        the same moment do the same work twice at worst.
        """
        if self._file is None:
            yield
            return
        lock = filelock.FileLock(f"{self._file}.tuning.lock")
        with suppress(OSError):  # a drive without file locks
            lock.acquire()
        try:
            yield
        finally:
            lock.release()

    @contextmanager
    def errors(self) -> Iterator[None]:
        """Context manager in which an error of the storage becomes a FileError."""
        import optuna
        import sqlalchemy

        known = (sqlalchemy.exc.SQLAlchemyError, optuna.exceptions.StorageInternalError, sqlite3.Error, OSError)
        try:
            yield
        except InputError:
            raise
        except known as error:
            reason = " ".join(str(error).split("\n")[0].split())
            raise FileError(
                f"{self.name}: the storage of the study cannot be used ({reason:.300}); the same command continues"
            ) from None


def sqlite_url(path: Path) -> str:
    """Return the URL of a SQLite file.

    Raises:
        FileError: the path contains a question mark, which a URL cannot.
    """
    if "?" in str(path):
        raise FileError(f"{path}: a path with a question mark cannot be used here; use another --out")
    return f"sqlite:///{path}"


def _check_sqlite(path: Path) -> None:
    """Raise FileError if a file is a database of another program, or no database: nothing is written to it."""
    if not path.exists() or not path.stat().st_size:
        return
    try:
        with closing(sqlite3.connect(f"{path.resolve().as_uri()}?mode=ro", uri=True)) as connection:
            tables = {name for (name,) in connection.execute("SELECT name FROM sqlite_master WHERE type = 'table'")}
    except sqlite3.Error as error:
        raise FileError(f"{path}: cannot be read as a SQLite file ({error}); use another --storage") from None
    if tables and not {"studies", "trials"} <= tables:
        raise FileError(f"{path}: is a database of another program, so nothing is written there; use another --storage")


def _check_journal(path: Path) -> None:
    """Raise FileError if an existing file is not a journal of optuna: nothing is appended to it."""
    if not path.exists():
        return
    try:
        with path.open("rb") as file:
            first = file.readline(10_000)
        values = json.loads(first) if first else {"op_code": 0}
    except (OSError, ValueError):
        values = None
    if not isinstance(values, dict) or "op_code" not in values:
        raise FileError(f"{path}: is not a journal of a study, so nothing is written there; use another --storage")
