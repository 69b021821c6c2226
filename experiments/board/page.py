"""The board as tables: of `docs/leaderboard.md`, and for the terminal."""

from __future__ import annotations

import re
from collections.abc import Sequence
from itertools import count
from typing import Final

from rich.table import Table

from cace_env.tables import Protocol
from experiments.board.playing import PLANNERS, shipped_names
from experiments.board.records import Board, Record
from experiments.reading.markdown import number, score_text, table
from experiments.running.command_line import screen_table

PAGE: Final = "leaderboard.md"
TOP: Final = 10  # policies whose scores are shown entry by entry
STARVING: Final = 1.5  # times the longest wait of patient FIFO: bold
UNRANKED: Final = "-"  # in place of a place: it knows the future
HEADER: Final = (
    "place", "policy", "kind", "score", "cost / LRU's", "longest wait / patient FIFO's", "a decision [us]: median, p99",
    "learned from", "handed in by", "played",
)  # fmt: skip


def regions(board: Board) -> dict[str, str]:
    """Regions of the page."""
    played = {record.name for record in board.records}
    rest, planners = ([name for name in names if name not in played] for names in (shipped_names(), PLANNERS))
    said = []
    if planners:
        said.append(
            f"**Not played: {_names(planners, ' and ')}** ([what planners are](planner.md)), because all test "
            f"seeds take them hours: `python -m experiments.submission board {' '.join(planners)}` plays them."
        )
    if rest:
        said.append(f"Of the policies that ship these have not been played yet: {_names(rest, ', ')}.")
    else:
        said.append(f"Every {'other ' if planners else ''}policy that ships has been played.")
    found = {"rest": " ".join(said)}
    for env in Protocol:
        records = [record for record in board.records if record.env == env]
        found[str(env)] = table(HEADER, _rows(records)) if records else "Nobody yet."
        found[f"{env}-entries"] = _entries(records, env) if records else "Nobody yet."
    return found


def board_table(records: Sequence[Record], env: Protocol) -> Table:
    """The records of one environment, for the terminal."""
    ranked = sorted(records, key=lambda record: -record.score[0])
    rows = [[cell.replace("`", "").replace("**", "") for cell in row[:2] + row[3:6]] for row in _rows(ranked)]
    return screen_table([*HEADER[:2], *HEADER[3:6]], rows, env.env_name, left=2, whole=5)


def _rows(records: Sequence[Record]) -> list[list[str]]:
    places = count(1)
    rows = []
    for record in records:
        ratio, entry = record.worst_wait
        by = f"[{_text(record.by)}]({record.link})" if record.link else _text(record.by)
        rows.append([
            UNRANKED if record.clairvoyant else str(next(places)),
            f"`{record.name}`",
            _text(record.kind),
            f"**{score_text(record.score)}**",
            score_text(record.cost, digits=3),
            f"{_emphasised(number(ratio), ratio > STARVING)} ({entry.removeprefix(f'{record.env}-')})",
            ", ".join(f"{us:.0f}" for us in record.decision_us) if any(record.decision_us) else "-",
            _text(record.learned_from),
            by,
            f"{record.date}, {record.version}" + (f", {record.seeds} seeds" if record.seeds != 100 else ""),
        ])  # fmt: skip
    return rows


def _entries(records: Sequence[Record], env: Protocol) -> str:
    """Scores of the best, entry by entry."""
    best = [record for record in records if not record.clairvoyant][:TOP]
    names = list(best[0].entries) if best else []
    rows = [[f"`{record.name}`", *(score_text(record.entries[name].score) for name in names)] for record in best]
    return table(["policy", *(name.removeprefix(f"{env}-") for name in names)], rows, numbers="right")


def _names(names: Sequence[str], between: str) -> str:
    return between.join(f"`{name}`" for name in names)


def _emphasised(text: str, strong: bool) -> str:
    return f"**{text}**" if strong else text


def _text(text: str) -> str:
    """A text that others wrote, as Markdown that shows it; what could be a tag or a link was refused before."""
    return re.sub(r"([*_~#&<>\[\]`\\])", r"\\\1", text)
