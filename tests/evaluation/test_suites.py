"""Suites and results files: what a score means is fixed, and what does not fit is said."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml

from cace_env.config import ConfigError
from cace_env.evaluation import Suite, evaluate, load_suite, run_seed
from cace_env.evaluation import results as results_module
from cace_env.evaluation.episodes import seed_list
from cace_env.evaluation.results import Header, Results, Row, read_results, reference_costs, row_of, write_results
from cace_env.evaluation.suite import TINY as TINY_SUITE
from cace_env.evaluation.suite import pressure_at
from cace_env.planning import merged_optimum
from cace_env.policies import contestant_of
from cace_env.scenarios import load_scenario
from cace_env.simulation import lower_bound
from cace_env.tables import Protocol

TINY: dict[str, Any] = {
    "version": "tiny",
    "description": "Two scenarios.",
    "entries": [
        {"id": "desk", "env": "eviction", "scenario": "workstation", "question": "Is LRU good enough?"},
        {
            "id": "tight",
            "env": "eviction",
            "scenario": {"base": "workstation", "pressure": 3.5, "workload": {"requests": 300}},
            "question": "And with less memory?",
        },
    ],
    "memory_sweeps": [
        {
            "id": "memory",
            "env": "eviction",
            "scenario": {"base": "fast-loader", "workload": {"requests": 300}},
            "fractions": [0.25, 1.0],
            "question": "How much memory?",
        }
    ],
}


def suite_of(folder: Path, **changes: object) -> Suite:
    path = folder / "suite.yaml"
    path.write_text(yaml.safe_dump({**TINY, **changes}))
    return load_suite(path)


def results_of(suite: Suite, rows: list[Row]) -> Results:
    prints = {entry.id: entry.fingerprint() for entry in suite.all_entries()}
    header = Header(
        suite=suite.version, policy="mine", description="Evicts: the oldest", clairvoyant=False, trained_on="nothing",
        simulated_requests=0, code="here", cace_env="0.1.0", fingerprints=prints,
    )  # fmt: skip
    return Results(header, tuple(rows))


ROWS = [Row("desk", policy, seed, seed / 3, 1.5, 2.0, 30.0, 7) for policy in ("lru", "mine") for seed in (2, 1)]


def test_every_entry_of_the_shipped_suite_can_be_simulated():
    suite = load_suite("v1")
    assert suite.version == "v1"
    for entry in suite.all_entries():
        case = entry.case()
        assert case.name == entry.id and len(case.workload(0)) > 0
        assert case.training is not None  # trained policies take part everywhere
    assert {entry.env for entry in suite.entries} == set(Protocol)


def test_an_entry_is_a_scenario_with_some_keys_changed(tmp_path: Path):
    suite, base = suite_of(tmp_path), load_scenario("workstation")
    desk, tight = (suite.entry(name).load() for name in ("desk", "tight"))
    assert desk.replace(name=base.name, question=base.question) == base
    assert tight.pressure == 3.5 and tight.question == "And with less memory?"
    assert tight.workload_config.requests == 300 and tight.workload_config.users == base.workload_config.users


def test_a_fraction_is_memory_over_the_weights_of_all_models(tmp_path: Path):
    for entry, fraction in zip(suite_of(tmp_path).memory_sweeps[0].entries(), (0.25, 1.0), strict=True):
        tables = entry.load().tables()
        assert entry.id == f"memory-{100 * fraction:.0f}"
        assert tables.memory_bytes.sum() == pytest.approx(fraction * tables.weights_bytes.sum(), rel=1e-9)
    models = [{"model": "granite-code-3b", "pinned_on": 0}, {"model": "qwen2.5-coder-7b"}, {"model": "mellum-4b"}]
    pinned = load_scenario("workstation").replace(pressure=1.0, catalogue=models)
    pinned = pinned.replace(pressure=pressure_at(pinned, 1.4))
    tables = pinned.tables()
    room = tables.memory_bytes.sum() - tables.need_bytes[0]
    assert room == pytest.approx(1.4 * tables.weights_bytes[1:].sum(), rel=1e-9)


def test_fingerprints_change_with_what_changes_results_and_with_nothing_else(tmp_path: Path):
    suite = suite_of(tmp_path)
    desk = suite.entry("desk")
    same = desk.model_copy(update={"id": "table", "question": "Why?"})
    assert same.fingerprint() == desk.fingerprint()
    for change in ({"pressure": 3.0}, {"workload": {"users": 3}}, {"engine": "fast-loader"}, {"reward": "ttft"}):
        other = desk.model_copy(update={"scenario": {"base": "workstation", **change}})
        assert other.fingerprint() != desk.fingerprint(), change


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"entries": [TINY["entries"][0]] * 2}, "id 'desk' is used twice"),
        ({"entries": []}, "at least 1 item"),
        ({"entries": [{**TINY["entries"][0], "env": "eviction-v7"}]}, "eviction"),
        ({"entries": [{**TINY["entries"][0], "id": "My desk"}]}, "pattern"),
        ({"seeds": 3}, "unknown key"),
    ],
)
def test_a_suite_that_makes_no_sense_is_refused(changes: dict, said: str, tmp_path: Path):
    with pytest.raises(ConfigError, match=said):
        suite_of(tmp_path, **changes)


@pytest.mark.parametrize(
    ("scenario", "said"),
    [
        ("workstatoin", "entry 'desk': no scenario called 'workstatoin', did you mean 'workstation'"),
        ({"pressure": 3.0}, "base is None"),
        ({"base": "workstation", "presure": 3.0}, "did you mean 'pressure'"),
        ({"base": "workstation", "rules": {"max_decisions": 9}}, "max_decisions is 9"),
        ({"base": "workstation", "trace": {"path": "log.csv", "format": "azure"}}, "its requests come from a log"),
    ],
)
def test_a_scenario_that_no_suite_can_hold_is_refused(scenario: object, said: str, tmp_path: Path):
    suite = suite_of(tmp_path, entries=[{**TINY["entries"][0], "scenario": scenario}])
    with pytest.raises(ConfigError, match=said):
        suite.cases()


def test_unknown_suites_and_entries_are_named(tmp_path: Path):
    with pytest.raises(ConfigError, match=r"no suite called 'v0'.*known are .*v1"):
        load_suite("v0")
    with pytest.raises(ConfigError, match="no entry 'dsk', did you mean 'desk'"):
        suite_of(tmp_path).entry("dsk")


def test_entries_are_found_by_short_names_too():
    suite = load_suite("v1")
    assert [entry.id for entry in suite.named(["drift", "swap-agents"])] == [
        "eviction-drift",
        "swap-drift",
        "swap-agents",
    ]
    assert [entry.id for entry in suite.named(["drift"], Protocol.SWAP)] == ["swap-drift"]
    assert suite.named([]) == list(suite.entries) and len(suite.named([], Protocol.SWAP)) == 10
    with pytest.raises(ConfigError, match="suite v1 has no entry 'drfit', did you mean 'drift'"):
        suite.named(["drfit"])
    with pytest.raises(ConfigError, match=r"no entry 'workst', did you mean 'workstation'\?$"):
        suite.named(["workst"])
    with pytest.raises(ConfigError, match="no entry 'large-fleet' in Swap-v0; known are swap-agents"):
        suite.named(["large-fleet"], Protocol.SWAP)


def test_results_are_read_as_they_were_written_exactly(tmp_path: Path):
    results = results_of(suite_of(tmp_path), ROWS)
    write_results(tmp_path / "mine.csv", results)
    again = read_results(tmp_path / "mine.csv")
    assert again.header == results.header and again.rows == results.rows
    assert again.column("desk", "mine", (1, 2)).tolist() == [1 / 3, 2 / 3]


def test_a_row_keeps_the_cost_of_an_episode_to_the_bit(tmp_path: Path):
    case = suite_of(tmp_path).entry("tight").case()
    (result,) = run_seed(case, [contestant_of("lru")], 0)
    row = row_of("tight", result.row)
    write_results(tmp_path / "one.csv", results_of(suite_of(tmp_path), [row]))
    (again,) = read_results(tmp_path / "one.csv").rows
    assert again.cost == evaluate("lru", case, [0]).column("cost")[0]
    assert again.longest_wait_s == pytest.approx(result.row["longest_wait_s"], rel=1e-6)


@pytest.mark.parametrize(
    ("old", "new", "said"),
    [
        ("lru,2,", "lru,two,", "seed is 'two'; it has to be a whole number"),
        ("desk,mine,2,0.6666666666666666", "desk,mine,2,nan", "cost is nan; it has to be finite"),
        ("desk,mine,2,0.6666666666666666", "desk,mine,2,-1", "cost is -1; it has to be finite and at least 0"),
        ("desk,mine,1,", "desk,mine,2,", "mine on desk, seed 2 appears twice"),
        (",7\n", "\n", "7 cells; there have to be 8"),
        ("evictions\n", "victims\n", "the columns are"),
        ("# clairvoyant: false\n", "", "clairvoyant: Field required"),
        ("# clairvoyant: false", "# clairvoyant: perhaps", "clairvoyant: Input should be a valid boolean"),
        ("# ", "", "has to begin with a header"),
        ("# policy: mine", "# policy: [", "not YAML"),
    ],
)
def test_a_damaged_results_file_is_refused_with_line_value_and_limit(old: str, new: str, said: str, tmp_path: Path):
    path = tmp_path / "mine.csv"
    write_results(path, results_of(suite_of(tmp_path), ROWS))
    text = path.read_text()
    assert old in text
    path.write_text(text.replace(old, new))
    with pytest.raises(ConfigError, match=said):
        read_results(path)


def test_results_of_another_entry_are_refused(tmp_path: Path):
    results = results_of(suite_of(tmp_path), ROWS)
    changed = [{**TINY["entries"][0], "scenario": {"base": "workstation", "pressure": 2.0}}]
    entry = suite_of(tmp_path, entries=changed).entry("desk")
    with pytest.raises(ConfigError, match=r"entry 'desk' has the fingerprint .*, but .* here: .*run the policy again"):
        results.check_fingerprint(entry)


def test_missing_seeds_are_named(tmp_path: Path):
    with pytest.raises(ConfigError, match=r"mine on desk: 2 of 3 seeds have no row \(the first is 3\)"):
        results_of(suite_of(tmp_path), ROWS).column("desk", "mine", (1, 3, 4))


def test_a_suite_without_reference_costs_says_how_to_get_them(tmp_path: Path):
    suite = suite_of(tmp_path)
    with pytest.raises(ConfigError, match=r"no reference costs ship with suite tiny; python -m experiments.suite"):
        reference_costs(suite, suite.entry("desk"), (1, 2))


def test_reference_costs_that_ship_are_found(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    suite = suite_of(tmp_path)
    rows = [row._replace(policy="reference") for row in ROWS if row.policy == "mine"]
    monkeypatch.setattr(results_module, "published", lambda version: results_of(suite, rows))
    assert reference_costs(suite, suite.entry("desk"), (2, 1)).tolist() == [2 / 3, 1 / 3]
    with pytest.raises(ConfigError, match=r"python -m experiments.suite --suite tiny computes them"):
        reference_costs(suite, suite.entry("desk"), (1, 2, 3))


@pytest.fixture(scope="module", params=["v1", "v2"])
def shipped(request: pytest.FixtureRequest) -> Results:
    results = results_module.published(request.param)
    assert results is not None
    return results


def test_costs_ship_of_every_entry_and_test_seed(shipped: Results):
    suite, seeds = load_suite(shipped.header.suite), seed_list("test")
    wanted = {(e.id, who, seed) for e in suite.all_entries() for who in ("lru", "reference") for seed in seeds}
    assert {row[:3] for row in shipped.rows} == wanted and len(shipped.rows) == len(wanted)
    for entry in suite.all_entries():
        shipped.check_fingerprint(entry)
        lru, reference = (shipped.column(entry.id, who, seeds) for who in ("lru", "reference"))
        assert np.all(reference <= lru) and reference_costs(suite, entry, seeds).tolist() == reference.tolist()


def test_no_cost_that_ships_is_below_its_bound(shipped: Results):
    for entry in load_suite(shipped.header.suite).all_entries():
        case = entry.case()
        for seed in seed_list("test")[:5]:
            least = lower_bound(case.tables, case.workload(seed)).cost
            assert least * (1 - 1e-9) <= shipped.column(entry.id, "reference", [seed])[0], (entry.id, seed)


def test_the_costs_that_ship_of_lru_come_out_here(shipped: Results):
    rows = {row[:3]: row for row in shipped.rows}
    for number, entry in enumerate(load_suite(shipped.header.suite).all_entries()):
        seed = seed_list("test")[number]
        (result,) = run_seed(entry.case(), [contestant_of("lru")], seed)
        assert row_of(entry.id, result.row) == rows[entry.id, "lru", seed]


# ---------------------------------------------------------------------------------------------------------------------
# The scenario for debugging


def test_of_tiny_the_optimum_ships_and_bounds_what_others_cost():
    suite, results = load_suite(TINY_SUITE), results_module.published(TINY_SUITE)
    assert results is not None
    (entry,) = suite.entries
    results.check_fingerprint(entry)
    for split in ("validation", "test"):
        seeds = seed_list(split)
        optimum = reference_costs(suite, entry, seeds)
        rivals = [results.column(entry.id, who, seeds) for who in ("lru", "cace", "cace:tuned-eviction")]
        assert all(np.all(optimum <= costs) for costs in rivals)
        lru, cace, tuned = (costs.sum() for costs in rivals)
        assert optimum.sum() < 0.8 * lru and tuned < cace < lru
    assert len(results.rows) == 2 * 4 * 100


def test_the_costs_that_ship_of_tiny_come_out_here():
    (entry,) = load_suite(TINY_SUITE).entries
    case, results = entry.case(), results_module.published(TINY_SUITE)
    assert results is not None
    rows = {row[:3]: row for row in results.rows}
    for seed in seed_list("validation")[:3]:
        for result in run_seed(case, [contestant_of(name) for name in ("lru", "cace", "cace:tuned-eviction")], seed):
            assert row_of(entry.id, result.row) == rows[entry.id, result.row["policy"], seed]
    seed = seed_list("validation")[1]
    at_most = rows[entry.id, "reference", seed].cost
    solved = merged_optimum(case.tables, case.workload(seed), at_most=at_most)
    assert solved.proven and solved.cost == at_most
