"""What each part of a policy is worth, and what other weights of the cost would change.

    python -m experiments.ablate cace                              CACE without each term, and each term alone
    python -m experiments.ablate cace --weights tuned.yaml         the same for weights of your own
    python -m experiments.ablate features --agent NAME_OR_FOLDER   a learned policy without each group of features
    python -m experiments.ablate rewards                           the same episodes judged by ttft, e2e and balanced
    python -m experiments.ablate weights --run runs/mine           every weight halved and doubled, of a comparison

Each writes a run folder with rows.csv, report.md and a plot; `docs/ablations.md` explains them.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Annotated, Any, Final, Literal

import tyro
from pydantic import Field

from cace_env.config import ConfigError
from cace_env.evaluation.episodes import seed_list
from cace_env.evaluation.held_out import WHOLE_SUITE, validation_seeds
from cace_env.files import replace_file
from cace_env.policies import Agent, Contestant, contestant_of, load_agent
from cace_env.policies.built_in import Policy
from cace_env.scenarios import seeds
from cace_env.tables import Protocol
from experiments.reading.cace_ablations import cace_variants
from experiments.reading.feature_groups import FEATURE_GROUPS, feature_means, groups_table, neutralised
from experiments.reading.reweighed import AS_STATED, Weighing, halved_and_doubled, presets, reward_of
from experiments.reports.ablation import draw_variants, draw_weighings, judged_costs, variants_page, weighings_page
from experiments.running import runner
from experiments.running.cases import Chosen, chosen, prepared
from experiments.running.command_line import Session, metavar, run_command, split_names
from experiments.running.options import Executed, Names, Running
from experiments.running.run_folder import BASELINE, Run
from experiments.running.runner import Plan

DEFAULT_SEEDS: Final = 20
NO_MATTER: Final = {"policies", "scenarios", "seeds", "out", "env", *Executed.model_fields}  # to what a row means
JUDGED: Final = {
    Protocol.EVICTION: ("cace", "gdsf", "omlx", "belady-cost"),
    Protocol.SWAP: ("cace", "wsjf+cace", "patient-wsjf+gdsf"),
}
TITLES: Final = {"rewards": "Policies under other presets of the reward", "weights": "Each weight halved and doubled"}
ABOUT_CACE: Final = (
    "CACE is a weighted sum of terms. *Without* a term: its weight is 0, all others stay. *Only* a term: all other "
    "weights are 0. A term can be worth nothing beside the others and much alone: terms say similar things."
)
ABOUT_FEATURES: Final = (
    "Each group is fixed to its mean over the {decisions:,} decisions that the policy takes on {seeds} validation "
    "seeds of each scenario; nothing is trained again. So this says what the policy does with a group, not what could "
    "be learned without it. Groups overlap in what they say. The mask of legal actions is left as it is."
)


class Options(Running):
    """What is left out, of what, and where."""

    study: tyro.conf.Positional[Literal["cace", "features", "rewards", "weights"]] = Field(description="what is varied")
    weights: Annotated[str, tyro.conf.arg(metavar="FILE")] = Field(
        default="cace", description="cace: weights by shipped name or YAML file"
    )
    agent: Annotated[str | None, metavar("NAME|FOLDER")] = Field(
        default=None, description="features: the learned policy; its environment is the one that is run"
    )
    validation: Annotated[int, tyro.conf.arg(metavar="N")] = Field(
        default=2, ge=1, description="features: validation seeds of each scenario that means are taken over"
    )
    retrain: Annotated[int | None, metavar("STEPS")] = Field(
        default=None,
        ge=1,
        description="features of a linear agent: also train one without each group, and one with all, so many "
        "candidates each (minutes each; agents/evolution/trainer.py)",
    )
    order: Annotated[str | None, metavar("ORDER")] = Field(
        default=None, description="cace, in Swap-v0: which model is loaded first; fifo by default"
    )
    policies: Names = Field(
        default=(), description="rewards and weights: policies to judge; some rules of each kind by default, lru always"
    )
    run: Annotated[str | None, metavar("FOLDER")] = Field(
        default=None, description="rewards and weights: judge a finished comparison instead of running anything"
    )
    told: bool = Field(
        default=False,
        description="rewards and weights: run the policies under each choice of weights, instead of judging the same "
        "episodes by it; some policies read the weights",
    )
    env: Annotated[Protocol, tyro.conf.arg(metavar="eviction|swap")] = Field(
        default=Protocol.EVICTION, description="Eviction-v0 or Swap-v0"
    )
    scenarios: Names = Field(
        default=(), description="suites, entries of the suite, scenarios or YAML files; all of suite v1 by default"
    )


def ablate(options: Options, session: Session) -> int:
    """Runs a study and writes its report; returns the exit status.

    Raises:
        ConfigError: options that cannot be used; nothing has been written.
        PolicyError, SimulationError: an episode failed.
    """
    path = options.folder(f"ablate-{options.study}")
    if options.study == "cace":
        return ablate_cace(options, path, session)
    if options.study == "features":
        return ablate_features(options, path, session)
    return reweigh(options, path, session)


def ablate_cace(options: Options, path: Path, session: Session) -> int:
    """CACE without each of its terms, and each of them alone; errors as for `ablate`."""
    if options.order is not None and options.env == Protocol.EVICTION:
        raise ConfigError(f"--order {options.order} is for Swap-v0: add --env swap")
    full, variants = cace_variants(options.weights, options.order)
    run = play(options, path, [full, *variants.values()], session)
    if run is None:
        return 130
    names = {said: variant.name for said, variant in variants.items()}
    page = variants_page(run, full.name, names, f"What each term of CACE is worth ({options.weights})", ABOUT_CACE)
    draw_variants(run, full.name, names, path / "parts.png")
    return write(path, page, session)


def ablate_features(options: Options, path: Path, session: Session) -> int:
    """A learned policy that is not told each group of its features; errors as for `ablate`."""
    if options.agent is None:
        raise ConfigError("features needs --agent: the name of a shipped agent, or the folder of one")
    agent = load_agent(options.agent)
    cases = chosen(split_names(options.scenarios), [agent.card.env])
    with session.console.status(f"taking means over the agent's decisions on {options.validation} validation seeds"):
        means = feature_means(agent, [case.scenario for case in cases], validation_seeds(options.validation))
    full = replace(agent.policy(), name=f"{agent.card.name} (full)")
    variants = {
        f"without {group}": replace(full, name=f"without {group}", network=neutralised(agent.network, means, group))
        for group in FEATURE_GROUPS
    }
    trained: dict[str, Agent] = {}
    if options.retrain is not None:
        from experiments.training.feature_ablation import retrain  # CMA-ES is for those who train

        train_on = split_names(options.scenarios) or WHOLE_SUITE
        with options.execution().opened() as executor:
            trained = retrain(agent, train_on, options.retrain, executor, session.console)
    policies = [full, *variants.values(), *(replace(row.policy(), name=name) for name, row in trained.items())]
    run = play_on(options, path, cases, policies, session)
    if run is None:
        return 130
    names = {said: variant.name for said, variant in variants.items()}
    about = ABOUT_FEATURES.format(decisions=means.decisions, seeds=options.validation) + "\n\n" + groups_table()
    page = variants_page(run, full.name, names, f"What each group of features is worth to {agent.card.name}", about)
    draw_variants(run, full.name, names, path / "parts.png")
    if trained:
        from experiments.training.feature_ablation import RETRAINED, write_retrained

        write_retrained(run, trained, path)
        page += f"\nTrained anew without each group: [{RETRAINED}]({RETRAINED}).\n"
    return write(path, page, session)


def reweigh(options: Options, path: Path, session: Session) -> int:
    """Policies under other weights of the cost; as `ablate`."""
    choices = presets if options.study == "rewards" else halved_and_doubled
    contestants = [contestant_of(name) for name in split_names(options.policies) or JUDGED[options.env]]
    if options.told:
        cases = cases_of(options)
        weighings = choices({case.name: case.scenario.costs() for case in cases})
        run = play_told(options, path, cases, weighings, contestants, session)
        if run is None:
            return 130
        costs = told_costs(run, cases, weighings)
    else:
        finished = Run(Path(options.run)) if options.run is not None else None
        run = finished or play(options, path, contestants, session)
        if run is None:
            return 130
        weighings = choices({name: reward_of(run.about["scenarios"][name]) for name in run.scenarios})
        costs = judged_costs(run, weighings)
        path.mkdir(parents=True, exist_ok=True)
    draw_weighings(weighings, costs, path / "weights.png", run.blocks)
    return write(path, weighings_page(TITLES[options.study], run, weighings, costs, told=options.told), session)


def play(
    options: Options,
    path: Path,
    policies: Sequence[Policy | Contestant],
    session: Session,
) -> Run | None:
    """LRU and some policies on the scenarios that were asked for; None after Ctrl-C."""
    return play_on(options, path, cases_of(options), policies, session)


def cases_of(options: Options) -> list[Chosen]:
    """The scenarios that were asked for."""
    return chosen(split_names(options.scenarios), [options.env])


def play_on(
    options: Options,
    path: Path,
    cases: Sequence[Chosen],
    policies: Sequence[Policy | Contestant],
    session: Session,
) -> Run | None:
    """LRU and some policies on scenarios, into the run folder; None after Ctrl-C."""
    contestants = [contestant_of(BASELINE)] + [contestant_of(one) for one in policies]
    contestants = list({contestant.name: contestant for contestant in contestants}.values())
    numbers = seed_list(seeds(options.split, options.seeds if options.seeds is not None else DEFAULT_SEEDS))
    with session.console.status("preparing: scenarios, requests, compiled code"):
        ready = prepared(cases, contestants, numbers)
    # What variants are called does not say what they are variants of.
    agree = options.model_dump(mode="json", exclude=NO_MATTER)
    plan = Plan(path, ready, options, options.split, options.execution(), agree=agree)
    outcome = runner.play(plan, session, options.study)
    return outcome.run if outcome.status == runner.FINISHED else None


def play_told(
    options: Options,
    path: Path,
    cases: Sequence[Chosen],
    weighings: Sequence[Weighing],
    contestants: Sequence[Contestant],
    session: Session,
) -> Run | None:
    """Every policy on every scenario under every choice of weights; None after Ctrl-C."""
    told = [
        case._replace(
            name=told_name(case.name, weighing), scenario=case.scenario.replace(reward=weighing.by_scenario[case.name])
        )
        for weighing in weighings
        for case in cases
    ]
    return play_on(options, path, told, contestants, session)


def told_name(scenario: str, weighing: Weighing) -> str:
    """Under which a scenario with other weights stands in the run folder."""
    return scenario if weighing.name == AS_STATED else f"{scenario} ({weighing.name})"


def told_costs(
    run: Run, cases: Sequence[Chosen], weighings: Sequence[Weighing]
) -> dict[str, dict[str, dict[str, Any]]]:
    """What `judged_costs` would say, of policies that knew the weights."""
    names = run.everywhere(run.scenarios)
    return {
        weighing.name: {
            name: {case.name: run.columns[told_name(case.name, weighing), name]["cost"] for case in cases}
            for name in names
        }
        for weighing in weighings
    }


def write(path: Path, page: str, session: Session) -> int:
    """Writes the report; returns the exit status."""
    report = path / "report.md"
    replace_file(report, page)
    session.console.print(f"Report: {report}", soft_wrap=True)
    return 0


def main(arguments: Sequence[str] | None = None) -> int:
    """Command line; returns the exit status."""
    return run_command("ablate", Options, ablate, arguments, __doc__)


if __name__ == "__main__":
    sys.exit(main())
