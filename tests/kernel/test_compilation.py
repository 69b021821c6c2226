"""The simulator is compiled part by part: said before the wait, kept as soon as it is done, or all at once."""

from __future__ import annotations

import io
import logging
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from numba.core import config as numba_config

from cace_env import compilation
from cace_env import compile as command

GENERATE = "from cace_env.scenarios import load_scenario; load_scenario('workstation').workload(1)"
EVALUATE = "import cace_env; cace_env.evaluate('lru', 'workstation', [1])"
NOBODY_ELSE = """
import numba
numba.njit(lambda x: x + 1)(1)
"""
# The cheapest part by far: less than a second.
READ_COST = """
from cace_env.scenarios import load_scenario
from cace_env.simulation import Simulator
from cace_env.workload import Workload

simulator = Simulator(load_scenario("workstation").tables())
simulator.load(Workload.from_columns(model=[0], task=[0], arrival_us=[0], context_tokens=[1], output_tokens=[1]))
simulator.cost()
"""
# All that the package can do, after `compile_all`: parts with other types than they were compiled for.
USE_EVERYTHING = """
import numpy as np

from cace_env import compilation, compile as command
from cace_env.envs import Actor
from cace_env.policies import Future
from cace_env.envs import EvictionEnv, SwapEnv
from cace_env.cases import case_of
from cace_env.evaluation import evaluate
from cace_env.planning import exact_optimum, merged_optimum
from cace_env.planning import find_reference
from cace_env.policies import policy
from cace_env.policies import rule_of
from cace_env.planning import Rollouts
from cace_env.scenarios import load_scenario
from cace_env.simulation import Simulator, run_rule
from cace_env.envs import EvictionVectorEnv, SwapVectorEnv
import importlib


def signatures():
    found = {}
    for part in compilation.PARTS:
        module, _, function = part.rpartition(".")
        found[part] = list(getattr(importlib.import_module(module), function).signatures)
    return found


command.compile_all()
before = signatures()
names = ["lru", "belady-cost", "random", "ttl", "cace", "static-best", "agent:eviction", "guarded:cace", "no-swapping"]
for name in names:
    evaluate(name, command.TINY, [1])
for name in ["wsjf+cace", "agent:swap", "patient-fifo+lru", "guarded:agent:swap"]:
    evaluate(name, command.TINY, [1], protocol="swap")
evaluate("lru", load_scenario(command.TINY), [1, 2, 3], workers=2)
for single, batch in ((EvictionEnv, EvictionVectorEnv), (SwapEnv, SwapVectorEnv)):
    env = single(command.TINY, render_mode="rgb_array", num_workloads=2)
    _, info = env.reset(seed=1)
    actor = Actor("gdsf", env)
    actor.reset(1)
    state = env.get_state()
    env.step(actor.act())
    env.set_state(state)
    env.step(actor.act())
    env.render_mode = None
    single(command.TINY, baseline="lru").reset(seed=1)
    many = batch(4, [command.TINY, "workstation"], threads=2, baseline="cace")
    _, infos = many.reset(seed=1)
    for _ in range(3):
        _, _, _, _, infos = many.step(infos["action_mask"].argmax(axis=1))
    many.close()
    case = case_of(command.TINY, single.PROTOCOL)
    workload = case.workload(1)
    find_reference(case, workload, Future.of(case.tables, workload), 1, max_replays=50, threads=2)
    simulator = Simulator(case.tables, trace=True)
    simulator.reset(workload)
    for name in ("lru", f"agent:{single.PROTOCOL}"):
        Rollouts(simulator).costs(rule_of(policy(name), case.tables), (10.0, np.inf))
    exact_optimum(case.tables, workload, max_nodes=10)
    merged_optimum(case.tables, workload, max_nodes=10)
    run_rule(case.tables, workload, rule_of(policy("lru"), case.tables), trace=True)
after = signatures()
print([part for part in after if after[part] != before[part] or len(after[part]) != 1])
"""


def run(code: str, **variables: str) -> subprocess.CompletedProcess[str]:
    """A fresh process, which may compile."""
    environment = os.environ | {"NUMBA_DISABLE_JIT": "0"} | variables
    return subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=True)


def said(code: str, cache: Path) -> list[str]:
    """Lines on stderr of a fresh process with compiled code in `cache`."""
    return run(code, CACE_ENV_CACHE_DIR=str(cache)).stderr.splitlines()


def event(part: str) -> Any:
    """What Numba tells of a function that it compiles."""
    module, _, name = part.rpartition(".")
    function = SimpleNamespace(__module__=module, __qualname__=name)
    return SimpleNamespace(data={"dispatcher": SimpleNamespace(py_func=function)})


# Who drives real servers compiles it then: the command says so, and others need not wait for it.
LIVE = {"cace_env.live.events.happen"}


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


# ---------------------------------------------------------------------------------------------------------------------
# What is said


def test_the_parts_are_the_compiled_functions_of_the_package_and_each_says_what_it_is_for() -> None:
    found, decorators = set(), 0
    for path in compilation.PACKAGE.rglob("*.py"):
        text = path.read_text("utf-8")
        module = ".".join(["cace_env", *path.relative_to(compilation.PACKAGE).with_suffix("").parts])
        names = re.findall(r"^@(?:compiled|linked\(.*\))\ndef (\w+)", text, re.MULTILINE)
        found |= {f"{module}.{name}" for name in names}
        decorators += len(re.findall(r"^ *@(?:compiled|linked)\b", text, re.MULTILINE))
    assert found - LIVE == set(compilation.PARTS)
    assert decorators == len(found)  # none stands where this test would not see it
    assert all(compilation.PARTS.values())


def test_an_announcement_says_which_part_of_how_many_where_it_is_kept_and_what_comes_later(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    first, second, *_ = compilation.PARTS
    done: list[str] = []
    monkeypatch.setattr(compilation, "kept", lambda: done)
    announcement = compilation.Announcement()
    announcement.on_start(event(first))
    done.append(first)
    announcement.on_start(event("another.package.function"))
    announcement.on_start(event(second))
    one, two = caplog.messages
    assert f"part 1 of {len(compilation.PARTS)}, requests of scenarios (generate_rows)" in one
    assert str(compilation.CACHE_DIR) in one and "python -m cace_env.compile" in one
    assert two == f"compiling part 2 of {len(compilation.PARTS)}, requests as the simulator reads them (link_followers)"


@pytest.mark.slow
@pytest.mark.integration
def test_what_is_compiled_is_announced_and_kept_part_by_part(tmp_path: Path) -> None:
    total = len(compilation.PARTS)
    (first,) = said(GENERATE, tmp_path)
    assert first.startswith(f"compiling the simulator, once per version: part 1 of {total}, requests of scenarios")
    assert str(tmp_path) in first
    second, *others = said(EVALUATE, tmp_path)  # the requests are there already
    assert second.startswith(f"compiling the simulator, once per version: part 2 of {total}, ")
    assert [line.split(" of ")[0] for line in others] == [f"compiling part {n}" for n in range(3, len(others) + 3)]
    pieces = ("write_observation", "decide", "advance", "run_episode", "summarize", "read_cost", "link_followers")
    pieces += ("number_pairs", "sum_up")
    assert sorted(re.search(r"\((\w+)\)", line)[1] for line in [second, *others]) == sorted(pieces)  # type: ignore[index]
    assert said(EVALUATE, tmp_path) == []


@pytest.mark.integration
def test_what_other_packages_compile_is_not_announced(tmp_path: Path) -> None:
    assert said("import cace_env.compilation" + NOBODY_ELSE, tmp_path) == []


# ---------------------------------------------------------------------------------------------------------------------
# What is kept


def test_whatever_compiled_functions_import_from_the_package_is_hashed() -> None:
    for path in compilation.PACKAGE.rglob("*.py"):
        if path == compilation.PACKAGE / "live" / "events.py":
            continue  # no other function is made of it, and Numba itself sees when its file changes
        text = path.read_text("utf-8")
        if not re.search(r"^@(compiled|linked|inner|inlined|outlined)\b", text, re.MULTILINE):
            continue
        own = ".".join(["cace_env", *path.relative_to(compilation.PACKAGE).with_suffix("").parts])
        for name in [own, *re.findall(r"^from (cace_env[.\w]*) import", text, re.MULTILINE)]:
            parts = name.split(".")[1:] or ["tables"]  # `from cace_env import tables`
            places = {"/".join(parts[:depth]) + end for depth in range(1, len(parts) + 1) for end in ("", ".py")}
            assert places & set(compilation.SOURCES), f"{path.name} imports {name}"


@pytest.mark.integration
def test_an_installation_finds_what_another_one_of_the_same_version_has_compiled(tmp_path: Path) -> None:
    notices = []
    for place in ("one", "other"):
        shutil.copytree(
            compilation.PACKAGE, tmp_path / place / "cace_env", ignore=shutil.ignore_patterns("__pycache__")
        )
        done = run(READ_COST, CACE_ENV_CACHE_DIR=str(tmp_path / "kept"), PYTHONPATH=str(tmp_path / place))
        notices.append(done.stderr.count("compiling"))
    assert notices == [3, 0]  # two parts lay the requests out


# ---------------------------------------------------------------------------------------------------------------------
# All at once


@pytest.mark.integration
@pytest.mark.slow
def test_after_the_command_nothing_that_the_package_does_is_compiled_any_more() -> None:
    assert run(USE_EVERYTHING).stdout.splitlines()[-1] == "[]"


@pytest.mark.skipif(bool(numba_config.DISABLE_JIT), reason="nothing is compiled")
def test_the_command_does_nothing_twice_and_leaves_the_announcements_as_they_were(
    capsys: pytest.CaptureFixture[str],
) -> None:
    level = logging.getLogger(compilation.__name__).level
    assert command.main([]) == 0
    capsys.readouterr()
    assert command.main([]) == 0
    total = len(compilation.PARTS)
    first, last = capsys.readouterr().out.splitlines()
    assert first == f"{total} of {total} parts are in {compilation.CACHE_DIR}"
    assert last.startswith("nothing to do")
    assert logging.getLogger(compilation.__name__).level == level


def test_the_command_says_how_far_it_is_and_what_an_interruption_keeps(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def interrupted() -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(numba_config, "DISABLE_JIT", 0)
    monkeypatch.setattr(compilation, "kept", lambda: list(compilation.PARTS)[:5])
    monkeypatch.setattr(command, "compile_all", interrupted)
    assert command.main([]) == 130
    assert f"interrupted; 5 of {len(compilation.PARTS)} parts are kept" in capsys.readouterr().out


def test_the_command_refuses_where_nothing_is_ever_compiled(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(numba_config, "DISABLE_JIT", 1)
    assert command.main([]) == 1
    assert "NUMBA_DISABLE_JIT is set" in capsys.readouterr().err


def test_progress_is_a_line_per_part_and_on_a_terminal_one_that_changes(monkeypatch: pytest.MonkeyPatch) -> None:
    part, total = "cace_env.kernel.run.step", len(compilation.PARTS)
    monkeypatch.setattr(compilation, "kept", lambda: list(compilation.PARTS)[:2])
    for out in (io.StringIO(), Terminal()):
        progress = command.Progress(out)
        for told in (event("another.package.function"), event(part)):
            progress.on_start(told)
            progress.on_end(told)
        lines = out.getvalue().splitlines() if not out.isatty() else re.split(r"[\r\n]+", out.getvalue().strip())
        assert f" 3 of {total}  step" in lines[-1] and lines[-1].rstrip().endswith("s")
        assert len(lines) == (2 if out.isatty() else 1)
    assert f" 2 of {total}  step" in lines[0] and lines[0].endswith("...")


def test_a_part_that_was_interrupted_is_not_shown_as_done() -> None:
    out = io.StringIO()
    progress = command.Progress(out)
    progress.on_start(event("cace_env.kernel.run.step"))
    try:
        raise KeyboardInterrupt
    except KeyboardInterrupt:
        progress.on_end(event("cace_env.kernel.run.step"))
    assert out.getvalue() == ""
