"""Puts a trained agent among those that ship: its best checkpoint, under a name, with what its card has to say.

    python -m experiments.ship_agent runs/imitation --name eviction --works "..." --fails "..."

`make agents` trains those that ship again and puts them here. `docs/agents.md` shows their results.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Final

import tyro
from pydantic import Field

from cace_env.config import ConfigError, Frozen
from cace_env.policies import Agent, load_agent, write_agent
from cace_env.policies.network import Urgency
from experiments.running.command_line import Session, metavar, run_command

SHIPPED: Final = Path(__file__).resolve().parents[1] / "cace_env" / "data" / "agents"
DIGITS: Final = 4  # significant ones of feature ranges on a card: it is read by people, too


def ship(run: Path, name: str, texts: dict[str, str], shipped: Path = SHIPPED, urgency: Urgency | None = None) -> Path:
    """Copies the best checkpoint of a training; returns its folder.

    Args:
        run: folder of `experiments.train`.
        name: what the agent is called from now on.
        texts: fields of the card, such as description, works, fails, logs and command; those that are missing stay.
        shipped: where the agents lie.
        urgency: what it adds for long waits; None = what its card says.

    Raises:
        ConfigError: no such training, or a field that the card does not have.
    """
    agent = load_agent(run / "best")
    if unknown := sorted(set(texts) - {"description", "works", "fails", "logs", "command"}):
        raise ConfigError(f"a card is given description, works, fails, logs and command here, not {unknown[0]!r}")
    limits = {key: (_rounded(low), _rounded(high)) for key, (low, high) in agent.card.limits.items()}
    card = agent.card.model_copy(update={**texts, "name": name, "limits": limits})
    if urgency is not None:
        card = card.model_copy(update={"urgency": urgency})
    write_agent(Agent(card, agent.network), shipped / name)
    return shipped / name


def _rounded(value: float) -> float:
    return float(f"{value:.{DIGITS}g}")


class Options(Frozen):
    """Which agent, under which name, and what its card has to say; what is left out stays."""

    run: tyro.conf.Positional[Annotated[Path, tyro.conf.arg(metavar="RUN_FOLDER")]] = Field(
        description="folder of `python -m experiments.train`"
    )
    name: str = Field(description="what it is called among those that ship")
    description: Annotated[str | None, metavar("TEXT")] = Field(default=None, description="what it is, in a line")
    works: Annotated[str | None, metavar("TEXT")] = Field(default=None, description="where it does well")
    fails: Annotated[str | None, metavar("TEXT")] = Field(default=None, description="where it does not")
    logs: Annotated[str | None, metavar("TEXT")] = Field(
        default=None, description="what real logs showed: `python -m experiments.shifted --logs FOLDER` writes the line"
    )
    command: Annotated[str | None, metavar("TEXT")] = Field(
        default=None, description="what trains it again; as typed by default"
    )
    urgency_of: Annotated[str | None, metavar("AGENT")] = Field(
        default=None, description="the agent, by name or folder, whose urgency it gets, for Swap-v0; its own by default"
    )


def ship_agent(options: Options, session: Session) -> None:
    """Copies it, and says where it is."""
    texts = options.model_dump(exclude={"run", "name", "urgency_of"}, exclude_none=True)
    urgency = None if options.urgency_of is None else load_agent(options.urgency_of).card.urgency
    if options.urgency_of is not None and urgency is None:
        raise ConfigError(f"--urgency-of {options.urgency_of}: this agent has none; name another one")
    session.console.print(f"wrote {ship(options.run, options.name, texts, urgency=urgency)}", soft_wrap=True)


def main(arguments: Sequence[str] | None = None) -> int:
    """Command line; returns the exit status."""
    return run_command("ship_agent", Options, ship_agent, arguments, __doc__)


if __name__ == "__main__":
    sys.exit(main())
