"""CACE without each of its terms, and each term alone, for any weights."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Final

from cace_env.config import ConfigError
from cace_env.policies import CaceWeights, order, policy
from cace_env.policies.built_in import Policy
from cace_env.policies.cace import TERMS, load_cace

READABLE: Final[Mapping[str, str]] = {term: term.replace("_", " ") for term in TERMS}


def cace_with(weights: CaceWeights, name: str, by_order: str | None = None) -> Policy:
    """CACE with other weights under another name, in Swap-v0 behind an order."""
    changed = replace(policy("cace"), name=name, weights=weights.row(), description=f"CACE, {name}")
    return changed if by_order is None else replace(changed, order=order(by_order))


def only(weights: CaceWeights, term: str) -> CaceWeights:
    """The one-in ablation: 0 for all but one term."""
    return CaceWeights(**{name: getattr(weights, name) if name == term else 0.0 for name in TERMS})


def cace_variants(what: str | Path, by_order: str | None = None) -> tuple[Policy, dict[str, Policy]]:
    """CACE as it stands, and what is left of it without each term and with each alone.

    Args:
        what: shipped weights by name, or a YAML file.
        by_order: which model is loaded first (Swap-v0).

    Returns:
        The full policy, and the variants by what is said of them. A term whose weight is 0 has none.

    Raises:
        ConfigError: no such weights, or only one term has a weight: there is nothing to leave out.
    """
    weights = load_cace(what).weights
    used = [term for term in TERMS if getattr(weights, term)]
    if len(used) < 2:
        raise ConfigError(f"{what}: only {used[0]!r} has a weight, so there is nothing to leave out")
    prefix = "" if by_order is None else f"{by_order}+"
    variants = {f"without {READABLE[term]}": weights.without(term) for term in used}
    variants |= {f"only {READABLE[term]}": only(weights, term) for term in used}
    full = cace_with(weights, f"{prefix}cace (full)", by_order)
    return full, {name: cace_with(row, f"{prefix}{name}", by_order) for name, row in variants.items()}
