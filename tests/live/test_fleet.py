"""Fleets of real servers: files, what is found, and what cannot be served."""

from __future__ import annotations

import asyncio
import re
from pathlib import Path

import pytest

from cace_env.config import ConfigError, parse, parse_yaml
from cace_env.kernel.state import ABSENT, MODEL, RESIDENT
from cace_env.live.decider import Decider
from cace_env.live.fleet import LiveFleet, found_now, resident_now
from cace_env.live.mirror import Mirror
from cace_env.policies import contestant_of
from cace_env.tables import NONE, Protocol
from experiments.live import main
from tests.live.serving import FakeBackend, fleet_of

PAGE = Path(__file__).resolve().parents[2] / "docs" / "live-router.md"


def test_the_fleet_of_the_page_can_be_served():
    (text,) = re.findall(r"```yaml\n(.*?)```", PAGE.read_text(encoding="utf-8"), flags=re.DOTALL)
    fleet = parse(LiveFleet, parse_yaml(text, "page"), "page")
    for protocol in Protocol:
        tables = fleet.tables(protocol)
        assert tables.protocol == protocol and tables.num_models == 5
        assert tables.memory_bytes.tolist() == [30_000_000] and tables.load_us[0, 0, 1] == 50_000


def test_what_is_loaded_is_resident_and_what_is_pinned_is_loaded():
    backend = FakeBackend({"A": 1.0, "b": 2.0}, 5.0, states={"b": "resident"})
    models = [{"name": "a", "server_name": "A", "need_gb": 1, "load_s": 1, "pinned_on": "gpu-0"}]
    models += [{"name": "b", "need_gb": 2, "load_s": 1}]
    fleet = fleet_of({}, [5.0], models=models)
    tables = asyncio.run(resident_now(fleet.tables(), [backend], fleet.server_names))
    assert tables.resident_on.tolist() == [NONE, 0] and backend.states == {"A": "resident", "b": "resident"}


def test_a_fleet_that_is_only_watched_is_found_as_it_is():
    models = [{"name": name, "need_gb": 2, "load_s": 1} for name in "abc"]
    models[0]["pinned_on"] = "gpu-0"
    backend = FakeBackend(dict.fromkeys("abc", 2.0), 5.0, states={"a": "resident", "b": "resident"})
    tables = asyncio.run(found_now(fleet_of({}, [5.0], models=models).tables(), [backend]))
    assert tables.resident_on.tolist() == [NONE, 0, NONE] and not backend.started
    mirror = Mirror(tables, Decider(contestant_of("lru"), tables).limits)
    assert mirror.state.models[:, MODEL.phase].tolist() == [RESIDENT, RESIDENT, ABSENT]
    backend.states["c"] = "resident"
    with pytest.raises(ConfigError):  # 6 GB of 5
        asyncio.run(found_now(fleet_of({}, [5.0], models=models).tables(), [backend]))


@pytest.mark.parametrize(
    ("needs", "said"),
    [
        ({"a": 1.0}, "has no model 'b'"),
        ({"a": 1.0, "b": 1.0, "c": 9.0}, None),
    ],
)
def test_every_server_has_every_model(needs: dict[str, float], said: str | None):
    tables = fleet_of({"a": 1.0, "b": 1.0}, [2.0]).tables()
    if said is None:
        asyncio.run(resident_now(tables, [FakeBackend(needs, 2.0)]))
        return
    with pytest.raises(ConfigError, match=said):
        asyncio.run(resident_now(tables, [FakeBackend(needs, 2.0)]))


def test_policies_that_cannot_decide_live_are_refused():
    tables = fleet_of({"a": 1.0, "b": 1.0, "c": 1.0}, [2.0]).tables()
    future = ("belady", "no-swapping", "static-best")
    for name in (*future, "planner:lru", "cace:demand=survival", "guarded:cace:demand=mean"):
        with pytest.raises(ConfigError, match=name):
            Decider(contestant_of(name), tables)


def test_the_command_says_what_it_lacks(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    assert main(["serve", "workstation"]) == 2
    assert "0 backends are given; give one for each" in capsys.readouterr().err
    assert main(["serve", "workstation", "--host", "0.0.0.0"]) == 2
    assert "--key-file" in capsys.readouterr().err
    fleet = tmp_path / "fleet.yaml"
    fleet.write_text(
        "accelerators: [{name: a, memory_gb: 1, backend: 'x:y'}]\nmodels: [{name: m, need_gb: 2, load_s: 1}]"
    )
    assert main(["serve", str(fleet)]) != 0
