"""The figures of a comparison but for timelines and decisions, from its run folder."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Final

import numpy as np

from cace_env.evaluation import Gain
from cace_env.evaluation.scores import REFERENCE
from cace_env.policies.agent import LEARNED
from cace_env.policies.built_in import CLAIRVOYANT
from cace_env.policies.contestants import NO_SWAPPING
from cace_env.simulation.metrics import TTFT_EDGES_S
from cace_env.tables import TASKS, Protocol
from experiments.reading.recommendations import everywhere, scenarios_of
from experiments.reading.style import GROUP_COLOURS
from experiments.reading.verdicts import notable, own_policies
from experiments.reports.page import INK, MUTED, PAPER, Figure, plot
from experiments.running.run_folder import BASELINE, Run

ALL: Final = "all of "  # before the name of an environment, among scenarios
ROW_PX: Final = 19
ABLATIONS: Final = {
    "cace-no-load-time": "load time",
    "cace-no-latency": "latency sensitivity",
    "cace-no-output": "output length",
    "cace-no-recency": "recency",
    "cace-no-demand": "future demand",
}


def gain_figure(run: Run) -> Figure | None:
    """What every policy saves against LRU, over all scenarios of an environment and in each; None where only LRU ran.

    Of those who are far worse than LRU the value stands at the edge: they must not squeeze all others into one line.
    """
    figures = {}
    for env in Protocol:
        scenarios = scenarios_of(run, env)
        if len(scenarios) > 1:
            gains = {policy: run.pooled_gain(policy, scenarios) for policy in everywhere(run, scenarios)}
            figures[ALL + env.env_name] = _gain_bars(run, gains)
    for scenario in run.scenarios:
        gains = {policy: run.gain(scenario, policy) for policy in run.policies(scenario) if policy != NO_SWAPPING}
        figures[scenario] = _gain_bars(run, gains)
    figures = {name: figure for name, figure in figures.items() if figure is not None}
    if not figures:
        return None
    caption = (
        "Dots: cost below LRU's, lines: 95 % intervals; right of 0 is better than LRU. Hollow: knows the future. "
        "A triangle at the edge is far worse; point at it for its value."
    )
    return Figure("Cost saved against LRU", figures, caption, by=("scenario",))


def _gain_bars(run: Run, gains: Mapping[str, Gain]) -> dict[str, Any] | None:
    shown = {p: gain for p, gain in gains.items() if p != BASELINE and np.isfinite(gain.percent)}
    if not shown:
        return None
    order = sorted(shown, key=lambda policy: shown[policy].percent)
    tops = [shown[p].high if np.isfinite(shown[p].high) else shown[p].percent for p in order]
    lows = [shown[p].low if np.isfinite(shown[p].low) else shown[p].percent for p in order]
    right = max(*tops, 1.0)
    left = max(min(*lows, -1.0), -max(30.0, 1.2 * right))
    room = 0.04 * (right - left)
    data = [_gain_dots(run, group, shown, left) for group in GROUP_COLOURS if any(run.group(p) == group for p in shown)]
    layout: dict[str, Any] = {
        "height": 150 + ROW_PX * len(order), "xaxis": {"range": [left - room, right + room]},
        "yaxis": {"type": "category", "categoryorder": "array", "categoryarray": order, "tickmode": "linear",
                  "range": [-0.8, len(order) - 0.2], "fixedrange": True},
    }  # fmt: skip
    return plot(data, "cost saved against LRU [%]", **layout)


def _gain_dots(run: Run, group: str, gains: Mapping[str, Gain], left: float) -> dict[str, Any]:
    """The dots of a kind of policy."""
    mine = [policy for policy in gains if run.group(policy) == group]
    inside = [gains[policy].percent >= left for policy in mine]
    colour, hollow = GROUP_COLOURS[group], group in (CLAIRVOYANT, "Reference")
    shape = "star" if group == LEARNED else "circle"
    high = [gains[p].high - gains[p].percent if ok else 0.0 for p, ok in zip(mine, inside, strict=True)]
    low = [gains[p].percent - max(gains[p].low, left) if ok else 0.0 for p, ok in zip(mine, inside, strict=True)]
    return {
        "type": "scatter", "mode": "markers", "name": kind(group), "y": mine,
        "x": [max(gains[policy].percent, left) for policy in mine],
        "error_x": {"type": "data", "symmetric": False, "array": [finite(v) for v in high],
                    "arrayminus": [finite(v) for v in low], "color": colour, "thickness": 1.6, "width": 0},
        "marker": {"symbol": [shape if ok else "triangle-left" for ok in inside], "size": 13 if group == LEARNED else 9,
                   "color": PAPER if hollow else colour, "line": {"color": colour, "width": 1.6}},
        "customdata": [[str(gains[p]), run.about["policies"][p]["description"]] for p in mine],
        "hovertemplate": "<b>%{y}</b><br>saves %{customdata[0]}<br>%{customdata[1]}<extra></extra>",
    }  # fmt: skip


def kind(group: str) -> str:
    """A kind of policy in a legend."""
    return {"CACE": "CACE and ablations", "No swapping": "no swapping"}.get(group, group.lower())


def finite(value: float) -> float:
    """A length of an error bar; 0 where there is no interval."""
    return float(value) if np.isfinite(value) else 0.0


def evictions_figure(run: Run) -> Figure | None:
    """Evictions per 1,000 requests against the mean time to first token; None where no request was answered."""
    figures = {scenario: _evictions(run, scenario) for scenario in run.scenarios}
    figures = {scenario: figure for scenario, figure in figures.items() if figure is not None}
    caption = "Means over seeds; further down and left is better. Double-click shows those who are far worse, too."
    name = "Evictions against the time to first token"
    return Figure(name, figures, caption, by=("scenario",)) if figures else None


def _evictions(run: Run, scenario: str) -> dict[str, Any] | None:
    there = [policy for policy in run.policies(scenario) if policy != NO_SWAPPING]
    x = {p: 1000 * run.mean(scenario, p, "evictions") / run.mean(scenario, p, "requests") for p in there}
    y = {p: run.mean(scenario, p, "ttft_mean_s") for p in there}
    there = [policy for policy in there if np.isfinite(x[policy]) and np.isfinite(y[policy])]
    if not there:
        return None
    best = run.cheapest(scenario, CLAIRVOYANT)
    labelled, data = {BASELINE, "cace", best, *own_policies(run)}, []
    groups = {BASELINE: [BASELINE]}
    groups |= {g: [p for p in there if run.group(p) == g and p != BASELINE] for g in GROUP_COLOURS}
    for group, mine in groups.items():
        colour, hollow = GROUP_COLOURS.get(group, INK), group in (CLAIRVOYANT, "Reference")
        data.append({
            "type": "scatter", "mode": "markers+text", "name": kind(group),
            "x": [x[p] for p in mine], "y": [y[p] for p in mine], "customdata": mine,
            "text": [p if p in labelled else "" for p in mine], "textposition": "top center", "textfont": {"size": 10},
            "marker": {"symbol": "star" if group == LEARNED else "circle", "size": 13 if group == LEARNED else 9,
                       "color": PAPER if hollow else colour, "line": {"color": colour, "width": 1.6}},
            "hovertemplate": "<b>%{customdata}</b><br>%{x:.0f} evictions per 1,000 requests"
            "<br>TTFT %{y:.3g} s<extra></extra>",
        })  # fmt: skip
    data = [trace for trace in data if trace["x"]]
    # Whoever is far worse must not squeeze all others into one spot.
    axes: dict[str, Any] = {axis: {"range": _near([of[p] for p in there])} for axis, of in (("xaxis", x), ("yaxis", y))}
    return plot(data, "evictions per 1,000 requests", "mean time to first token [s]", height=460, **axes)


def _near(values: Sequence[float]) -> list[float]:
    """A range that holds all values up to 1.5 times the median, with room at both ends."""
    kept = [value for value in values if value <= 1.5 * float(np.median(values))]
    room = 0.1 * (max(kept) - min(kept)) or 0.1 * max(kept) or 1.0
    return [min(kept) - room, max(kept) + 1.4 * room]


def ttft_figure(run: Run) -> Figure | None:
    """Share of requests with their first token within a time, by scenario and task; None without histograms."""
    figures = {
        (scenario, task): _ttft(run, scenario, task)
        for scenario in run.scenarios
        for task in TASKS
        if (scenario, BASELINE, task) in run.ttft
    }
    caption = (
        "Share of requests whose first token came within a time, all seeds together; further up and left is better. A "
        "click in the legend hides a policy, a double-click shows it alone."
    )
    return Figure("Time to first token", figures, caption, by=("scenario", "task")) if figures else None


def _ttft(run: Run, scenario: str, task: str) -> dict[str, Any]:
    data, low, high = [], 1.0, 1.0
    for policy in notable(run, scenario):
        counts = run.ttft.get((scenario, policy, task))
        if counts is None or not counts.sum():
            continue
        share = np.cumsum(counts) / counts.sum()
        first, last = int(np.argmax(share > 0.0005)), min(int(np.argmax(share > 0.9995)) + 1, len(share) - 1)
        low = min(low, float(TTFT_EDGES_S[np.argmax(share > 0.005)]))
        high = max(high, float(TTFT_EDGES_S[min(int(np.argmax(share > 0.998)) + 2, len(TTFT_EDGES_S) - 1)]))
        group = run.group(policy)
        line: dict[str, Any] = {"color": INK if policy == BASELINE else GROUP_COLOURS[group]}
        line["width"] = 2.6 if policy in (BASELINE, "cace") or group == LEARNED else 1.6
        line["dash"] = "dot" if policy == NO_SWAPPING else "dash" if group in (CLAIRVOYANT, REFERENCE) else "solid"
        data.append({
            "type": "scatter", "mode": "lines", "name": policy, "line": line,
            "x": [float(f"{edge:.4g}") for edge in TTFT_EDGES_S[first + 1 : last + 2]],
            "y": np.round(100 * share[first : last + 1], 2),
            "hovertemplate": f"<b>{policy}</b><br>%{{y:.1f}} % within %{{x:.3g}} s<extra></extra>",
        })  # fmt: skip
    layout: dict[str, Any] = {
        "height": 430,
        "xaxis": {"type": "log", "title": {"text": "time to first token [s]"}, "range": np.log10([low, high])},
        "yaxis": {"title": {"text": f"{task}: answered within [%]"}, "range": [0, 101]},
    }
    weights = run.about["scenarios"][scenario]["weights"][task]
    if weights["slo_s"] is not None and weights["slo_on"] == "ttft":
        slo_s = float(weights["slo_s"])
        dashed = {"width": 1, "dash": "dash", "color": MUTED}
        layout["shapes"] = [
            {"type": "line", "yref": "paper", "y0": 0, "y1": 1, "x0": slo_s, "x1": slo_s, "line": dashed}
        ]
        layout["annotations"] = [{
            "x": np.log10(slo_s), "y": 0.02, "yref": "paper", "text": f"SLO {slo_s:g} s", "showarrow": False,
            "xanchor": "left", "yanchor": "bottom", "font": {"color": MUTED},
        }]  # fmt: skip
    return {"data": data, "layout": layout}


def ablation_figure(run: Run) -> Figure | None:
    """What CACE saves against CACE without each factor; None where no such ablation ran."""
    figures = {}
    for scenario in run.scenarios:
        there = run.policies(scenario)
        gains = {
            said: run.gain(scenario, "cace", over=policy)
            for policy, said in ABLATIONS.items()
            if {"cace", policy} <= {*there}
        }
        gains = {said: gain for said, gain in gains.items() if np.isfinite(gain.percent)}
        if gains:
            figures[scenario] = _ablation(gains)
    caption = "The cost that CACE saves against CACE without a factor, 95 % intervals; below 0 the factor does harm."
    return Figure("What each factor of CACE adds", figures, caption, by=("scenario",)) if figures else None


def _ablation(gains: Mapping[str, Gain]) -> dict[str, Any]:
    names = [*gains][::-1]
    values = [gains[name] for name in names]
    bars = {
        "type": "bar", "orientation": "h", "y": names, "x": [gain.percent for gain in values], "width": 0.6,
        "marker": {"color": [GROUP_COLOURS["Caching" if gain.percent > 0 else "CACE"] for gain in values]},
        "error_x": {"type": "data", "symmetric": False, "array": [finite(g.high - g.percent) for g in values],
                    "arrayminus": [finite(g.percent - g.low) for g in values], "color": INK, "thickness": 1.4},
        "customdata": [str(gain) for gain in values],
        "hovertemplate": "<b>%{y}</b> saves %{customdata}<extra></extra>",
    }  # fmt: skip
    height = 110 + 34 * len(names)
    return plot([bars], "cost that the factor saves [%]", height=height, yaxis={"type": "category"})
