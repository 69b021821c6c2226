"""The load knob: more users keep the swap channels busier, and the search finds how many are needed."""

from __future__ import annotations

import io

import pytest
from rich.console import Console

from cace_env.config import ConfigError
from cace_env.scenarios import load_scenario
from experiments.calibrate_load import Options, busy_share, search

SILENT = Console(file=io.StringIO())


def test_the_search_ends_at_the_share_that_was_asked_for() -> None:
    scenario = load_scenario("workstation")
    options = Options(scenario="workstation", busy=0.2, seeds=2)
    users, share = search(scenario, options, SILENT)
    assert share == busy_share(scenario, users, 2)
    assert share == pytest.approx(0.2, abs=0.05)
    assert busy_share(scenario, users // 2, 2) < share


def test_a_share_out_of_reach_is_refused_with_what_can_be_reached() -> None:
    with pytest.raises(ConfigError, match="raise --most-users or pressure"):
        search(load_scenario("workstation"), Options(scenario="workstation", busy=0.95, seeds=1, most_users=8), SILENT)
    with pytest.raises(ConfigError, match="above 0 and below 1"):
        search(load_scenario("workstation"), Options(scenario="workstation", busy=1.5), SILENT)


def test_a_log_has_no_users_to_search_for() -> None:
    scenario = load_scenario("workstation").replace(trace={"path": "log.csv", "format": "azure"})
    with pytest.raises(ConfigError, match="set time_compression"):
        search(scenario, Options(scenario="workstation"), SILENT)
