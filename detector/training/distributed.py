"""The processes that train one network together. torchrun starts them; each computes its part of every batch.

All processes have the same network and the same data. What one of them must decide, such as the number of steps of a
run with a length in minutes, is decided by the first process, which is also the only one that writes files and logs.
"""

import logging
import os
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from typing import Any, TypeVar

import torch
import torch.distributed as dist
from torch import Tensor
from torch.distributed.distributed_c10d import PrefixStore
from torch.distributed.rendezvous import rendezvous

from detector.errors import ConfigError, PeerError, ProcessError
from detector.runtime.hardware import choose_device
from detector.training.heartbeat import Heartbeat, host_name

log = logging.getLogger(__name__)

T = TypeVar("T")

_VARIABLES = ("RANK", "WORLD_SIZE", "LOCAL_RANK", "MASTER_ADDR", "MASTER_PORT")
"""Environment variables that torchrun sets."""

_TIMEOUT = timedelta(days=1)
"""Timeout of the operations between processes. It must be longer than anything that a process does alone, such as
reading the data. Processes that ended, and machines that cannot be reached, are found by `Heartbeat`."""

_START_TIMEOUT = timedelta(minutes=5)
"""Largest time between the start of the first and of the last process."""


@dataclass(frozen=True)
class Place:
    """The place of a process among the processes of a run.

    Attributes:
        rank: number of the process, from 0.
        size: number of processes.
        local_rank: number of the process on its machine, from 0.
    """

    rank: int = 0
    size: int = 1
    local_rank: int = 0


class Processes:
    """The processes that train one network together. With one process, no function communicates or changes a value.

    All processes must call the same functions in the same order.

    Args:
        place: the place of this process.
        heartbeat: the watch over the other processes; None with one process.

    Attributes:
        rank: number of this process, from 0.
        size: number of processes.
        local_size: number of processes on this machine.
    """

    def __init__(self, place: Place | None = None, heartbeat: Heartbeat | None = None) -> None:
        place = place or Place()
        self.rank, self.size, self._local_rank = place.rank, place.size, place.local_rank
        self._heartbeat = heartbeat
        self.local_size = 1 if heartbeat is None else heartbeat.local_size

    @property
    def is_first(self) -> bool:
        """Whether this is the process that logs and writes files."""
        return self.rank == 0

    def device(self, name: str) -> torch.device:
        """Return the device of this process: the CPU, or with several processes one GPU for each process of a machine.

        Args:
            name: the setting `device`.

        Raises:
            ConfigError: the device is not available.
        """
        if self.size == 1:
            return choose_device(name)
        if name not in ("auto", "cpu", "cuda"):
            raise ConfigError(
                f"device: each of several processes uses its own GPU, or the CPU; expected cuda, cpu or auto, got "
                f"{name!r}"
            )
        if name == "cpu" or (name == "auto" and not torch.cuda.is_available()):
            return choose_device("cpu")
        count = torch.cuda.device_count()
        # A scheduler may show only its own GPU to each process.
        index = 0 if count == 1 and "CUDA_VISIBLE_DEVICES" in os.environ else self._local_rank
        if index >= count:
            raise ConfigError(
                f"{host_name()}: {self.local_size} processes, but only {count} GPUs that can be used; use "
                f"--nproc-per-node {max(count, 1)}, or --device cpu"
            )
        device = choose_device(f"cuda:{index}")
        torch.cuda.set_device(device)
        return device

    def part(self, count: int) -> slice:
        """Return the part of a batch of `count` images that belongs to this process; it may be empty."""
        return slice(count * self.rank // self.size, count * (self.rank + 1) // self.size)

    def share(self, count: int, block: int) -> list[int]:
        """Return the indices of this process among `count` items: every n-th block of items, with n processes.

        Args:
            count: number of items.
            block: number of items in a block.
        """
        return self._indices(self.rank, count, block)

    def join(self, values: Sequence[T], count: int, block: int) -> list[T]:
        """Return the values of all items in order, in the first process; an empty list in the others.

        Args:
            values: values of the items that `share` returned to this process.
            count: number of items.
            block: as for `share`.
        """
        parts = self.gather(values)
        found = {
            index: value
            for rank, part in enumerate(parts)
            for index, value in zip(self._indices(rank, count, block), part, strict=True)
        }
        return [found[index] for index in sorted(found)]

    def add(self, tensor: Tensor) -> Tensor:
        """Replace a contiguous tensor by its sum over all processes, bit-equal in all of them; return the tensor."""
        if self.size > 1:
            with self._peers():
                dist.all_reduce(tensor)
        return tensor

    def mean(self, values: Tensor) -> Tensor:
        """Return the mean, a scalar, of the values [N] of all processes; N may differ between them, and be 0."""
        sums = self.add(torch.stack([values.sum(), values.new_tensor(len(values))]))
        return sums[0] / sums[1]

    def any(self, flag: bool) -> bool:
        """Return whether a flag is True in any process."""
        return flag if self.size == 1 else bool(self.add(torch.tensor(float(flag))))

    def from_first(self, make: Callable[[], T]) -> T:
        """Return the result of a function that only the first process calls. It must be possible to pickle it."""
        if self.size == 1:
            return make()
        values: list[Any] = [make() if self.is_first else None]
        with self._peers():
            dist.broadcast_object_list(values, 0)
        result: T = values[0]
        return result

    def receive(self) -> Any:
        """Return the result of the function that the first process calls in `from_first`, in another process."""
        assert not self.is_first
        return self.from_first(lambda: None)

    def copy_first(self, tensors: Iterable[Tensor]) -> None:
        """Replace tensors by those of the first process."""
        if self.size > 1:
            with self._peers():
                for tensor in tensors:
                    values = tensor.contiguous()
                    dist.broadcast(values, 0)
                    tensor.copy_(values)

    def gather(self, value: T) -> list[T]:
        """Return the values of all processes in the first process; an empty list in the others."""
        if self.size == 1:
            return [value]
        values: list[Any] = [None] * self.size
        with self._peers():
            dist.gather_object(value, values if self.is_first else None)
        return values if self.is_first else []

    def check_same(self, values: Mapping[str, object], reason: str) -> None:
        """Check that values are the same in all processes.

        Args:
            values: name → value.
            reason: why they must be the same, and what to do, for the message.

        Raises:
            ConfigError: they are not the same. Only the first process raises it.
        """
        if self.size == 1:
            return
        (first_host, first), *others = self.gather((host_name(), dict(values))) or [("", {})]
        for rank, (host, own) in enumerate(others, 1):
            for name, value in first.items():
                if (other := own.get(name)) != value:
                    raise ConfigError(
                        f"{name}: {value!s:.80} in process 0 on {first_host}, but {other!s:.80} in process {rank} on "
                        f"{host}; {reason}"
                    )

    def agree_to_stop(self) -> None:
        """Say that all processes stop now, so that the end of one of them is not an error."""
        if self._heartbeat is not None:
            self._heartbeat.close()

    def __deepcopy__(self, memo: object) -> "Processes":
        return self

    def _indices(self, rank: int, count: int, block: int) -> list[int]:
        return [index for index in range(count) if index // block % self.size == rank]

    @contextmanager
    def _peers(self) -> Iterator[None]:
        """Context manager for operations between processes, in which the end of another process is a PeerError.

        Raises:
            PeerError: another process has ended.
            ProcessError: another process has ended, and this process is the one that reports it.
        """
        try:
            yield
        except RuntimeError as error:
            assert self._heartbeat is not None
            raise self._heartbeat.explain(error) from None


ALONE = Processes()
"""One process."""


@contextmanager
def joined_processes() -> Iterator[Processes]:
    """Context manager that joins the processes of a run that torchrun started; without torchrun, returns `ALONE`.

    In all processes but the first, the package logs only errors. An exception in one process ends all of them: the
    process with the first exception raises it, the others raise PeerError, or end at once if they are busy.

    Raises:
        ConfigError: the environment variables of torchrun are incomplete.
        ProcessError: not all processes started, or one ended.
        PeerError: another process has ended, and reports it.
    """
    place = place_of_process()
    if place.size == 1:
        yield ALONE
        return
    logger = logging.getLogger("detector")
    level = logger.level
    if place.rank:
        logger.setLevel(logging.ERROR)
    heartbeat = None
    try:
        heartbeat = _join(place)
        yield Processes(place, heartbeat)
    except BaseException as error:
        if heartbeat is None or heartbeat.is_closed or isinstance(error, PeerError) or heartbeat.report(error):
            raise
        raise PeerError("another process of this run has stopped; see its message") from None
    else:
        heartbeat.close()
        dist.destroy_process_group()
    finally:
        if heartbeat is not None:
            heartbeat.close()
        logger.setLevel(level)


def place_of_process() -> Place:
    """Return the place of this process from the environment variables of torchrun.

    Raises:
        ConfigError: there are several processes, but a variable is missing or wrong.
    """
    values = {name: os.environ.get(name, "") for name in _VARIABLES}
    if values["WORLD_SIZE"] in ("", "1"):
        return Place()
    missing = [name for name, value in values.items() if not value]
    numbers = [values[name] for name in ("RANK", "WORLD_SIZE", "LOCAL_RANK")]
    if missing or not all(number.isdigit() for number in numbers) or int(numbers[0]) >= int(numbers[1]):
        raise ConfigError(
            f"the environment variable WORLD_SIZE is {values['WORLD_SIZE']!r}, as for one of several processes, but "
            + (f"{missing[0]} is missing" if missing else f"RANK is {values['RANK']!r}")
            + "; start the processes with torchrun, or unset WORLD_SIZE"
        )
    rank, size, local_rank = map(int, numbers)
    return Place(rank, size, local_rank)


def _join(place: Place) -> Heartbeat:
    """Connect to the other processes, and return the watch over them.

    Raises:
        ProcessError: not all processes can be reached.
    """
    address = f"{os.environ['MASTER_ADDR']}:{os.environ['MASTER_PORT']}"
    try:
        store, _, _ = next(rendezvous("env://", timeout=_START_TIMEOUT))
        heartbeat = Heartbeat(
            PrefixStore("heartbeat", next(rendezvous("env://", timeout=_START_TIMEOUT))[0]),
            place.rank,
            place.size,
            os.environ["LOCAL_RANK"] == "0",
            _START_TIMEOUT,
        )
        # Tensors of a GPU are sent by NCCL, all others by gloo.
        backend = "cpu:gloo,cuda:nccl" if torch.cuda.is_available() and dist.is_nccl_available() else "gloo"
        dist.init_process_group(
            backend, store=PrefixStore("group", store), rank=place.rank, world_size=place.size, timeout=_TIMEOUT
        )
    except RuntimeError as error:
        raise ProcessError(
            f"process {place.rank} of {place.size} on {host_name()} cannot connect to the others at {address} "
            f"({str(error).splitlines()[0]:.200}); check the address, the port and the firewall"
        ) from None
    log.info(f"{place.size} processes, {heartbeat.local_size} of them on {host_name()}")
    return heartbeat
