"""CACE: each of its terms, their sum, leaving one out, and weights from a file."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest

from cace_env.config import ConfigError
from cace_env.kernel import rules
from cace_env.policies import POLICIES, CaceWeights, policy
from cace_env.policies.built_in import Policy
from cace_env.policies.cace import TERMS
from tests.support.policy_runs import LAST, ask, cace_tables, cace_workload, equal_fleet, evicted


def only(term: str) -> Policy:
    """CACE with one term."""
    weights = CaceWeights(**(dict.fromkeys(TERMS, 0.0) | {term: 1.0}))
    return Policy(f"only {term}", "one term", kind=rules.TERMS, weights=weights.row())


@pytest.mark.nojit
@pytest.mark.parametrize(
    ("term", "victim"),
    [
        ("load_time", 0),  # 1 s against 2 and 3
        ("latency_sensitivity", 1),  # reasoning 0.1, chat 0.4, completion 1.0
        ("output_length", 1),  # 9 tokens against 1 and 5
        ("recency", 1),  # used at 20 s, the others at 30 and 40 s
        ("future_demand", 1),  # one request like 2, and the less recent of the two
    ],
)
def test_each_term_alone_evicts_the_model_that_it_values_least(term: str, victim: int) -> None:
    assert evicted(only(term), cace_tables(), cace_workload()) == [victim]


@pytest.mark.nojit
def test_cace_adds_its_terms_scaled_over_the_candidates() -> None:
    # Terms of 0, 1, 2 at 50 s: load 0, 1/2, 1; latency (0.4 - 0.1) / 0.9 = 1/3, 0, 1; output 1, 0, 1/2;
    # demand 1, 0, 0; recency: last finishes at about 40, 22, 33 s: 1, 0, about 0.6.
    # Equal weights: 3.3, 0.5, 3.1: 1 leaves. Load time alone counting tenfold: 3.3, 5, 13.1: 0 leaves.
    assert evicted("cace", cace_tables(), cace_workload()) == [1]
    weights = CaceWeights(load_time=10, latency_sensitivity=1, output_length=1, recency=1, future_demand=1)
    heavy = dataclasses.replace(policy("cace"), weights=weights.row())
    assert evicted(heavy, cace_tables(), cace_workload()) == [0]


@pytest.mark.nojit
def test_the_demand_term_counts_the_last_five_minutes() -> None:
    workload = ask((0, 0), (1, 0), (2, 0), (250, 1), (251, 1), (260, 2), (290, 0), (299, LAST), (600, 2))
    assert evicted(only("future_demand"), equal_fleet(), workload)[0] == 2
    # 10 s later the three requests at the beginning have left the window: 0 has 1 like 2, and 2 is less recent.
    later = ask((0, 0), (1, 0), (2, 0), (250, 1), (251, 1), (280, 0), (290, 2), (309, LAST), (600, 2))
    assert evicted(only("future_demand"), equal_fleet(), later)[0] == 0


@pytest.mark.nojit
@pytest.mark.parametrize(
    ("name", "term"), list(zip((name for name in POLICIES if name.startswith("cace-no-")), TERMS, strict=True))
)
def test_leaving_one_out_sets_its_weight_to_zero_and_nothing_else(name: str, term: str) -> None:
    full, without = POLICIES["cace"], POLICIES[name]
    index = TERMS.index(term)
    assert full.weights[index] != 0 and without.weights[index] == 0
    assert [w for i, w in enumerate(full.weights) if i != index] == [
        w for i, w in enumerate(without.weights) if i != index
    ]
    same = {field.name for field in dataclasses.fields(Policy)} - {
        "name",
        "description",
        "source",
        "differs",
        "weights",
    }
    assert all(getattr(full, field) == getattr(without, field) for field in same)
    assert term in without.description


@pytest.mark.nojit
def test_shipped_weights_are_equal_and_every_term_has_one() -> None:
    assert set(POLICIES["cace"].weights) == {1.0}
    assert tuple(CaceWeights.model_fields) == TERMS and len(POLICIES["cace"].weights) == len(TERMS)


@pytest.mark.nojit
def test_a_file_of_weights_is_a_policy(tmp_path: Path) -> None:
    file = tmp_path / "mine.yaml"
    terms = "".join(f"  {term}: {i}.0\n" for i, term in enumerate(TERMS))
    file.write_text(f"description: mine\nweights:\n{terms}")
    own = policy(f"cace:{file}")
    assert own.weights == (0.0, 1.0, 2.0, 3.0, 4.0) and own.name == f"cace:{file}"
    assert policy("cace:cace").weights == POLICIES["cace"].weights
    file.write_text(f"weights:\n{terms}  size: 1.0\n")
    with pytest.raises(ConfigError, match=r"mine.yaml: weights.size: unknown key"):
        policy(f"cace:{file}")
    file.write_text("weights: {load_time: 1.0}\n")
    with pytest.raises(ConfigError, match=r"weights\.recency: Field required"):
        policy(f"cace:{file}")
    file.write_text("weights: {" + ", ".join(f"{term}: 0" for term in TERMS) + "}\n")
    with pytest.raises(ConfigError, match="all weights are 0"):
        policy(f"cace:{file}")
    with pytest.raises(ConfigError, match="shipped are cace"):
        policy("cace:unknown")
