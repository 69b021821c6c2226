"""Tasks on a Ray cluster: one that is there, or one of this machine that lasts as long as the command.

Ray places tasks, moves what they need, and tries them again where a process or a machine is lost. Nothing of that is
done here.
"""

from __future__ import annotations

import contextlib
import logging
import os
import signal
import socket
import threading
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import as_completed
from functools import lru_cache
from typing import Any, Final, NamedTuple, TypeVar, cast

import numba
import numpy as np
import ray
from ray import cloudpickle
from ray.exceptions import RayError, RayTaskError

from cace_env.config import ConfigError
from cace_env.executor import Finished, TaskLostError
from experiments.running.reference_cache import code_digest

RETRIES: Final = 3  # of a task whose process or machine was lost
PACKAGES: Final = ("cace_env", "agents", "experiments")  # whose code tasks run
HELD: Final = 8  # shared values that a process keeps from one task to the next
CONNECT_S: Final = 10.0
LOOPBACK: Final = "127.0.0.1"
Result = TypeVar("Result")
T = TypeVar("T")


class Shared(NamedTuple):
    """Stands for a value in the object store."""

    packed: Any  # ray.ObjectRef of bytes


class Cluster:
    """A cluster that this process is connected to."""

    apart = True

    def __init__(self) -> None:
        self.cores = int(ray.cluster_resources().get("CPU", 0))
        self._versions = versions()

    def share(self, value: T) -> T:
        """Puts a value into the object store.

        As bytes: arrays that Ray unpacks are read-only, and Numba would compile everything once more for those.
        """
        return cast(T, Shared(ray.put(cloudpickle.dumps(value))))

    def run(self, work: Callable[..., Result], tasks: Iterable[tuple[Any, ...]]) -> Finished[Result]:
        """See `Executor.run`; the processes of tasks that run when the caller leaves are ended."""
        begun: dict[Any, tuple[int, Any]] = {}
        try:
            for number, arguments in enumerate(tasks):
                told = _task.remote(self._versions, work, arguments)
                begun[told.future()] = number, told
            for one in as_completed(list(begun)):
                number, _ = begun.pop(one)
                yield number, one.result()
        except RayTaskError as error:  # raised by the task itself
            raise error.cause from error
        except RayError as error:
            raise TaskLostError(f"Ray lost a task {1 + RETRIES} times: {str(error).splitlines()[0]}") from error
        finally:
            for _, told in begun.values():
                ray.cancel(told, force=True)


@ray.remote(max_retries=RETRIES)
def _task(wanted: tuple[str, ...], work: Callable[..., Any], arguments: tuple[Any, ...]) -> Any:
    """A task, where it runs."""
    if versions() != wanted:
        raise ConfigError(
            f"node {ray.util.get_node_ip_address()} has another cace-env, NumPy or Numba than this machine, so its "
            "results might differ; install the same there"
        )
    return work(*(_held(each.packed) if isinstance(each, Shared) else each for each in arguments))


@lru_cache(maxsize=HELD)
def _held(packed: Any) -> Any:
    """A shared value, unpacked once per process."""
    return cloudpickle.loads(ray.get(packed))


@lru_cache
def versions() -> tuple[str, ...]:
    """What results depend on."""
    return *map(code_digest, PACKAGES), np.__version__, numba.__version__


@contextlib.contextmanager
def connected(address: str | None, workers: int | None) -> Iterator[Cluster]:
    """Connects this process to a cluster, or starts one of this machine, and leaves or ends it.

    Args:
        address: of a cluster that this machine is part of, or "auto"; None: that of RAY_ADDRESS, or one of its own.
        workers: cores of a cluster of its own; None: all that the machine has.

    Raises:
        ConfigError: there is no such cluster.
    """
    address = address or os.environ.get("RAY_ADDRESS") or "local"
    if address.startswith("ray://"):
        raise ConfigError(
            f"--ray-address {address}: Ray Client is not supported; start the command on a machine of the cluster, by "
            "hand or by `ray job submit`"
        )
    quiet: dict[str, Any] = {"logging_level": logging.ERROR, "log_to_driver": False}
    if address == "local":
        os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
        quiet |= {"num_cpus": workers, "include_dashboard": False, "_node_ip_address": LOOPBACK}
    elif workers is not None:
        raise ConfigError("--workers is for a cluster of this command; the one at --ray-address has the cores it has")
    elif address != "auto":
        _check_there(address)
    try:
        with _handlers_kept():
            ray.init(address=address, **quiet)
    except (ConnectionError, RuntimeError, ValueError) as error:
        raise ConfigError(f"no Ray cluster at {address}: {str(error).splitlines()[0]}") from error
    try:
        yield Cluster()
    finally:
        ray.shutdown()


def _check_there(address: str) -> None:
    """Refuses an address where nobody listens; Ray would wait for minutes."""
    host, _, port = address.rpartition(":")
    try:
        socket.create_connection((host, int(port)), CONNECT_S).close()
    except (OSError, ValueError, OverflowError) as error:
        raise ConfigError(f"no Ray cluster at {address}: {error}; give HOST:PORT of one that runs, or auto") from error


@contextlib.contextmanager
def _handlers_kept() -> Iterator[None]:
    """Ray's beginning takes SIGTERM for itself, which ends commands as Ctrl-C does."""
    before = signal.getsignal(signal.SIGTERM)
    try:
        yield
    finally:
        if threading.current_thread() is threading.main_thread():
            signal.signal(signal.SIGTERM, before)
