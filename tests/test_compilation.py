"""Compiled code is announced once, before the wait, whoever needs it first."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

GENERATE = "from cace_env.scenarios import load_scenario; load_scenario('workstation').workload(1)"
EVALUATE = "import cace_env; cace_env.evaluate('lru', 'workstation', [1])"
NOBODY_ELSE = """
import numba
numba.njit(lambda x: x + 1)(1)
"""


def said(code: str, cache: Path) -> list[str]:
    """Lines on stderr of a fresh process with compiled code in `cache`."""
    environment = os.environ | {"CACE_ENV_CACHE_DIR": str(cache), "NUMBA_DISABLE_JIT": "0"}
    done = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=True)
    return done.stderr.splitlines()


@pytest.mark.slow
@pytest.mark.integration
def test_the_first_compilation_of_generator_and_simulator_is_announced_in_one_line(tmp_path: Path) -> None:
    (line,) = said(EVALUATE, tmp_path)
    assert line.startswith("compiling the simulator") and str(tmp_path) in line
    assert said(EVALUATE, tmp_path) == []


@pytest.mark.slow
@pytest.mark.integration
def test_a_simulator_that_is_compiled_after_the_generator_is_announced_by_its_own_process(tmp_path: Path) -> None:
    assert len(said(GENERATE, tmp_path)) == 1
    assert len(said(EVALUATE, tmp_path)) == 1


@pytest.mark.integration
def test_what_other_packages_compile_is_not_announced(tmp_path: Path) -> None:
    assert said("import cace_env.compilation" + NOBODY_ELSE, tmp_path) == []
