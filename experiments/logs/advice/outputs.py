"""What a recommendation leaves: a screen of text, recommendation.json, capacity.csv, and the page."""

from __future__ import annotations

import shlex
from typing import Any, Final, NamedTuple

import numpy as np
from rich.console import Console

from cace_env.evaluation import Gain
from cace_env.evaluation.scores import Estimate
from cace_env.policies.contestants import NO_SWAPPING
from cace_env.policies.orders import JOINT
from cace_env.tables import TASKS, Protocol
from experiments.logs.advice.answering import TUNED_FILE, Question, Results, file_name
from experiments.logs.advice.contenders import PROPOSED_ORDER, TUNED
from experiments.logs.advice.decision import SIMPLEST_FIRST, Answer, Step, attained, waited_minutes_per_day
from experiments.logs.advice.measured import Measured, doubted, doubts_of
from experiments.logs.advice.prices import Fleet, Price
from experiments.logs.advice.wording import (
    BOUND,
    BOUND_NOTE,
    anywhere,
    between,
    headline,
    kept_by,
    longer_waits,
    name_of,
    share,
    usd,
    warnings_of,
    weighted,
)
from experiments.running.command_line import screen_table
from experiments.running.run_folder import surroundings

MOST_SHOWN: Final = 8  # policies in the terminal
STEPS: Final = {
    "nothing": "as it is",
    "policy": "other policy",
    "fewer": "fewer GPUs",
    "more": "more GPUs",
    "both": "GPUs + policy",
}


class Told(NamedTuple):
    """What an answer is told with."""

    question: Question
    prices: dict[str, Price]
    command: str
    assumed_fleet: bool  # nobody said what there is today
    measured: Measured | None

    def sentence(self, answer: Answer) -> str:
        """The answer in short; without money where the simulation does not fit the log."""
        return headline(answer, doubted(self.measured))

    def further(self, results: Results) -> list[str]:
        """What stands below the sentence."""
        answer = results.answer
        assert answer is not None
        best = anywhere(answer) if doubted(self.measured) is None else ""
        return [text for text in (kept_by(results.grid, self.question.promises, answer), best) if text]

    def warnings(self, results: Results) -> list[str]:
        """What a reader must not overlook, the gravest first."""
        answer, question = results.answer, self.question
        assert answer is not None
        return [
            *doubts_of(self.measured), *warnings_of(answer, results.grid, question.parts, question.promises)
        ]  # fmt: skip

    def weighted(self) -> str:
        """What a weighted hour is, by the weights of today's scenario."""
        costs = self.question.scenario(self.question.current).costs().tasks()
        return weighted({TASKS[code]: costs[TASKS[code]] for code in np.unique(self.question.parts.whole.task)})

    def introduction(self) -> str:
        """What is asked, before it is played."""
        question, parts = self.question, self.question.parts
        fleets = sorted(question.fleets, key=lambda fleet: fleet.usd_per_hour)
        assumed = " (assumed: give yours by --gpu and --gpus)" if self.assumed_fleet else ""
        return (
            f"{len(parts.whole):,} requests. Today: {question.current.name}{assumed} with "
            f"{question.deployed}. Fleets: {', '.join(fleet.name for fleet in fleets)}."
        )

    def reached(self, results: Results) -> list[str]:
        """How the answer was reached."""
        question, parts, economy = self.question, self.question.parts, self.question.economy
        tuning = sum(map(len, parts.tuning))
        tuned = "CACE was not tuned."
        if results.tuned is not None:
            tuned = (
                f"CACE was tuned on the first part alone: CMA-ES, {results.tuned.generations} generations, "
                f"{results.tuned.requests:,} simulated requests, on {question.current.name}; the weights are used on "
                "every fleet."
            )
        return [
            f"The log in order of time: {tuning:,} requests to tune on, the next {parts.judged_from - tuning:,} to "
            f"choose by, and the last {len(parts.whole) - parts.judged_from:,}, in {parts.windows} windows, to judge "
            f"by. {tuned} The policy is the cheapest of the first two parts; tuned CACE only where it beats that one "
            "on the second.",
            "Intervals (95 %) draw blocks of consecutive windows again, the same for all policies and fleets. They "
            "say how much hangs on the hours that the log happens to hold, and nothing of how well the simulation "
            "fits.",
            f"{self.weighted()} A weighted hour is taken to be one of a developer, at {usd(economy.developer_usd)} an "
            f"hour; {economy.hours_per_day:g} hours of such load a day, {economy.days_per_month:g} days a month; GPUs "
            f"are paid for {economy.gpu_hours:g} hours a month. Prices: {self.priced()}.",
            "A step is taken where it leaves most money; a simpler one where the two cannot be told apart or differ by "
            "less than 1 % of what is paid today.",
        ]

    def priced(self) -> str:
        """The prices that were used."""
        kinds = dict.fromkeys(gpu for fleet in self.question.fleets for gpu in fleet.kinds)
        said = []
        for gpu in kinds:
            price = self.prices[gpu]
            read = f", list price read {price.read}" if price.read else ""
            said.append(f"{gpu} USD {price.usd_per_hour:g} an hour ({price.source}{read})")
        return "; ".join(said)

    def next_steps(self, results: Results) -> list[str]:
        """Commands that go on from here."""
        answer, folder = results.answer, self.question.folder
        assert answer is not None
        policy = answer.step.policy
        if policy == self.question.deployed and "policy" in answer.steps:
            policy = answer.steps["policy"].policy
        scenario = folder / "scenarios" / file_name(answer.step.fleet)
        name = policy
        if policy == TUNED:
            order = f"{PROPOSED_ORDER}{JOINT}" if self.question.env == Protocol.SWAP else ""
            name = f"{order}cace:{folder / TUNED_FILE}"
        policies = shlex.quote(f"{self.question.deployed},{name}")
        return [
            "Look closer at the two policies on this log: `python -m experiments.compare --env "
            f"{self.question.env} --scenarios {shlex.quote(str(scenario))} --policies {policies}`",
            "Run a pilot, import the gateway's log from before and after it, and ask what changed: "
            "`python -m experiments.recommend --before BEFORE --after AFTER`",
        ]


def capacity(told: Told, results: Results) -> tuple[list[str], list[list[Any]]]:
    """Every policy on every fleet, as rows."""
    question, draws = told.question, results.draws
    header = [
        "fleet", "gpus", "policy", "usd_per_month", "cost_saved_percent", "cost_saved_low", "cost_saved_high",
        "waited_min_per_day", "waited_low", "waited_high", "ttft_mean_s", "ttft_p95_s", "longest_wait_s", "refused",
        *(f"kept: {promise}" for promise in question.promises), "evictions", "loads", "decisions", "compute_share",
        "channel_share",
    ]  # fmt: skip
    now = results.answer.now if results.answer is not None else None
    rows = []
    for (fleet, policy), played in sorted(results.grid.items(), key=lambda row: (row[0][0].usd_per_hour, row[0][1])):
        saved = draws.gain(now.cost, played.cost) if now is not None else Gain(*[float("nan")] * 3)
        rows.append(
            [
                fleet.name, fleet.gpus, policy, round(fleet.usd_per_hour * question.economy.gpu_hours, 2), *saved,
                *waited_minutes_per_day(played, question.economy, draws), played.ttft_mean_s, played.ttft_p95_s,
                played.longest_wait_s, played.refused, *(kept.value for kept in attained(played, draws)),
                played.evictions, played.loads, played.decisions, played.compute_share, played.channel_share,
            ]
        )  # fmt: skip
    return header, rows


def as_json(told: Told, results: Results) -> dict[str, Any]:
    """The answer for other programs."""
    question, answer = told.question, results.answer
    assert answer is not None
    return {
        "answer": answer.step.kind,
        "sentence": told.sentence(answer),
        "promises": kept_by(results.grid, question.promises, answer),
        "best_anywhere": anywhere(answer),
        "warnings": told.warnings(results),
        "today": {"fleet": answer.now_fleet.name, "policy": answer.deployed, "paid_usd_per_month": answer.paid_usd,
                  "waiting_usd_per_month": answer.waiting_usd},
        "steps": {kind: _step_json(step) for kind, step in answer.steps.items()},
        "robustness": [
            {"situation": row.situation.name, "what": row.situation.what, "saved_percent": row.gain.percent,
             "low": row.gain.low, "high": row.gain.high, "deployed_cost_ratio": row.deployed_cost,
             "longest_wait_ratio": row.longest_wait}
            for row in results.held
        ],
        "tuned": None if results.tuned is None else {
            "file": TUNED_FILE, "weights": results.tuned.weights.model_dump(), "requests": results.tuned.requests,
            "generations": results.tuned.generations},
        "measured": None if told.measured is None else told.measured.plain(),
        "economy": question.economy._asdict(),
        "prices": {gpu: price._asdict() for gpu, price in told.prices.items()},
        "windows": question.parts.windows,
        "left_out": results.left_out,
        "interrupted": results.interrupted,
        "label": question.parts.whole.label,
        "command": told.command,
        **surroundings(),
    }  # fmt: skip


def _step_json(step: Step) -> dict[str, Any]:
    return {
        "fleet": step.fleet.name,
        "policy": step.policy,
        "saved_percent": step.saved._asdict(),
        "weighted_developer_hours_per_month": step.hours._asdict(),
        "waited_hours_per_month": step.waited_hours._asdict(),
        "gpu_usd_per_month": step.gpu_usd,
        "net_usd_per_month": step.net_usd._asdict(),
    }


def step_rows(answer: Answer) -> list[list[str]]:
    """The steps as a table, in the columns of `STEP_HEADER`; what decides stands first, for narrow screens."""
    rows = []
    for step in (answer.steps[kind] for kind in SIMPLEST_FIRST if kind in answer.steps):
        taken = step is answer.step
        if step.kind == "nothing":
            cells = ["0"] * 5
        else:
            waited = between(Estimate(step.waited_hours.value, float("nan"), float("nan")))
            cells = [between(step.net_usd), share(step.saved), between(step.hours), waited, f"{step.gpu_usd:,.0f}"]
        cells = [STEPS[step.kind], *cells, step.fleet.name, step.policy]
        rows.append([f"**{cell}**" if taken else cell for cell in cells])
    return rows


STEP_HEADER: Final = (
    "step", "left USD", "cost saved", "weighted h", "waited h", "GPU USD", "fleet", "policy",
)  # fmt: skip


def scoreboard(told: Told, results: Results, fleet: Fleet) -> list[list[str]]:
    """Policies on a fleet, the cheapest first and the bound last, in the columns of `score_header`."""
    question, draws, answer = told.question, results.draws, results.answer
    assert answer is not None
    rows = []
    here = results.on(fleet)
    theirs = here.get(answer.deployed, answer.now)
    for policy, played in sorted(here.items(), key=lambda row: (row[0] == NO_SWAPPING, row[1].cost.sum())):
        rows.append(
            [
                BOUND if policy == NO_SWAPPING else policy,
                "0" if policy == answer.deployed else share(draws.gain(theirs.cost, played.cost)),
                f"{waited_minutes_per_day(played, question.economy, draws).value:,.0f}",
                f"{played.ttft_mean_s:.3g}",
                f"{played.ttft_p95_s:.3g}",
                *(_percent(kept) for kept in attained(played, draws)),
                f"{played.longest_wait_s:.3g}",
            ]
        )
    return rows


def score_header(told: Told) -> list[str]:
    """Of `scoreboard`."""
    return [
        "policy", "cost saved", "waited min/day", "TTFT [s]", "p95 [s]",
        *(f"{promise.task} in {promise.within_s:g} s" for promise in told.question.promises), "longest [s]",
    ]  # fmt: skip


def _percent(found: Estimate) -> str:
    return "-" if found.value != found.value else f"{100 * found.value:.1f} %"


def show(told: Told, results: Results, console: Console) -> None:
    """One screen: the sentence, the steps, who does best on the recommended fleet, and what to beware of."""
    answer = results.answer
    assert answer is not None
    if results.interrupted:
        console.print("interrupted: this is the answer of what had finished", style="yellow")
    console.print(f"\n{told.sentence(answer)}", style="bold", soft_wrap=True)
    for more in told.further(results):
        console.print(more, soft_wrap=True)
    console.print(screen_table(STEP_HEADER, step_rows(answer), whole=3))
    console.print(told.weighted(), soft_wrap=True)
    rows = scoreboard(told, results, answer.step.fleet)
    always = (answer.deployed, answer.step.policy, TUNED, "cace", BOUND)
    kept = [row for at, row in enumerate(rows) if at < MOST_SHOWN or row[0] in always]
    console.print(screen_table(score_header(told), kept, f"On {answer.step.fleet.name}"))
    for note in (BOUND_NOTE, longer_waits(results.on(answer.step.fleet), answer.deployed)):
        if note:
            console.print(note, soft_wrap=True)
    if results.held:
        worst = min(results.held, key=lambda row: row.gain.percent)
        console.print(
            f"If the world changes: of {len(results.held)} situations, {name_of(answer.tried.policy)} does least in "
            f"'{worst.situation.name}', where it saves {share(worst.gain)} against {name_of(answer.deployed)} on "
            f"{answer.tried.fleet.name}.",
            soft_wrap=True,
        )
    for text in told.warnings(results):
        console.print(text.replace("**", ""), style="yellow", soft_wrap=True)
