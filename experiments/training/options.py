"""What `experiments.train` is told: options of the command, and those of the algorithm, as one flat set of keys."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Annotated, Any, Final

import pydantic
from pydantic import Field

from agents.algorithms import ALGORITHMS, DEFAULT_ALGORITHM, algorithm_of, chosen, config_class
from cace_env.config import MOST_STEPS, ConfigError, dump, parse, read_yaml
from experiments.running import command_line
from experiments.running.command_line import metavar, split_names, taken_out
from experiments.running.options import Placed
from experiments.training.tracking import Mode

EVALUATIONS: Final = 20  # of a training by default, besides that of its beginning
# What may differ when a training goes on: its numbers stay comparable.
FREE: Final = (
    "steps", "out", "resume", "executor", "ray_address", "evaluation_threads", "wandb", "wandb_project", "wandb_group",
    "wandb_tags",
)  # fmt: skip
# What is said anew each time: it is no part of a training.
ANEW: Final[dict[str, Any]] = {"out": None, "resume": False, "executor": "local", "ray_address": None}


class Options(Placed):
    """Options of every training, whatever the algorithm; keys of the algorithm stand beside them."""

    steps: Annotated[int | None, metavar("N")] = Field(
        default=None,
        ge=1,
        le=MOST_STEPS,
        description="train up to this global step, which counts decisions, or candidates in evolution; by default "
        + ", ".join(f"{row.steps:,} ({name})" for name, row in ALGORITHMS.items()),
    )
    out: Annotated[str | None, metavar("FOLDER")] = Field(
        default=None, description="run folder, new or empty; runs/<time>-<algorithm> by default"
    )
    resume: bool = Field(default=False, description="go on with the training in --out, or begin it if there is none")
    interval: Annotated[int | None, metavar("N")] = Field(
        default=None,
        ge=1,
        le=MOST_STEPS,
        description=f"steps between evaluations, each with a checkpoint; by default one {EVALUATIONS}th of --steps",
    )
    validation_seeds: int = Field(default=16, ge=1, le=100, description="episodes of each case in an evaluation")
    evaluation_threads: int = Field(default=2, ge=1, le=256, description="that simulate in an evaluation")
    wandb: Mode = Field(
        default="offline", description="Weights & Biases: offline keeps its files in the run folder; online needs a key"
    )
    wandb_project: str = Field(default="cace-env", min_length=1, description="project of W&B")
    wandb_group: Annotated[str | None, metavar("NAME")] = Field(
        default=None, description="group of W&B, such as seeds of one configuration; <algorithm>-<env> by default"
    )
    wandb_tags: Annotated[tuple[str, ...], metavar("A,B")] = Field(default=(), description="tags of W&B")


def options_class(algorithm: str) -> type[Options]:
    """The options of a training by an algorithm: those of every training, and the algorithm's own.

    Raises:
        ConfigError: no such algorithm, or a library that it needs is missing.
    """
    own = config_class(algorithm)
    both = sorted(set(own.model_fields) & set(Options.model_fields))
    if both:
        raise TypeError(f"{own.__name__} has keys that every training has: {both}")
    bases: Any = (Options, own)
    made: type[Options] = pydantic.create_model("Training", __base__=bases)
    return made


@dataclass(frozen=True)
class Resolved:
    """Options without anything left open."""

    options: Options  # of `options_class`
    agent: Any  # the algorithm's own configuration

    @property
    def algorithm(self) -> str:
        return str(self.agent.algorithm)

    @property
    def steps(self) -> int:
        return int(self.options.steps or 0)

    @property
    def interval(self) -> int:
        return int(self.options.interval or 0)

    @property
    def threads(self) -> int:
        return self.options.evaluation_threads

    @property
    def out(self) -> Path:
        return Path(str(self.options.out))

    @property
    def kept(self) -> str:
        """config.yaml: with it, the same can be trained again elsewhere."""
        return dump(self.options.model_copy(update=ANEW))


def read_options(arguments: Sequence[str], about: str, command: str = "train") -> Options:
    """Options from the command line, over those of the YAML file that it begins with, over the defaults.

    With --resume and no file, the configuration is the one that the run folder keeps.

    Args:
        arguments: of the command line.
        about: what --help says first.
        command: whose name stands there.

    Raises:
        ConfigError: the file is refused, one line per problem.
        SystemExit: the command line is refused (2), or asked for help (0).
    """
    source, rest = (
        (arguments[0], arguments[1:]) if arguments and not arguments[0].startswith("-") else (None, arguments)
    )
    content = read_yaml(source) if source is not None else {}
    where = source or "configuration"
    kept = Path(taken_out("--out", rest)[0] or "", "config.yaml")
    if source is None and "--resume" in rest and kept.is_file():
        content, where = read_yaml(kept), str(kept)
    named = taken_out("--algorithm", rest)[0]
    if named is not None and named in ALGORITHMS:  # tyro refuses others, with the rest of what is wrong
        content = {**content, "algorithm": named}
    name = chosen(content, where)
    section = options_class(name)
    given = parse(section, {"algorithm": name, **content}, where)
    what = (
        f"{about}\nA YAML file with any of the options below may stand first; the command line wins. Algorithms: "
        f"{', '.join(ALGORITHMS)}; {DEFAULT_ALGORITHM} by default. The options are those of {name}: --algorithm NAME "
        "--help shows another one's."
    )
    options: Options = command_line.read_options(section, rest, f"{command} [FILE.yaml]", what, given)
    return options


def resolved(options: Options, kept: Mapping[str, Any] | None = None) -> Resolved:
    """Fills in what was left open.

    Args:
        options: as given.
        kept: config.yaml of the training that goes on; None: it begins.

    Raises:
        ConfigError: a training would go on with another configuration.
    """
    content: dict[str, Any] = options.model_dump(mode="json")
    name = str(content["algorithm"])
    if kept is not None:
        before = parse(options_class(chosen(kept, "config.yaml")), dict(kept), "config.yaml").model_dump(mode="json")
        content |= {key: value for key, value in before.items() if content.get(key) is None}
        changed = [key for key in {**before, **content} if key not in FREE and before.get(key) != content.get(key)]
        if changed:
            differences = ", ".join(f"{key} {before.get(key)!r}, now {content.get(key)!r}" for key in changed)
            raise ConfigError(
                f"a training goes on with the configuration that it began with ({differences}); leave that out, or "
                "train anew with another --out"
            )
    steps = content["steps"] or algorithm_of(name).steps
    content |= {
        "steps": steps,
        "interval": content["interval"] or max(1, steps // EVALUATIONS),
        "wandb_group": content["wandb_group"] or f"{name}-{content['env']}",
        "wandb_tags": split_names(options.wandb_tags),
        "out": content["out"] or str(_new_folder(name)),
    }
    own = config_class(name)
    agent = parse(own, {key: content[key] for key in own.model_fields}, "options")
    return Resolved(parse(options_class(name), content, "options"), agent)


def _new_folder(algorithm: str) -> Path:
    stamp = datetime.now().strftime("%Y%m%d-%H%M%S")
    path = Path("runs") / f"{stamp}-{algorithm}"
    return path if not path.exists() else path.with_name(f"{path.name}-{os.getpid()}")
