"""Whatever a file of configuration says: it is read, or refused with a line that its user can mend."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from agents.algorithms import read_config
from cace_env.config import dump, parse, parse_yaml, read_yaml
from cace_env.evaluation import load_suite
from cace_env.evaluation.results import read_results
from cace_env.evaluation.suite import Suite
from cace_env.policies.cace import Cace, load_cace
from cace_env.policies.contestants import contestant_of
from cace_env.policies.quoted import load_quoted
from cace_env.scenarios import Scenario, load_scenario
from cace_env.traces import TraceConfig
from cace_env.traces.config import FORMAT_NAMES
from tests.fuzz.mutations import SAID, TEXTS, as_yaml, fuzzed, mutated, mutated_text
from tests.support.small import SMALL

LOG: dict[str, Any] = {
    "path": "log.csv", "format": "azure", "attach": "real", "mapping": {"a": "b"}, "tasks": {"chat": 1.0}, "users": 3,
    "zipf_exponent": 0.9, "stickiness": 0.5, "time_compression": 2.0, "sort": True, "skip": 1, "limit": 5, "seed": 1,
}  # fmt: skip
FULL = {**yaml.safe_load(dump(load_scenario(SMALL))), "trace": None}
TRACED = {**SMALL, "trace": LOG}
SUITE: dict[str, Any] = {
    "version": "mine-1", "description": "mine",
    "entries": [{"id": "one", "env": "eviction", "scenario": {"base": "tiny", "pressure": 2.0}, "question": "why?"}],
    "memory_sweeps": [
        {"id": "sweep", "env": "swap", "scenario": "tiny", "fractions": [0.5, 1.0], "question": "how much?"}
    ],
    "dropped": [{"scenario": "tiny", "env": "swap", "why": "it is tiny"}],
}  # fmt: skip
CACE = yaml.safe_load(dump(load_cace("cace")))
TRAINING: dict[str, Any] = {
    "algorithm": "linear", "env": "eviction", "train_on": ["tiny"], "seed": 1, "without": ["running"], "population": 8
}  # fmt: skip
RESULTS = """# suite: v1
# policy: mine
# description: what it does
# clairvoyant: false
# trained_on: nothing
# simulated_requests: 0
# code: here
# cace_env: 0.3.0
# fingerprints: {eviction-default: 0123456789abcdef}
entry,policy,seed,cost,ttft_mean_s,e2e_mean_s,longest_wait_s,evictions
eviction-default,lru,2000000,5480.1234,1.0,2.0,3.0,4
eviction-default,mine,2000000,5480.1234,1.0,2.0,3.0,4
"""


def said_or_done(work: Callable[[], Any]) -> None:
    """It works, or says what its user can mend, in few lines."""
    try:
        work()
    except SAID as error:
        assert 0 < len(str(error)) < 40_000


@pytest.mark.parametrize("content", [SMALL, FULL, TRACED], ids=["small", "full", "traced"])
@given(data=st.data())
@fuzzed
def test_a_scenario_is_read_or_refused(content: dict[str, Any], data: st.DataObject) -> None:
    changed = data.draw(mutated(content))

    def load() -> None:
        scenario = load_scenario(changed if isinstance(changed, dict) else {"scenario": changed})
        assert parse(Scenario, parse_yaml(dump(scenario), "dumped"), "dumped") == scenario
        if scenario.workload_config.requests <= 1000 and scenario.trace is None:
            scenario.workload(0)

    said_or_done(load)


@given(data=st.data())
@fuzzed
def test_a_scenario_of_any_text_is_read_or_refused(
    data: st.DataObject, tmp_path_factory: pytest.TempPathFactory
) -> None:
    path = tmp_path_factory.getbasetemp() / "any.yaml"
    path.write_text(data.draw(mutated_text(as_yaml(SMALL))), "utf-8", "backslashreplace")
    said_or_done(lambda: load_scenario(path))


@given(content=st.binary(max_size=200))
@fuzzed
def test_any_bytes_are_no_yaml_or_yaml(content: bytes, tmp_path_factory: pytest.TempPathFactory) -> None:
    path = tmp_path_factory.getbasetemp() / "any.bin"
    path.write_bytes(content)
    said_or_done(lambda: read_yaml(path))


@pytest.mark.parametrize(
    ("section", "content"), [(TraceConfig, LOG), (Suite, SUITE), (Cace, CACE)], ids=["trace", "suite", "cace"]
)
@given(data=st.data())
@fuzzed
def test_a_section_is_read_or_refused(section: Any, content: dict[str, Any], data: st.DataObject) -> None:
    changed = data.draw(mutated(content))
    said_or_done(lambda: parse(section, changed if isinstance(changed, dict) else {"x": changed}, "fuzzed"))


@given(data=st.data())
@fuzzed
def test_the_entries_of_a_suite_are_read_or_refused(
    data: st.DataObject, tmp_path_factory: pytest.TempPathFactory
) -> None:
    path = tmp_path_factory.getbasetemp() / "suite.yaml"
    path.write_text(as_yaml(data.draw(mutated(SUITE))), "utf-8")
    said_or_done(lambda: [entry.fingerprint() for entry in load_suite(path).all_entries()])


@given(data=st.data())
@fuzzed
def test_a_training_is_read_or_refused(data: st.DataObject) -> None:
    changed = data.draw(mutated(TRAINING))
    said_or_done(lambda: read_config(changed if isinstance(changed, dict) else {"x": changed}))


@given(text=mutated_text(RESULTS))
@fuzzed
def test_a_file_of_results_is_read_or_refused(text: str, tmp_path_factory: pytest.TempPathFactory) -> None:
    path = tmp_path_factory.getbasetemp() / "results.csv"
    path.write_text(text, "utf-8", "backslashreplace")
    said_or_done(lambda: read_results(path))


@given(text=st.one_of(TEXTS, mutated_text("guarded:agent:eviction"), mutated_text("very-patient-wsjf+cace:cace")))
@fuzzed
def test_a_policy_is_found_or_refused(text: str) -> None:
    said_or_done(lambda: contestant_of(text))


@given(text=mutated_text("cace-quoted-keep:window=20;output_weight=0.01"))
@fuzzed
def test_a_reading_is_found_or_refused(text: str) -> None:
    said_or_done(lambda: load_quoted(text))


def test_the_formats_are_those_that_are_tried() -> None:
    assert "azure" in FORMAT_NAMES and Path(__file__).is_file()
