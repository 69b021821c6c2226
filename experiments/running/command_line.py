"""How every command reads its options, what its tables look like, and how it ends."""

from __future__ import annotations

import contextlib
import os
import shlex
import signal
import sys
import threading
import typing
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from types import FrameType, NoneType, UnionType
from typing import Any, Final, TypeVar, Union

import pydantic
import rich.console
import tyro
from rich import box
from rich.table import Table
from rich.text import Text
from tyro.constructors import (
    ConstructorRegistry,
    PrimitiveConstructorSpec,
    PrimitiveTypeInfo,
    StructConstructorSpec,
    StructFieldSpec,
    StructTypeInfo,
)

from cace_env.config import ConfigError, Frozen, load, one_line, parse_yaml, printable, shown
from cace_env.evaluation.episodes import PolicyError
from cace_env.simulation import SimulationError
from cace_env.traces import TraceError

# No --no-FLAG beside every --FLAG; an enum is spelled as in files, by its values.
STYLE: Final = (tyro.conf.FlagCreatePairsOff, tyro.conf.AvoidSubcommands, tyro.conf.EnumChoicesFromValues)
WIDTH: Final = 120  # of what is printed into a file or a pipe
CONFIG: Final = "--config"
BROKEN_PIPE: Final = 128 + signal.SIGPIPE  # exit statuses, as shells give them
INTERRUPTED: Final = 128 + signal.SIGINT
TERMINATED: Final = 128 + signal.SIGTERM
PRIVATE: Final = 0o077  # umask: files are 0600, folders 0700
T = TypeVar("T")


class Console(rich.console.Console):
    """Prints text as it is, whatever a name in it looks like: `[red]` is no markup, escape sequences are spelled out.

    Rich has one place through which all strings go, also those in tables and titles, and no setting for it.
    """

    def __init__(self, **options: Any) -> None:
        super().__init__(markup=False, emoji=False, highlight=False, **options)

    def on_broken_pipe(self) -> None:
        raise  # the error that is being handled: `exit_status` ends all commands alike

    def render_str(self, text: str, **options: Any) -> Text:  # type: ignore[override]
        return super().render_str(printable(text), **options)


def screen_table(
    header: Sequence[str], rows: Iterable[Sequence[str]], title: str | None = None, *, left: int = 1, whole: int = 1
) -> Table:
    """A table for the terminal.

    Args:
        header: one cell per column.
        rows: cells; a row is bold if its first one stands between two asterisks each, `**lru**`.
        title: above it.
        left: so many columns are text, which stands to the left; numbers, in all others, stand to the right.
        whole: so many columns are never broken into lines.
    """
    shown = Table(title=title, title_justify="left", box=box.SIMPLE_HEAD, padding=(0, 1, 0, 0), show_edge=False)
    for at, name in enumerate(header):
        shown.add_column(name, justify="left" if at < left else "right", no_wrap=at < whole, overflow="fold")
    for row in rows:
        cells = (cell.removeprefix("**").removesuffix("**") for cell in row)
        shown.add_row(*cells, style="bold" if row[0].startswith("**") else None)
    return shown


@dataclass(frozen=True)
class Session:
    """What a command is given besides its options."""

    console: Console
    command: str  # as it was typed


def metavar(shown: str) -> Any:
    """How --help shows the value of an option whose description says what its default means."""
    return tyro.conf.arg(metavar=shown, help_behavior_hint="")


def split_names(values: Sequence[str]) -> list[str]:
    """`a,b c` and `a b c` alike; every name once."""
    return list(dict.fromkeys(name.strip() for value in values for name in value.split(",") if name.strip()))


def key_value(option: str, given: str, example: str) -> tuple[str, Any]:
    """An option `KEY=VALUE` in its two parts, the value as YAML reads it.

    Raises:
        ConfigError: it has no `=`, or its value is no YAML.
    """
    key, equals, value = given.partition("=")
    if not equals:
        raise ConfigError(f"{option} {shown(given)} has to be KEY=VALUE, such as {example}")
    return key.strip(), parse_yaml(value, f"{option} {shown(given)}")


def read_options(
    options: type[T] | Any, arguments: Sequence[str], name: str, about: str | None = None, default: T | None = None
) -> T:
    """Options from the command line, over those of the file named by --config, over the defaults.

    Args:
        options: a pydantic model, whose fields are the options and the keys of the file; or several, as sub-commands.
        arguments: of the command line.
        name: of the command, `python -m experiments.NAME`.
        about: what --help says first.
        default: options that apply where the command line and the file give none.

    Raises:
        ConfigError: the file is refused.
        RefusedError: a value is out of range.
        SystemExit: the command line is refused (2), or asked for help (0).
    """
    one = isinstance(options, type)
    file, rest = taken_out(CONFIG, arguments) if one else (None, list(arguments))
    more = f"\n{CONFIG} FILE.yaml sets any of the options; the command line wins." if one else ""
    read: Any = tyro.cli(
        options,
        args=rest,
        default=load(options, file) if file is not None else tyro.MISSING if default is None else default,
        prog=f"python -m experiments.{name}",
        description=f"{about}{more}",
        config=STYLE,
        registry=READING,
    )
    found: T = read
    return found


class RefusedError(Exception):
    """A value of an option that is out of range; no ValueError, of which tyro would make a box with all that it is."""


PLAIN: Final[dict[Any, tuple[str, str]]] = {
    int: ("N", "is no whole number"),
    float: ("X", "is no number"),
    str: ("TEXT", ""),
    Path: ("PATH", ""),
}


def _plain(info: PrimitiveTypeInfo) -> PrimitiveConstructorSpec[Any] | None:
    """A number, a text or a path."""
    if info.type not in PLAIN:
        return None
    kind, (called, problem) = info.type, PLAIN[info.type]

    def read(given: list[str]) -> Any:
        try:
            return kind(given[0])
        except ValueError:
            raise ValueError(f"{shown(given[0])} {problem}") from None

    return PrimitiveConstructorSpec(
        nargs=1,
        metavar=called,
        instance_from_str=read,
        is_instance=lambda value: isinstance(value, (int, float) if kind is float else kind),
        str_from_instance=lambda value: [str(value)],
    )


def _maybe(info: PrimitiveTypeInfo) -> PrimitiveConstructorSpec[Any] | None:
    """What may be left out: `None` typed in full is the same."""
    inner = [kind for kind in typing.get_args(info.type) if kind is not NoneType]
    if info.type_origin not in (Union, UnionType) or len(inner) != 1 or inner[0] not in PLAIN:
        return None
    plain = _plain(replace(info, type=inner[0], type_origin=None))
    assert plain is not None
    return replace(
        plain,
        instance_from_str=lambda given: None if given == ["None"] else plain.instance_from_str(given),
        is_instance=lambda value: value is None or plain.is_instance(value),
    )


def _section(info: StructTypeInfo) -> StructConstructorSpec | None:
    """The options of a command: fields of a pydantic model, whose limits are told as those of options."""
    if not (isinstance(info.type, type) and issubclass(info.type, Frozen)):
        return None
    hints = typing.get_type_hints(info.type, include_extras=True)
    given = isinstance(info.default, info.type)

    def default(name: str, field: pydantic.fields.FieldInfo) -> Any:
        if given:
            return getattr(info.default, name)
        return tyro.MISSING if field.is_required() else field.get_default(call_default_factory=True)

    fields = tuple(
        StructFieldSpec(name, hints[name], default(name, field), field.description or "")
        for name, field in info.type.model_fields.items()
    )
    return StructConstructorSpec(partial(_made, info.type), fields)


READING: Final = ConstructorRegistry()  # of what tyro would call INT or {None}|FLOAT, and refuse in Python's words
READING.primitive_rule(_plain)
READING.primitive_rule(_maybe)
READING.struct_rule(_section)


def _made(options: type[Frozen], **given: Any) -> Frozen:
    try:
        return options(**given)
    except pydantic.ValidationError as error:
        raise RefusedError("\n".join(_told(problem) for problem in error.errors(include_url=False))) from None


def _told(problem: Any) -> str:
    """What is wrong with an option, as `--gpus: input should be greater than or equal to 1 (got 0)`."""
    message = problem["msg"].removeprefix("Value error, ")
    if not problem["loc"]:  # of several options
        return str(message)
    name = str(problem["loc"][0]).replace("_", "-")
    return f"--{name}: {message[:1].lower()}{message[1:]} (got {one_line(repr(problem['input']), WIDTH)})"


def taken_out(option: str, arguments: Sequence[str]) -> tuple[str | None, list[str]]:
    """The value of an option that has to be known before the others can be read, and the other arguments.

    Raises:
        ConfigError: the option has no value.
    """
    rest, value, given = [], None, iter(arguments)
    for argument in given:
        if argument == option:
            value = next(given, None)
            if value is None:
                raise ConfigError(f"{option} needs a value")
        elif argument.startswith(f"{option}="):
            value = argument.partition("=")[2]
        else:
            rest.append(argument)
    return value, rest


def run_command(
    name: str,
    options: type[T] | Any,
    body: Callable[[T, Session], int | None],
    arguments: Sequence[str] | None,
    about: str | None = None,
    *,
    interrupted: str = "interrupted",
    read: Callable[[Sequence[str]], T] | None = None,
    private: bool = False,
) -> int:
    """Reads the options of a command and runs it.

    Args:
        name: as for `read_options`.
        options: as for `read_options`.
        body: the command; returns its exit status, None for 0.
        arguments: of the command line; None: those of this process.
        about: as for `read_options`.
        interrupted: what is said after Ctrl-C: what is left behind, and how to go on.
        read: reads the options, where `read_options` does not do.
        private: what it writes is for its user alone: files 0600, folders 0700.

    Returns:
        The exit status, see `exit_status`.
    """
    arguments = sys.argv[1:] if arguments is None else list(arguments)
    session = Session(
        Console(width=None if sys.stdout.isatty() else WIDTH),
        printable(shlex.join(["python", "-m", f"experiments.{name}", *arguments])),
    )
    if os.getcwd() not in sys.path:
        sys.path.insert(0, os.getcwd())  # where --policy module:object is looked for first

    def run() -> int:
        given = read(arguments) if read is not None else read_options(options, arguments, name, about)
        return body(given, session) or 0

    with terminable() as told, masked(PRIVATE if private else 0):
        status = exit_status(run, interrupted)
    return TERMINATED if told and status == INTERRUPTED else status


@contextlib.contextmanager
def masked(more: int) -> Iterator[None]:
    """New files and folders without these permissions, besides those that the user's umask takes away."""
    before = os.umask(PRIVATE)  # there is no other way to learn it
    os.umask(before | more)
    try:
        yield
    finally:
        os.umask(before)


@contextlib.contextmanager
def terminable() -> Iterator[list[int]]:
    """SIGTERM does what Ctrl-C does; the list holds the signal where one came."""
    told: list[int] = []

    def tell(number: int, frame: FrameType | None) -> None:
        del frame
        told.append(number)
        raise KeyboardInterrupt

    if threading.current_thread() is not threading.main_thread():  # no other thread may handle signals
        yield told
        return
    before = signal.signal(signal.SIGTERM, tell)
    try:
        yield told
    finally:
        signal.signal(signal.SIGTERM, before)


def exit_status(command: Callable[[], int], interrupted: str = "interrupted") -> int:
    """Runs a command: what its user can mend is said in a line on stderr, without a traceback.

    Args:
        command: returns its own exit status.
        interrupted: what is said after Ctrl-C: what is left behind, and how to go on.

    Returns:
        That of the command; 2 where something given to it cannot be used (nothing has run), 1 where an episode
        failed, or the machine did: a full disk, a file that may not be written, too little memory; 130 after Ctrl-C,
        141 where nobody reads what is printed any more.
    """
    try:
        status = command()
        sys.stdout.flush()
        return status
    except (ConfigError, RefusedError, TraceError) as error:
        print(f"error: {printable(str(error))}", file=sys.stderr)
        return 2
    except (PolicyError, SimulationError) as error:
        print(f"error: {printable(str(error))}", file=sys.stderr)
        return 1
    except BrokenPipeError:
        # What is left in the buffer has to go somewhere, or the interpreter complains as it ends.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return BROKEN_PIPE
    except OSError as error:
        print(f"error: {of_machine(error)}", file=sys.stderr)
        return 1
    except MemoryError:
        print("error: there is not enough memory for that; ask for less at a time", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print(interrupted, file=sys.stderr)
        return INTERRUPTED


def of_machine(error: OSError) -> str:
    """What the machine refuses, with the path that it is about."""
    where = f"{error.filename}: " if isinstance(error.filename, str) else ""
    return printable(f"{where}{error.strerror or error}", 4 * WIDTH)
