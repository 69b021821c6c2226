"""What several commands read or do alike."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Final

import numpy as np
import numpy.typing as npt
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


def print_or_write(
    page: Callable[[], str],
    module: str,
    about: str | None,
    arguments: Sequence[str] | None,
    picture: Callable[[], npt.NDArray[np.uint8]] | None = None,
) -> None:
    """The command of a page that is made from code: prints it, or writes it to the file that --write names.

    Args:
        page: makes it, as Markdown.
        module: whose command it is.
        about: what --help says.
        arguments: of the command line.
        picture: makes the page's picture, (height, width, 3), for the PNG file that --picture names.
    """
    parser = argparse.ArgumentParser(prog=f"python -m {module}", description=about)
    parser.add_argument("--write", type=Path, metavar="FILE", help="write the page to this file")
    parser.set_defaults(picture=None)
    if picture is not None:
        parser.add_argument("--picture", type=Path, metavar="FILE", help="write the picture to this file")
    options = parser.parse_args(arguments)
    if options.write is None and options.picture is None:
        print(page())
    if options.write is not None:
        options.write.write_text(page(), encoding="utf-8")
        print(f"wrote {options.write}")
    if picture is not None and options.picture is not None:
        from PIL import Image

        options.picture.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(picture()).save(options.picture, optimize=True)
        print(f"wrote {options.picture}, {options.picture.stat().st_size / 1024:.0f} KiB")
