"""A scene as a picture: models in slots over time, waiting requests, and the last decision with its candidates.

Pillow is imported only when needed; it comes with the extra `render`.
"""

from __future__ import annotations

from types import ModuleType
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from cace_env.rendering.scenes import Choice, Scene, Span, candidate_name, clock, purpose
from cace_env.tables import NONE

SHARP: Final = 2  # drawn this much larger, then reduced, for smooth edges and exact letter positions
WIDTH: Final = 960
HEIGHT: Final = 540
WINDOW_US: Final = 600_000_000  # the timeline shows the last 10 minutes
MARGIN: Final = 14
HEADER: Final = 34
RIGHT: Final = 640  # where the right column begins
AXIS: Final = 18  # below the timeline
QUEUE: Final = 96  # height of the waiting requests
LEGEND_ROW: Final = 15
GAP: Final = 8

INK: Final = "#1f2430"
FAINT: Final = "#7d8593"
LINE: Final = "#d9dde4"
EMPTY: Final = "#f1f3f6"
PAPER: Final = "#ffffff"
ACCENT: Final = "#c62828"
# Tableau's ten, then ten that differ from them.
PALETTE: Final = (
    "#4e79a7", "#f28e2b", "#59a14f", "#e15759", "#76b7b2", "#edc948", "#b07aa1", "#9c755f", "#ff9da7", "#1b4965",
    "#a0cbe8", "#ffbe7d", "#2d6a4f", "#b2df8a", "#5e3c99", "#b6992d", "#d4a6c8", "#8c1c13", "#79706e", "#c9c1b6",
)  # fmt: skip


def rgb_array(scene: Scene) -> npt.NDArray[np.uint8]:
    """Draw the scene as `(540, 960, 3)` RGB.

    Raises:
        ImportError: Pillow is missing; the message names the extra.
    """
    return np.asarray(_Canvas(scene).paint(), dtype=np.uint8).copy()


def _pillow() -> tuple[ModuleType, ModuleType, ModuleType]:
    try:
        from PIL import Image, ImageDraw, ImageFont
    except ImportError as error:
        raise ImportError('a picture needs Pillow; pip install "cace-env[render]"') from error
    return Image, ImageDraw, ImageFont


def color(model: int) -> str:
    """A model's colour, the same in every picture of a scenario."""
    return PALETTE[model % len(PALETTE)]


def _mix(hex_color: str, share: float) -> tuple[int, int, int]:
    """`share` of a colour on white."""
    r, g, b = (round(255 - (255 - int(hex_color[i : i + 2], 16)) * share) for i in (1, 3, 5))
    return r, g, b


class _Canvas:
    """A picture being drawn: the scene, Pillow's tools and the positions of the panels."""

    def __init__(self, scene: Scene) -> None:
        image, draw, font = _pillow()
        size = (WIDTH * SHARP, HEIGHT * SHARP)
        self.scene = scene
        self.image = image.new("RGB", size, PAPER)
        self.draw = draw.Draw(self.image)
        self.fonts = {points: font.load_default(points * SHARP) for points in (9, 10, 11, 12, 15)}
        self.hatch = image.new("L", size, 0)
        stripes = draw.Draw(self.hatch)
        for x in range(-size[1], size[0], 6 * SHARP):
            stripes.line((x, size[1], x + size[1], 0), fill=255, width=2 * SHARP)
        self.legend_columns = 4 if len(scene.names) <= 16 else 5
        rows = -(-len(scene.names) // self.legend_columns)
        self.legend_top = HEIGHT - MARGIN + 4 - rows * LEGEND_ROW
        self.end_us = max(scene.now_us, 1)
        self.start_us = max(0, self.end_us - WINDOW_US)

    def paint(self) -> Any:
        """Draw all panels, top to bottom."""
        self.header()
        bottom = self.legend_top - 12
        queue_top = bottom - AXIS - QUEUE
        self.timeline(HEADER + GAP, queue_top - GAP - 12)
        self.queue(queue_top, bottom - AXIS)
        self.axis(bottom - AXIS)
        memory_bottom = HEADER + GAP + 164
        self.memory(HEADER + GAP, memory_bottom)
        self.decisions(memory_bottom + 12, bottom + 6)
        self.legend()
        return self.image.reduce(SHARP)

    def header(self) -> None:
        """Scenario, clock and totals."""
        scene = self.scene
        self.rectangle(0, 0, WIDTH, HEADER, INK)
        self.text(MARGIN, 9, scene.scenario, 15, PAPER)
        facts = (
            clock(scene.now_us),
            f"decision {scene.decisions}",
            f"{sum(scene.running)} running",
            f"{sum(scene.waiting)} waiting",
            f"cost {scene.cost:,.0f}",
        )
        x: float = WIDTH - MARGIN
        for fact in reversed(facts):
            x -= self.width(fact, 12)
            self.text(x, 10, fact, 12, PAPER)
            x -= 22

    def timeline(self, top: int, bottom: int) -> None:
        """A lane per slot that was ever used, grouped by accelerator; load and drain hatched."""
        spans = self.scene.spans
        sites = len(self.scene.sites)
        lanes = [1 + max((s.lane for s in spans if s.accelerator == a), default=0) for a in range(sites)]
        title = 14
        height = max(3, min(34, (bottom - top - sites * title) // sum(lanes)))
        first_lane = []
        y = top
        for a, site in enumerate(self.scene.sites):
            self.text(MARGIN, y, site.name, 11, INK)
            y += title
            first_lane.append(y)
            for lane in range(lanes[a]):
                self.rectangle(MARGIN, y + lane * height, RIGHT - 2 * MARGIN, y + (lane + 1) * height - 2, EMPTY)
            y += lanes[a] * height
        for span in spans:
            self.span(span, first_lane[span.accelerator] + span.lane * height, height)
        last = self.scene.last
        if last is not None and last.time_us >= self.start_us:
            x = self.x_of(last.time_us)
            self.line(x, first_lane[0], x, y, ACCENT)

    def span(self, span: Span, y: int, height: int) -> None:
        """One stay: hatched while it loads, solid while resident, hatched again while it leaves."""
        loaded_us = self.end_us if span.loaded_us is None else span.loaded_us
        end_us = self.end_us if span.end_us is None else span.end_us
        leaving_us = end_us if span.leaving_us is None else span.leaving_us
        if end_us <= self.start_us:
            return
        low, high = y, y + height - 2
        self.box(self.x_of(span.start_us), low, self.x_of(loaded_us), high, span.model, hatched=True)
        self.box(self.x_of(loaded_us), low, self.x_of(leaving_us), high, span.model)
        self.box(self.x_of(leaving_us), low, self.x_of(end_us), high, span.model, hatched=True)
        left, right = self.x_of(loaded_us), self.x_of(leaving_us)
        if height >= 11 and right - left > 34:
            self.label(left + 4, low, right - left - 8, high - low, span.model, self.scene.names[span.model])

    def queue(self, top: int, bottom: int) -> None:
        """Waiting requests over time, stacked by model."""
        left, right = MARGIN, RIGHT - 2 * MARGIN
        times_us = np.linspace(self.start_us, self.end_us, right - left + 1).astype(np.int64)
        stacked = np.cumsum(self.scene.waiting_at(times_us), axis=0)
        most = max(int(stacked[-1].max(initial=0)), 4)
        self.rectangle(left, top, right, bottom, EMPTY)
        scale = (bottom - top) / most
        for m in range(len(stacked) - 1, -1, -1):
            outline = [(left + i, bottom - scale * float(count)) for i, count in enumerate(stacked[m])]
            if stacked[m].any():
                corners = [(left, bottom), *outline, (right, bottom)]
                self.draw.polygon([(x * SHARP, y * SHARP) for x, y in corners], fill=color(m))
        self.text(left, top - 14, f"waiting requests, 0 to {most}", 11, INK)

    def axis(self, top: int) -> None:
        """Clock times below the timeline."""
        step_us = 60_000_000 if self.end_us - self.start_us <= WINDOW_US // 2 else 120_000_000
        for time_us in range(-(-self.start_us // step_us) * step_us, self.end_us + 1, step_us):
            x = self.x_of(time_us)
            self.line(x, top, x, top + 3, FAINT)
            text = clock(time_us).removesuffix(".0")
            if x + self.width(text, 9) / 2 < RIGHT - 2 * MARGIN:
                self.text(max(MARGIN, x - self.width(text, 9) / 2), top + 4, text, 9, FAINT)

    def memory(self, top: int, bottom: int) -> None:
        """Each accelerator's current memory, to scale, fullest at the bottom."""
        sites = self.scene.sites
        width = (WIDTH - MARGIN - RIGHT - GAP * (len(sites) - 1)) / len(sites)
        most_gb = max(site.memory_gb for site in sites)
        self.text(RIGHT, top, "memory now", 11, INK)
        base = bottom - 14
        scale = (base - top - 18) / most_gb
        for a, site in enumerate(sites):
            left = RIGHT + a * (width + GAP)
            right = left + width
            self.rectangle(left, base - scale * site.memory_gb, right, base, EMPTY)
            y = float(base)
            for resident in site.residents:
                above = y - scale * resident.need_gb
                self.box(left, above + 1, right, y, resident.model, hatched=resident.phase != "resident")
                name = self.scene.names[resident.model]
                name += f", {resident.running} running" if resident.running else ""
                name += f", {resident.waiting} waiting" if resident.waiting else ""
                if y - above >= 11:
                    self.label(left + 4, above, right - left - 8, y - above, resident.model, name)
                y = above
            if site.asleep_gb > 0:
                self.rectangle(left, y - scale * site.asleep_gb, right, y, LINE)
            used = f"{site.memory_gb - site.free_gb:.0f} of {site.memory_gb:.0f} GB"
            self.text(left, bottom - 11, self.fit(used, width, 9), 9, FAINT)

    def decisions(self, top: int, bottom: int) -> None:
        """The last decision and the open question: the target, the candidates, and their key features."""
        last, question = self.scene.last, self.scene.question
        shown = [("last decision", last, ACCENT), ("asked now", question, INK)]
        choices = [(title, choice, ink) for title, choice, ink in shown if choice is not None]
        if not choices:
            self.text(RIGHT, top, "nothing is asked", 11, FAINT)
            return
        height = (bottom - top) // len(choices)
        for title, choice, ink in choices:
            whom, why = purpose(choice, self.scene.names)
            width = WIDTH - MARGIN - RIGHT
            self.text(RIGHT, top, self.fit(f"{title}, {clock(choice.time_us)}: {whom}", width, 11), 11, ink)
            self.text(RIGHT, top + 16, self.fit(why, width, 10), 10, INK)
            used = self.candidates(choice, top + 32, top + height - 14)
            top = used + 10

    def candidates(self, choice: Choice, top: int, bottom: int) -> int:
        """Candidates and their key features, the chosen one first on a grey ground; returns the y of its end."""
        ends = (188, 228, 271, 304)
        for title, x in zip(choice.columns, ends, strict=True):
            self.text(RIGHT + x - self.width(title, 9), top, title, 9, FAINT)
        y = top + 14
        room = max(1, (bottom - y) // 15)
        picked = [c for c in choice.candidates if c.action == choice.picked]
        others = [c for c in choice.candidates if c.action != choice.picked]
        for c in [*picked, *others][:room]:
            if c.action == choice.picked:
                self.rectangle(RIGHT - 4, y - 1, WIDTH - MARGIN + 4, y + 13, LINE)
            self.rectangle(RIGHT, y + 1, RIGHT + 10, y + 11, EMPTY if c.model == NONE else color(c.model))
            self.text(RIGHT + 14, y, self.fit(candidate_name(c, self.scene.names), 132, 10), 10, INK)
            for value, x in zip(c.values, ends, strict=True):
                self.text(RIGHT + x - self.width(value, 10), y, value, 10, INK)
            y += 15
        if len(choice.candidates) > room:
            self.text(RIGHT + 14, y, f"and {len(choice.candidates) - room} more", 9, FAINT)
            y += 12
        return y

    def legend(self) -> None:
        """Every model's colour; faint names are absent models, numbers count waiting requests."""
        scene = self.scene
        width = (WIDTH - 2 * MARGIN) // self.legend_columns
        self.line(MARGIN, self.legend_top - 6, WIDTH - MARGIN, self.legend_top - 6, LINE)
        for m, name in enumerate(scene.names):
            x = MARGIN + m % self.legend_columns * width
            y = self.legend_top + m // self.legend_columns * LEGEND_ROW
            absent = scene.phases[m] in ("absent", "planned")
            self.rectangle(x, y + 1, x + 10, y + 11, color(m))
            text = name + (f"  {scene.waiting[m]} waiting" if scene.waiting[m] else "")
            self.text(x + 14, y, self.fit(text, width - 20, 10), 10, FAINT if absent and not scene.waiting[m] else INK)

    # -----------------------------------------------------------------------------------------------------------------
    # Strokes

    def x_of(self, time_us: int) -> float:
        """The x of a time on the timeline."""
        share = (max(time_us, self.start_us) - self.start_us) / (self.end_us - self.start_us)
        return MARGIN + share * (RIGHT - 3 * MARGIN)

    def rectangle(self, left: float, top: float, right: float, bottom: float, fill: str | tuple[int, int, int]) -> None:
        """A filled rectangle; nothing if it has no area."""
        corners = [round(edge * SHARP) for edge in (left, top, right, bottom)]
        if corners[2] > corners[0] and corners[3] > corners[1]:
            self.draw.rectangle((corners[0], corners[1], corners[2] - 1, corners[3] - 1), fill=fill)

    def line(self, x0: float, y0: float, x1: float, y1: float, fill: str) -> None:
        self.draw.line((x0 * SHARP, y0 * SHARP, x1 * SHARP, y1 * SHARP), fill=fill, width=SHARP)

    def box(self, left: float, top: float, right: float, bottom: float, model: int, hatched: bool = False) -> None:
        """A rectangle in a model's colour; hatched is paler, with stripes."""
        self.rectangle(left, top, right, bottom, _mix(color(model), 0.3) if hatched else color(model))
        area = tuple(round(edge * SHARP) for edge in (left, top, right, bottom))
        if hatched and area[2] > area[0] and area[3] > area[1]:
            self.image.paste(_mix(color(model), 0.75), area, self.hatch.crop(area))

    def label(self, x: float, y: float, width: float, height: float, model: int, text: str) -> None:
        """Text on a model's colour, vertically centred, dark or white, whichever is readable."""
        at = (x * SHARP, (y + height / 2) * SHARP)
        red, green, blue = _mix(color(model), 1.0)
        ink = INK if 0.30 * red + 0.59 * green + 0.11 * blue > 140 else PAPER
        self.draw.text(at, self.fit(text, width, 10), ink, self.fonts[10], anchor="lm")

    def text(self, x: float, y: float, text: str, size: int, fill: str) -> None:
        """Text with its upper left corner at (x, y)."""
        self.draw.text((x * SHARP, y * SHARP), text, fill, self.fonts[size])

    def width(self, text: str, size: int) -> float:
        return float(self.draw.textlength(text, self.fonts[size])) / SHARP

    def fit(self, text: str, width: float, size: int) -> str:
        """`text`, cut short with an ellipsis if it is wider than `width`; empty if even that does not fit."""
        if self.width(text, size) <= width:
            return text
        while len(text) > 2 and self.width(text + "…", size) > width:
            text = text[:-1]
        return text + "…" if len(text) > 2 else ""
