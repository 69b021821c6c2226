"""What several commands read or do alike."""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from typing import Final

import tyro

from cace_env.config import ConfigError
from cace_env.evaluation.episodes import PolicyError
from cace_env.simulation import SimulationError
from cace_env.traces import TraceError

# No --no-FLAG beside every --FLAG; an enum is spelled as in files, by its values.
STYLE: Final = (tyro.conf.FlagCreatePairsOff, tyro.conf.AvoidSubcommands, tyro.conf.EnumChoicesFromValues)


def split_names(values: Sequence[str]) -> list[str]:
    """`a,b c` and `a b c` alike; every name once."""
    return list(dict.fromkeys(name.strip() for value in values for name in value.split(",") if name.strip()))


def exit_status(command: Callable[[], int], interrupted: str = "interrupted") -> int:
    """Runs a command: what its user can mend is said in a line on stderr, without a traceback.

    Args:
        command: returns its own exit status.
        interrupted: what is said after Ctrl-C: what is left behind, and how to go on.

    Returns:
        That of the command; 2 where something given to it cannot be used (nothing has run), 1 where an episode
        failed, 130 after Ctrl-C.
    """
    try:
        return command()
    except (ConfigError, TraceError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    except (PolicyError, SimulationError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print(interrupted, file=sys.stderr)
        return 130
