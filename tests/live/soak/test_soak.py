"""A short soak: what `make soak` claims of many clients for minutes holds for a few of them for seconds."""

from __future__ import annotations

import asyncio
import json
import sys
from pathlib import Path

import pytest

from cace_env.decision_log import Candidate, Decision, DecisionLog
from tests.live.soak.router import ENDED
from tests.live.soak.run import Soak, fake_server


@pytest.mark.parametrize(("made", "holds"), [(2, True), (3, False), (1, False)])
def test_a_decision_that_is_missing_in_the_log_is_found(tmp_path: Path, made: int, holds: bool):
    with DecisionLog(tmp_path / "decisions") as log:
        for number in range(2):
            log.add(Decision(number, "mine", (Candidate("model-a", "gpu-0"),), 0, decision=number))
    (tmp_path / "router.log").touch()
    (tmp_path / ENDED).write_text(json.dumps({"made": made, "failed": 0, "lost": 0}))
    soak = Soak(tmp_path, clients=1, seconds=1.0, seed=0)
    soak.judge_log()
    assert (soak.failed == []) == holds


@pytest.mark.slow
@pytest.mark.integration
@pytest.mark.skipif(sys.platform != "linux", reason="limits the files of another process, and looks into /proc")
def test_a_few_clients_lose_nothing_while_everything_goes_wrong(tmp_path: Path):
    soak = Soak(tmp_path, clients=20, seconds=10.0, seed=0)
    asyncio.run(soak.run(fake_server))
    assert not soak.failed, soak.table()
