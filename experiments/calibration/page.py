"""The report of a calibration: fits drawn, coefficients, what is left over, what the rules cannot express."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from cace_env.live.calibration import Calibration, Fit, findings
from experiments.reports.page import INK, Cell, Figure, Page, Section, Table

DOT, LINE = "#2E86D1", "#E2622A"


def page_of(found: Sequence[Calibration], drift: float, most_drift: float, boxes: Sequence[str], subtitle: str) -> Page:
    """The page.

    Args:
        found: by model.
        drift: of the machine [%].
        most_drift: above which no scenario is written [%].
        boxes: warnings.
        subtitle: what was measured, when.
    """
    worst = max(found, key=lambda one: one.fits[0].error_percent)
    headline = (
        f"{len(found)} models measured; the rules meet times between tokens to {worst.fits[0].error_percent:.1f} % or "
        f"better (median error of {worst.model}), and the machine drifted by {drift:+.1f} %."
    )
    if abs(drift) > most_drift:
        headline = f"The machine drifted by {drift:+.1f} % while it was measured: measure again."
    sections = [
        Section("Coefficients", tables=[_coefficients(found)]),
        Section("What the rules cannot express", [_list(one) for one in found]),
        Section("Fits", figures=[_figure(found, 0), _figure(found, 1)], tables=[_residuals(found)]),
        Section("Loads and unloads", tables=[_spread(found)]),
    ]
    return Page("Calibration of a server", headline, boxes, sections, subtitle)


def _list(one: Calibration) -> str:
    said = findings(one)
    return (
        "\n".join([f"**{one.model}**", "", *(f"- {line}." for line in said)]) if said else f"**{one.model}**: nothing."
    )


def _coefficients(found: Sequence[Calibration]) -> Table:
    names = ("unload_us", "round_ns", "decode_ns", "kv_ps", "prefill_ns", "attention_ps", "request_ns")
    header = ("model", "load warm [us]", "load cold [us]", *names, "batch_ns", "beside a load", "two busy")
    rows: list[tuple[Cell, ...]] = [
        (
            one.model,
            *one.load_us,
            *(getattr(one, name) for name in names),
            str(list(one.batch_ns)),
            one.beside_load,
            one.two_busy,
        )
        for one in found
    ]
    note = "The median beside a load becomes that of the fleet; two busy models take turns by the rules, which is 2."
    return Table("Columns of the integer tables", header, rows, note)


def _residuals(found: Sequence[Calibration]) -> Table:
    header = ("model", "what", "batch", "context", "measured [ms]", "p10 [ms]", "p90 [ms]", "rules [ms]", "error [%]")
    rows: list[tuple[Cell, ...]] = [
        (one.model, fit.what, point[0], point[1], *(1e3 * value for value in point[2:]), float(error))
        for one in found
        for fit in one.fits
        for point, error in zip(fit.points, fit.errors, strict=True)
    ]
    note = "Measured: median. Its time to the first token has `request_ns` in it."
    return Table("What is left over", header, rows, note, filters=("model", "what"))


def _spread(found: Sequence[Calibration]) -> Table:
    rows = [
        (one.model, what, count, middle, low, high)
        for one in found
        for what, (count, middle, low, high) in one.spread.items()
        if count
    ]
    note = "'first' is the first request after a load, 'again' the next one; the difference counts as load."
    return Table("Loads and unloads", ("model", "what", "points", "median [s]", "p10 [s]", "p90 [s]"), rows, note)


def _figure(found: Sequence[Calibration], index: int) -> Figure:
    by_model = {one.model: _drawn(one.fits[index], index) for one in found}
    caption = "Dots: medians with p10 and p90; crosses: what the rules say."
    return Figure(found[0].fits[index].what.capitalize(), by_model, caption, by=("model",))


def _drawn(fit: Fit, index: int) -> dict[str, Any]:
    """Over the batch and the context, or over the length of the prompt."""
    x = [f"{p[0]} at once, {p[1]} tokens" if index == 0 else p[1] for p in fit.points]
    measured = [1e3 * p[2] for p in fit.points]
    dots = {
        "type": "scatter", "mode": "markers", "name": "measured", "x": x, "y": measured,
        "error_y": {"type": "data", "symmetric": False, "array": [1e3 * (p[4] - p[2]) for p in fit.points],
                    "arrayminus": [1e3 * (p[2] - p[3]) for p in fit.points], "color": DOT},
        "marker": {"size": 9, "color": DOT},
    }  # fmt: skip
    rules = {
        "type": "scatter", "mode": "markers" if index == 0 else "lines+markers", "name": "rules", "x": x,
        "y": [1e3 * p[5] for p in fit.points], "line": {"color": LINE},
        "marker": {"symbol": "x", "size": 9, "color": LINE, "line": {"color": INK, "width": 0}},
    }  # fmt: skip
    layout = {
        "xaxis": {"title": {"text": "requests at once and their context" if index == 0 else "prompt [tokens]"}},
        "yaxis": {"title": {"text": f"{fit.what} [ms]"}, "rangemode": "tozero"},
    }
    return {"data": [dots, rules], "layout": layout}
