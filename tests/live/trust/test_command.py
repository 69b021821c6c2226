"""`live shadow` on a log of a gateway, as a user runs it."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from cace_env.decision_log import read_decisions
from experiments.live import main
from tests.support.own_logs import HEADER

FLEET = """
accelerators:
  - {name: gpu, memory_gb: 40, backend: none}
models:
  - {name: a, need_gb: 15, load_s: 5}
  - {name: b, need_gb: 15, load_s: 5}
  - {name: c, need_gb: 8, load_s: 3}
  - {name: d, need_gb: 20, load_s: 8}
"""


@pytest.fixture
def files(tmp_path: Path) -> tuple[str, str]:
    rng = np.random.default_rng(0)
    times = 1_760_000_000 + np.cumsum(rng.exponential(20.0, 400))
    rows = [f"{t:.3f},100,20,{m},chat,u,0.5,2.0" for t, m in zip(times, rng.choice(list("abcd"), 400), strict=True)]
    (tmp_path / "log.csv").write_text("\n".join([HEADER, *rows, ""]))
    (tmp_path / "fleet.yaml").write_text(FLEET)
    return str(tmp_path / "fleet.yaml"), str(tmp_path / "log.csv")


def test_a_log_is_replayed_and_the_answer_is_said(
    files: tuple[str, str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    fleet, log = files
    decisions = tmp_path / "decisions"
    assert main(["shadow", fleet, "--log-file", log, "--policy", "gdsf", "--decision-log", str(decisions)]) == 0
    said = capsys.readouterr().out
    assert "400 requests" in said and "gdsf would have evicted the same model in" in said and "would have left" in said
    asked = read_decisions(decisions, kinds=["evict"])
    assert asked and all(one.done >= 0 and one.policy == "gdsf" for one in asked)
    assert main(["shadow", fleet, "--log-file", log, "--policy", "lfu", "--decision-log", str(decisions)]) == 2
    assert "holds the decisions of another run; name a new folder" in capsys.readouterr().err
    assert read_decisions(decisions, kinds=["evict"]) == asked


def test_who_passes_on_for_the_world_is_told_that_no_key_guards_the_server(
    files: tuple[str, str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    key = tmp_path / "key"
    key.write_text("correct horse")
    shadow = ["serve", files[0], "--shadow", "http://127.0.0.1:1", "--host", "0.0.0.0", "--key-file", str(key)]
    assert main([*shadow, "--policy", "belady"]) == 2  # which ends it before it serves
    said = capsys.readouterr().out.replace("\n", " ")
    assert "Whoever reaches 0.0.0.0 reaches http://127.0.0.1:1" in said
    assert "http://127.0.0.1:1 does not answer" in said and "is it the address?" in said


def test_what_shadow_mode_cannot_do_is_said(files: tuple[str, str], capsys: pytest.CaptureFixture[str]):
    fleet, log = files
    for arguments, problem in (
        (["serve", fleet, "--shadow", "http://127.0.0.1:1", "--share", "0.5"], "only watches"),
        (["serve", fleet, "--shadow", "nowhere"], "address of a server"),
        (["serve", fleet, "--shadow", "http://127.0.0.1:1/v1/"], "leave /v1 out"),
        (["serve", fleet, "--share", "0.33"], "0.05"),
        (["serve", fleet, "--shadow", "http://127.0.0.1:1", "--decide-ms", "5", "--load-s", "9"], "--load-s out"),
        (["serve", fleet, "--deployed", "ollama"], "--shadow"),
        (["shadow", fleet, "--log-file", log, "--deployed", "lruu"], "lru"),
        (["shadow", fleet, "--log-file", log + "x", "--follow"], "log.csvx"),
        (["shadow", fleet, "--log-file", log, "--policy", "belady"], "future"),
    ):
        assert main(arguments) == 2
        assert problem in capsys.readouterr().err
