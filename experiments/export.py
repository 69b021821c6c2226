"""Exports a policy, to decide without cace-env: as ONNX, or as a folder that needs NumPy alone.

    python -m experiments.export agent:eviction --out exported        policy.py, policy.json, weights.npz
    python -m experiments.export cace:tuned-swap --out cace.onnx      ONNX
    python -m experiments.export agent:swap --out swap.onnx --check 0     without asking it

What is written is asked the questions of simulated episodes, and has to give the answers of cace-env.
`docs/export.md` says what it takes and returns, and which policies can be exported.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from itertools import islice
from pathlib import Path
from typing import Annotated, Any, Final

import tyro
from pydantic import Field

from cace_env.cases import case_of
from cace_env.config import ConfigError, Frozen
from cace_env.export import Form, agreement, load_numpy, load_onnx, questions, write_numpy, write_onnx
from cace_env.policies import contestant_of
from cace_env.scenarios import seeds
from cace_env.tables import Protocol
from experiments.running.command_line import Session, metavar, run_command

ONNX: Final = ".onnx"
EPISODES: Final = 100  # no more are played to find the questions


class Options(Frozen):
    """What is exported, where it goes, and how it is checked."""

    policy: tyro.conf.Positional[Annotated[str, tyro.conf.arg(metavar="POLICY")]] = Field(
        description="agent:NAME, agent:FOLDER, cace, cace:FILE.yaml, lru, gdsf, ..."
    )
    out: Annotated[Path, metavar("FILE.onnx|FOLDER")] = Field(
        description="a file that ends with .onnx, or a folder for NumPy; what is there is overwritten"
    )
    env: Annotated[Protocol | None, metavar("ENV")] = Field(
        default=None,
        description="eviction or swap: refuse a policy that does not answer all that this environment asks",
    )
    check: int = Field(default=1_000, ge=0, description="questions that it has to answer as cace-env does; 0 = none")
    scenario: str = Field(default="default", description="whose questions these are")


def export(options: Options, session: Session) -> int:
    """Writes the policy and checks it; the exit status is 1 where it answers otherwise than cace-env.

    Raises:
        ConfigError: the policy cannot be exported, or a library is missing.
    """
    onnx = options.out.suffix == ONNX
    form = (write_onnx if onnx else write_numpy)(options.policy, options.out, options.env)
    session.console.print(f"wrote {options.out}: {form.about['policy']}, {answers(form)}", soft_wrap=True)
    read = ", ".join(
        f"{len(names)} of {len(form.about['features'][block])} {block}" for block, names in form.about["reads"].items()
    )
    session.console.print(f"features that it reads: {read}", soft_wrap=True)
    if not options.check:
        return 0
    found = agreement((load_onnx if onnx else _numpy)(options.out), recorded(options, form))
    session.console.print(
        f"the same action as cace-env at {found.same:,} of {found.questions:,} questions of {options.scenario}; scores "
        f"differ by at most {found.score_error:.1e}",
        soft_wrap=True,
    )
    return int(found.same != found.questions)


def answers(form: Form) -> str:
    """What it decides, in words."""
    return "chooses victims, loads and waits (Swap-v0)" if form.swap else "chooses victims"


def recorded(options: Options, form: Form) -> list[Any]:
    """The first questions of test episodes in the environment that the policy is for.

    Raises:
        ConfigError: the scenario asks fewer.
    """
    chosen, case = contestant_of(options.policy).built_in, case_of(options.scenario, form.about["env"])
    assert chosen is not None  # all that can be exported is built in
    all_questions = (one for seed in seeds("test", EPISODES) for one in questions(chosen, case, seed))
    found = list(islice(all_questions, options.check))
    if len(found) < options.check:
        raise ConfigError(
            f"{EPISODES} episodes of {options.scenario} ask {len(found)} questions; lower --check {options.check}, or "
            "name another --scenario"
        )
    return found


def _numpy(folder: Path) -> Callable[..., tuple[int, Any]]:
    policy = load_numpy(folder)
    return lambda *question: (policy.decide(*question), policy.scores(*question))


def main(arguments: Sequence[str] | None = None) -> int:
    """Command line; returns the exit status."""
    return run_command("export", Options, export, arguments, __doc__)


if __name__ == "__main__":
    sys.exit(main())
