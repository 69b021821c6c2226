"""Requests that nothing was fitted on: clients in closed loop, who think between an answer and what they ask next.

Two kinds. `completions`: eight editors with short prompts, each a session of its own, mostly to small models.
`agents`: five clients with sessions of several turns to one model, whose prompts begin with what was asked before.
All is drawn beforehand, so that every run and every simulation has the same requests.
"""

from __future__ import annotations

import random
from collections.abc import Callable
from typing import Any, Final, NamedTuple

import numpy as np

from cace_env.config import ConfigError
from cace_env.tables import TASKS
from cace_env.workload import Workload

LONG: Final = 0.06  # of the answers are four times as long
SPREAD: Final = 0.6  # of lengths, as the deviation of their logarithm
BEGIN_S: Final = 0.25  # between the first requests of two clients


class Kind(NamedTuple):
    """What a workload is like. Lengths are medians, in tokens."""

    clients: int
    turns: tuple[int, ...]  # of a session; one is drawn
    first: int  # of the first prompt of a session
    added: int  # by each further one, beyond the answer before
    output: int
    think_s: float  # mean
    stays: float  # how likely the next session goes to the same model
    leaning: float  # models are asked for in proportion to (1 + rank by size)^-leaning
    tasks: tuple[str, ...]  # by rank of the model, smallest first; the last one for all further


KINDS: Final[dict[str, Kind]] = {
    "completions": Kind(8, (1,), 24, 0, 8, 1.0, 0.6, 0.8, ("completion", "completion", "chat")),
    "agents": Kind(5, (2, 3, 4, 6), 48, 12, 14, 1.5, 0.2, 0.3, ("chat", "chat", "chat", "agent")),
}


def kind_of(name: str) -> Kind:
    """What the workload of a name is like.

    Raises:
        ConfigError: there is none.
    """
    if name not in KINDS:
        raise ConfigError(f"there is no workload {name!r}; there are {', '.join(KINDS)}")
    return KINDS[name]


def make(
    name: str, by_size: list[int], requests: int, seed: int, *, longest: int, scale: float = 1.0, pace: float = 1.0
) -> Workload:
    """Draws a workload.

    Args:
        name: of its kind.
        by_size: numbers of the models, the smallest first.
        requests: how many.
        seed: of all that is drawn.
        longest: prompt and answer have at most so many tokens together.
        scale: lengths are so many times as long.
        pace: pauses are so many times as long; nothing else changes.

    Raises:
        ConfigError: there is no such kind.
    """
    kind, rng = kind_of(name), random.Random(f"{name}/{seed}")
    rows: list[dict[str, int]] = []
    lines = [_client(kind, by_size, rng, longest, scale) for _ in range(kind.clients)]
    last: list[int | None] = [None] * kind.clients
    sessions: dict[tuple[int, int], int] = {}
    while len(rows) < requests:
        client = len(rows) % kind.clients
        row, think_s = lines[client]()
        session = sessions.setdefault((client, row.pop("session")), len(sessions))
        before = last[client]
        last[client] = len(rows)
        rows.append(
            row
            | {
                "arrival_us": 0 if before is not None else 1 + round(1e6 * pace * BEGIN_S * client),
                "after": -1 if before is None else before,
                "think_us": 0 if before is None else round(1e6 * pace * think_s),
                "session": session,
                "user": client,
            }
        )
    columns: dict[str, Any] = {key: np.array([row[key] for row in rows]) for key in rows[0]}
    return Workload.from_columns(label=name, **columns)


def _client(
    kind: Kind, by_size: list[int], rng: random.Random, longest: int, scale: float
) -> Callable[[], tuple[dict[str, int], float]]:
    """What one client asks next, each time that it is called."""
    weights = [(1 + rank) ** -kind.leaning for rank in range(len(by_size))]
    rank, left, session, context, answered = 0, 0, -1, 0, 0  # an answer is a part of what is new in the next prompt

    def length(median: int) -> int:
        return max(2, round(scale * median * rng.lognormvariate(0.0, SPREAD)))

    def ask() -> tuple[dict[str, int], float]:
        nonlocal rank, left, session, context, answered
        output = length(kind.output) * (4 if rng.random() < LONG else 1)
        new = length(kind.added) + answered
        if left == 0 or context + new + output > longest:
            if session < 0 or rng.random() >= kind.stays:
                rank = rng.choices(range(len(by_size)), weights)[0]
            left, session, context = rng.choice(kind.turns), session + 1, 0
            new = min(length(kind.first), longest // 2)
        output = min(output, longest - context - new)
        context, answered, left = context + new, output, left - 1
        task = kind.tasks[min(rank, len(kind.tasks) - 1)]
        row = {
            "model": by_size[rank],
            "task": TASKS.index(task),
            "context_tokens": context,
            "new_tokens": new,
            "output_tokens": output,
            "session": session,
        }
        return row, rng.expovariate(1.0 / kind.think_s)

    return ask


FIRST_TOKEN: Final = (
    262  # ids of prompts: of letters in the vocabulary of the models of `live tiny`, of words in others
)
LAST_TOKEN: Final = 345


def prompts(workload: Workload, seed: int) -> list[list[int]]:
    """The tokens of every prompt; those of a session begin with all of the prompt before, as `new_tokens` says."""
    rng = random.Random(f"tokens/{seed}")
    before: dict[int, list[int]] = {}
    found = []
    for session, context, new in zip(
        workload.session.tolist(), workload.context_tokens.tolist(), workload.new_tokens.tolist(), strict=True
    ):
        kept = before.get(session, [])[: context - new]
        prompt = kept + [rng.randint(FIRST_TOKEN, LAST_TOKEN) for _ in range(context - len(kept))]
        before[session] = prompt
        found.append(prompt)
    return found
