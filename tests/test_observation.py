"""Claims about what an agent sees: named, scaled and laid out as documented, and never anything of the future."""

from __future__ import annotations

import numpy as np
import pytest

from cace_env.kernel import features as kernel
from cace_env.observation import (
    CONTEXT,
    CONTEXT_FEATURES,
    PENDING,
    PENDING_FEATURES,
    SLOT,
    SLOT_FEATURES,
    Feature,
    ObservationLayout,
    scales,
)

BLOCKS = (("F_", SLOT_FEATURES), ("P_", PENDING_FEATURES), ("C_", CONTEXT_FEATURES))


@pytest.mark.parametrize(("prefix", "features"), BLOCKS)
def test_features_stand_in_the_kernels_order(prefix: str, features: tuple[Feature, ...]) -> None:
    indices = {name: value for name, value in vars(kernel).items() if name.startswith(prefix)}
    assert {f"{prefix}{feature.name.upper()}": column for column, feature in enumerate(features)} == indices


def test_columns_are_found_by_name() -> None:
    assert SLOT.since_use_s == kernel.F_SINCE_USE_S
    assert PENDING.waiting_weight == kernel.P_WAITING_WEIGHT
    assert CONTEXT.elapsed_s == kernel.C_ELAPSED_S


def test_every_number_has_a_unit_a_scale_and_a_meaning() -> None:
    for feature in (*SLOT_FEATURES, *PENDING_FEATURES, *CONTEXT_FEATURES):
        assert feature.unit and feature.scale > 0 and feature.doc
        assert feature.unit != "flag" or (feature.scale == 1.0 and not feature.log)


def test_layout_splits_what_it_names() -> None:
    layout = ObservationLayout(max_slots=3, max_pending=2)
    assert len(layout.names) == len(set(layout.names)) == layout.size == len(scales()) + 2 * 32 + 17
    numbers = np.arange(layout.size, dtype=np.float32)
    slots, pending, context = layout.split(np.stack([numbers, -numbers]))
    assert (
        slots.shape == (2, 3, len(SLOT))
        and pending.shape == (2, 2, len(PENDING))
        and context.shape == (2, len(CONTEXT))
    )
    assert layout.names[int(slots[0, 2, SLOT.freed_gb])] == "slot2.freed_gb"
    assert layout.names[int(pending[0, 1, PENDING.target])] == "pending1.target"
    assert layout.names[int(context[0, CONTEXT.memory_gb])] == "context.memory_gb"
    assert np.shares_memory(layout.split(numbers).slots, numbers)


def test_layout_refuses_another_length() -> None:
    layout = ObservationLayout(max_slots=3, max_pending=2)
    with pytest.raises(ValueError, match=rf"has 7 numbers.*have {layout.size}"):
        layout.split(np.zeros(7, dtype=np.float32))
    with pytest.raises(ValueError, match="at least 1 slot"):
        ObservationLayout(0, 2)
