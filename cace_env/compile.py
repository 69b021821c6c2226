"""Compiles the whole simulator at once: `python -m cace_env.compile`.

It is not needed: each part is compiled when it is first used, and kept. But before an image is built or times are
measured, the wait is better behind: half a minute of one quiet core, or more. What is there already is not compiled
again, so an interrupted run goes on where it was.
"""

from __future__ import annotations

import argparse
import importlib
import importlib.util
import logging
import sys
import time
from collections.abc import Callable, Sequence
from typing import Any, Final, TextIO

import numpy as np
from numba.core import config as numba_config
from numba.core import event as numba_event

from cace_env import compilation
from cace_env.cases import Case, case_of
from cace_env.envs import EvictionEnv, EvictionVectorEnv
from cace_env.evaluation import evaluate
from cace_env.planning import Rollouts, exact_optimum, find_reference, merged_optimum
from cace_env.policies import Future, contestant_of, policy
from cace_env.policies.built_in import rule_of
from cace_env.scenarios import load_scenario
from cace_env.simulation import Simulator

SEED: Final = 0
REAL_SERVERS: Final = "cace_env.live.events.happen"  # not counted: it belongs to an extra
# A small fleet under pressure, so that every question is asked within a few requests.
TINY: Final[dict[str, Any]] = {
    "name": "compiling",
    "fleet": [{"gpu": "l40s", "count": 1}],
    "pressure": 2.0,
    "catalogue": ["qwen2.5-coder-1.5b", "mellum-4b", "starcoder2-7b", "qwen2.5-coder-7b", "deepseek-coder-6.7b"],
    "workload": {
        "requests": 300,  # more than a piece of the past of a state
        "users": 4,
        "shares": {"completion": 0.7, "chat": 0.3, "reasoning": 0.0, "agent": 0.0},
    },
}


def _scorer(features: Any, legal: Any) -> Any:
    """A policy in Python that scores slots."""
    del features
    return np.zeros(len(legal))


class _Orderer:
    """One that scores models, too."""

    def __call__(self, features: Any, legal: Any) -> Any:
        return _scorer(features, legal)

    def order(self, features: Any, legal: Any) -> Any:
        return _scorer(features, legal)


class _Actor:
    """One that acts."""

    def act(self, observation: Any, action_mask: Any) -> int:
        del observation
        return int(np.flatnonzero(action_mask)[0])


def _requests(case: Case) -> None:
    case.workload(SEED)


def _whole_episodes(case: Case) -> None:
    evaluate("lru", case, [SEED])


def _environments(case: Case) -> None:
    del case
    env = EvictionEnv(TINY)
    _, info = env.reset(seed=SEED)
    env.step(int(info["action_mask"].argmax()))
    EvictionEnv(TINY, top_k=2).reset(seed=SEED)
    batch = EvictionVectorEnv(2, TINY, threads=2)
    batch.reset(seed=SEED)
    batch.reset(seed=[SEED, SEED], options={"reset_mask": np.array([True, False])})
    batch.close()


def _states(case: Case) -> None:
    simulator = Simulator(case.tables)
    simulator.run(case.workload(SEED), rule_of(policy("lru"), case.tables))
    simulator.restore(simulator.snapshot())


def _python_policies(case: Case) -> None:
    evaluate(_scorer, case, [SEED], protocol="swap")
    evaluate(_Orderer(), case, [SEED], protocol="swap")
    evaluate(_Actor(), case, [SEED])


def _reference(case: Case) -> None:
    workload = case.workload(SEED)
    find_reference(case, workload, Future.of(case.tables, workload), SEED, bases=["lru"], max_replays=1)


def _costs_of_actions(case: Case) -> None:
    simulator = Simulator(case.tables)
    simulator.reset(case.workload(SEED))
    Rollouts(simulator).costs(rule_of(policy("lru"), case.tables))


def _planners(case: Case) -> None:
    evaluate("planner:lru@futures=2", case, [SEED])


def _real_servers(case: Case) -> None:
    """What `cace_env.live` needs, where that extra is installed; by name, because nothing here depends on it."""
    if importlib.util.find_spec("aiohttp") is not None:
        decider = importlib.import_module("cace_env.live.decider")
        decider.Decider(contestant_of("lru"), case.tables)


def _optima(case: Case) -> None:
    exact_optimum(case.tables, case.workload(SEED), max_nodes=1)
    merged_optimum(case.tables, case.workload(SEED), max_nodes=1)


# Each compiles some parts, by calling them as other code does.
USES: Final[tuple[Callable[[Case], None], ...]] = (
    _requests,
    _whole_episodes,
    _environments,
    _states,
    _python_policies,
    _reference,
    _costs_of_actions,
    _optima,
    _planners,
    _real_servers,
)


class Progress(numba_event.Listener):  # type: ignore[misc]  # mypy skips numba
    """Which part is being compiled and how long each took: a line that changes on a terminal, else a line per part."""

    def __init__(self, out: TextIO) -> None:
        self._out = out
        self._began: dict[str, float] = {}
        self.made = 0  # parts that were compiled

    def on_start(self, event: numba_event.Event) -> None:
        part = _part_of(event)
        if part is None:
            return
        self._began[part] = time.perf_counter()
        if self._out.isatty():
            self._write(f"\r{self._line(part, len(compilation.kept()))} ...")

    def on_end(self, event: numba_event.Event) -> None:
        part = _part_of(event)
        if part is None:
            return
        began = self._began.pop(part)
        if sys.exc_info()[0] is not None:  # interrupted
            return
        self.made += 1
        # Numba keeps the code after this event.
        done = len({*compilation.kept(), part} - {REAL_SERVERS})
        took = f"{self._line(part, done)}  {time.perf_counter() - began:5.1f} s"
        self._write(f"\r{took:<100}\n" if self._out.isatty() else f"{took}\n")

    def _line(self, part: str, done: int) -> str:
        total, about = len(compilation.PARTS), compilation.PARTS.get(part, "real model servers")
        bar = "#" * round(20 * done / total)
        return f"[{bar:<20}] {done:2} of {total}  {part.rpartition('.')[2]:<16}  {about:<39}"

    def _write(self, text: str) -> None:
        self._out.write(text)
        self._out.flush()


def _part_of(event: numba_event.Event) -> str | None:
    function = event.data["dispatcher"].py_func
    name = f"{function.__module__}.{function.__qualname__}"
    return name if name == REAL_SERVERS else compilation.part_of(event)


def compile_all() -> None:
    """Calls every part of the simulator once, with the types that the package uses: what is missing is compiled."""
    case = case_of(load_scenario(TINY))
    for use in USES:
        use(case)


def main(arguments: Sequence[str] | None = None) -> int:
    """The command line; returns the exit status."""
    parser = argparse.ArgumentParser(
        prog="python -m cace_env.compile",
        description="Compile the whole simulator now, half a minute of one quiet core, or more, and not part by part "
        "when each is first needed.",
    )
    parser.parse_args(arguments)
    if numba_config.DISABLE_JIT:
        sys.stderr.write("error: NUMBA_DISABLE_JIT is set, so nothing is ever compiled; unset it\n")
        return 1
    before, total = len(compilation.kept()), len(compilation.PARTS)
    sys.stdout.write(f"{before} of {total} parts are in {compilation.CACHE_DIR}\n")
    announcer = logging.getLogger(compilation.__name__)
    level, began = announcer.level, time.perf_counter()
    announcer.setLevel(logging.ERROR)  # what it would say is shown here
    try:
        with numba_event.install_listener("numba:compile", progress := Progress(sys.stdout)):
            compile_all()
    except KeyboardInterrupt:
        sys.stdout.write(
            f"\ninterrupted; {len(compilation.kept())} of {total} parts are kept, and the next run goes on\n"
        )
        return 130
    finally:
        announcer.setLevel(level)
    missing = [part for part in compilation.PARTS if part not in compilation.kept()]
    if missing:
        sys.stderr.write(f"error: nothing was kept of {', '.join(missing)}; can {compilation.CACHE_DIR} be written?\n")
        return 1
    took = f"{time.perf_counter() - began:.0f} s"
    sys.stdout.write(f"all {total} parts are ready ({took})\n" if progress.made else f"nothing to do ({took})\n")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
