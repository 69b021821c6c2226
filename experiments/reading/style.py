"""Colours and style that all pictures share."""

from __future__ import annotations

from typing import Any, Final

from cace_env.policies.agent import LEARNED
from cace_env.policies.built_in import CLAIRVOYANT

# By kind of policy; they can be told apart on white and on black.
GROUP_COLOURS: Final = {
    "Floor": "#8F98A3",
    "Deployed": "#2E86D1",
    "Proposed": "#D99A1C",
    "Caching": "#1F9E74",
    "Forecast": "#58B4E5",
    "CACE": "#E2622A",
    "CACE as quoted": "#F0A35E",
    "Order": "#3FA9A0",
    CLAIRVOYANT: "#C97BB0",
    "Your own": "#8B62C9",
    LEARNED: "#C2407F",
    "Reference": "#A48A1E",
    "No swapping": "#9BA3AD",
}
STYLE: Final[dict[Any, Any]] = {
    "font.size": 9,
    "text.parse_math": False,  # names of models may hold dollars
    "axes.titlesize": 10,
    "axes.spines.top": False,
    "axes.spines.right": False,
}
