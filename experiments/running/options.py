"""The options of a comparison."""

from __future__ import annotations

import argparse
import os
from collections.abc import Sequence
from datetime import datetime
from pathlib import Path
from typing import Annotated, Any, Final, Literal

import tyro
import yaml
from pydantic import Field

from cace_env.config import ConfigError, Frozen, load
from cace_env.policies.python import Illegal
from cace_env.scenarios import FOR_DEBUGGING, Split, compared_scenarios
from cace_env.tables import Protocol
from experiments.running.command_line import STYLE, split_names
from experiments.running.lineup import protocols_of

DEFAULT_SEEDS: Final = 20
DEMO_SEEDS: Final = 15
DEMO_SCENARIOS: Final = ("default", "completion-heavy", "sleep-mode", "agents")
DEMO_SWAP: Final = ("fast-loader",)  # in Swap-v0
DEMO_REFERENCE: Final = 3  # seeds with the clairvoyant reference


def _said(metavar: str) -> Any:
    """An option whose description says what its default means."""
    return tyro.conf.arg(metavar=metavar, help_behavior_hint="")


class Comparison(Frozen):
    """What is compared; a file given with --config has the same keys."""

    policies: Annotated[tuple[str, ...], _said("A,B")] = Field(
        default=(),
        description="built-in policies, by default all but the readings of the quoted formula ('cace-quoted*'); "
        "cace:FILE.yaml is CACE with other weights; wsjf+cace loads by the order wsjf (--env swap); lru always runs",
    )
    policy: tyro.conf.UseAppendAction[Annotated[tuple[str, ...], tyro.conf.arg(metavar="MODULE:OBJECT")]] = Field(
        default=(), description="a Python policy f(features, legal) -> keep-scores, besides; may be given several times"
    )
    illegal: Annotated[Illegal, _said("error|replace")] = Field(
        default="error",
        description="what becomes of an action of a Python policy that is not legal: error (default) stops; replace "
        "takes the legal one of lowest index, as the environments do, and counts: for policies that know no masks",
    )
    agent: tyro.conf.UseAppendAction[Annotated[tuple[str, ...], tyro.conf.arg(metavar="NAME|FOLDER")]] = Field(
        default=(), description="a trained agent, shipped or in a folder; the same as agent:... among the policies"
    )
    scenarios: Annotated[tuple[str, ...], _said("A,B")] = Field(
        default=(),
        description="scenarios by name or YAML file; by default all shipped ones, without those for debugging "
        f"({', '.join(FOR_DEBUGGING)})",
    )
    seeds: Annotated[int | None, _said("N")] = Field(
        default=None, description=f"episodes of each policy on each scenario; {DEFAULT_SEEDS} by default"
    )
    split: Split = Field(default="test", description="where the seeds come from")
    env: Annotated[Protocol | Literal["both"] | None, _said("eviction|swap|both")] = Field(
        default=None,
        description="eviction (default): which model makes room (Eviction-v0); swap: which model is loaded next, too "
        "(Swap-v0)",
    )
    reference: Annotated[int | None, _said("N")] = Field(
        default=None,
        ge=0,
        description="on the first N seeds of each scenario look for the clairvoyant reference, too: seconds to half a "
        "minute each; scores are measured by it",
    )
    reference_option: tyro.conf.UseAppendAction[Annotated[tuple[str, ...], tyro.conf.arg(metavar="KEY=VALUE")]] = Field(
        default=(),
        description="how hard it is looked for, such as starts=2; keys of cace_env.planning.find_reference",
    )
    trace: Annotated[str | None, _said("FILE")] = Field(
        default=None, description="a log of real requests, which takes the place of the scenarios' workloads"
    )
    format: Annotated[str | None, _said("NAME")] = Field(default=None, description="its format, see docs/traces.md")
    trace_options: Annotated[dict[str, Any], tyro.conf.Suppress] = Field(
        default={}, description="other keys of cace_env.traces.TraceConfig"
    )
    trace_option: tyro.conf.UseAppendAction[Annotated[tuple[str, ...], tyro.conf.arg(metavar="KEY=VALUE")]] = Field(
        default=(),
        description="how the log is read and what is attached to it, such as users=200 or time_compression=10; may be "
        "given several times, see cace_env.traces.TraceConfig",
    )
    out: Annotated[str | None, _said("FOLDER")] = Field(
        default=None, description="run folder, new or empty; runs/<time>-compare by default"
    )
    workers: Annotated[int | None, _said("N")] = Field(
        default=None, description="threads; as many as there are cores by default"
    )
    demo: bool = Field(
        default=False,
        description=f"a tour: all policies, {DEMO_SEEDS} seeds, {DEMO_REFERENCE} with the reference, "
        f"scenarios {', '.join(DEMO_SCENARIOS)}; and in Swap-v0 "
        f"{', '.join(DEMO_SWAP)}",
    )
    show: Annotated[bool, tyro.conf.arg(name="list")] = Field(
        default=False, description="show policies and scenarios, and run nothing"
    )


def read_options(arguments: Sequence[str]) -> Comparison:
    """Options from the command line, over those of the file named by --config, over the defaults.

    Raises:
        ConfigError: the file is refused.
        SystemExit: the command line is refused (2), or asked for help (0).
    """
    before = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
    before.add_argument("--config")
    found, rest = before.parse_known_args(arguments)
    base = load(Comparison, found.config) if found.config else Comparison()
    options: Comparison = tyro.cli(
        Comparison,
        args=rest,
        default=base,
        prog="python -m experiments.compare",
        description=f"{__doc__}\n--config FILE.yaml sets any of the options below; the command line wins.",
        config=STYLE,
    )
    return options


def pairs_of(options: Comparison) -> list[tuple[str, Protocol]]:
    """Scenarios by name, each with what is asked there."""
    named = split_names(options.scenarios)
    protocols = protocols_of(options.env or Protocol.EVICTION)
    if options.demo and not named:
        demo = {Protocol.EVICTION: DEMO_SCENARIOS, Protocol.SWAP: DEMO_SWAP}
        return [(name, protocol) for protocol in (protocols if options.env else demo) for name in demo[protocol]]
    return [(name, protocol) for protocol in protocols for name in named or compared_scenarios()]


def run_folder_path(options: Comparison) -> Path:
    """--out, or a new folder under runs/ named after the time."""
    if options.out is not None:
        return Path(options.out)
    stamp = datetime.now().strftime("%Y%m%d-%H%M%S")
    path = Path("runs") / (f"demo-{stamp}" if options.demo else f"{stamp}-compare")
    return path if not path.exists() else path.with_name(f"{path.name}-{os.getpid()}")


def trace_section(options: Comparison) -> dict[str, Any] | None:
    """The log as a section of `cace_env.traces.TraceConfig`, or None.

    Raises:
        ConfigError: half of what a log needs, or an option that is no KEY=VALUE.
    """
    if options.trace is None:
        for key in ("format", "trace_options", "trace_option"):
            if getattr(options, key):
                raise ConfigError(f"{key} is for a log; name the log with --trace FILE")
        return None
    if options.format is None:
        raise ConfigError(f"--trace {options.trace} needs --format; docs/traces.md lists the formats")
    section: dict[str, Any] = {"path": options.trace, "format": options.format, **options.trace_options}
    for option in options.trace_option:
        key, equals, value = option.partition("=")
        if not equals:
            raise ConfigError(f"--trace-option {option!r} has to be KEY=VALUE, such as users=200")
        section[key.strip()] = yaml.safe_load(value)
    return section
