"""The choice between threads of this machine and Ray."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from typing import Literal, NamedTuple

from cace_env.config import ConfigError
from cace_env.executor import Executor, Threads

Kind = Literal["local", "ray"]


class Execution(NamedTuple):
    """Which executor was asked for."""

    kind: Kind = "local"
    workers: int | None = None  # None: as many as there are cores
    address: str | None = None  # of a Ray cluster; None: that of RAY_ADDRESS, or one of this machine for this command
    extra: str = "ray"  # that has what is needed

    @contextlib.contextmanager
    def opened(self) -> Iterator[Executor]:
        """The executor, as long as it is needed.

        Raises:
            ConfigError: Ray is not installed, or there is no such cluster.
        """
        if self.kind == "local":
            yield Threads(self.workers or os.cpu_count() or 1)
            return
        try:
            from experiments.running.executors import on_ray
        except ImportError as error:
            raise ConfigError(f"this needs Ray: {error}; run: pip install 'cace-env[{self.extra}]'") from error
        with on_ray.connected(self.address, self.workers) as cluster:
            yield cluster
