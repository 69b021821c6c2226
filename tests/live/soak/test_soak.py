"""A short soak: what `make soak` claims of many clients for minutes holds for a few of them for seconds."""

from __future__ import annotations

import asyncio
import sys
from pathlib import Path

import pytest

from tests.live.soak.run import Soak, fake_server


@pytest.mark.slow
@pytest.mark.integration
@pytest.mark.skipif(sys.platform != "linux", reason="limits the files of another process, and looks into /proc")
def test_a_few_clients_lose_nothing_while_everything_goes_wrong(tmp_path: Path):
    soak = Soak(tmp_path, clients=20, seconds=10.0, seed=0)
    asyncio.run(soak.run(fake_server))
    assert not soak.failed, soak.table()
