"""Colours and style that all pictures share."""

from __future__ import annotations

from typing import Any, Final

from cace_env.policies.agent import LEARNED

GROUP_COLOURS: Final = {
    "Floor": "#8c8c8c",
    "Deployed": "#0072B2",
    "Proposed": "#E69F00",
    "Caching": "#009E73",
    "Forecast": "#56B4E9",
    "CACE": "#D55E00",
    "CACE as quoted": "#F0A35E",
    "Order": "#44AA99",
    "Clairvoyant": "#CC79A7",
    "Your own": "#6A3D9A",
    LEARNED: "#882255",
    "Reference": "#8A6D00",
    "No swapping": "#bbbbbb",
}
STYLE: Final[dict[Any, Any]] = {
    "font.size": 9,
    "text.parse_math": False,  # names of models may hold dollars
    "axes.titlesize": 10,
    "axes.spines.top": False,
    "axes.spines.right": False,
}
