"""What can be configured of generated workloads."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Self

from pydantic import Field, model_validator

from cace_env.config import Frozen
from cace_env.generator.quantiles import mean_of
from cace_env.tables import TASKS


@dataclass(frozen=True)
class ServedModel:
    """What the generator has to know about one model of the catalogue; a sequence of them is in index order.

    Attributes:
        name: name in the catalogue, for messages.
        tasks: tasks it serves, of `TASKS`.
        kv_tokens: room of its KV cache [tokens]; context + output of a request stay within it and `context_window`.
        context_window: longest context + output the model accepts [tokens].
        weights_gb: size; sub-agents use a smaller model than their parent.
        languages: programming languages it is good at; empty = all.
        popularity: hint; models are ranked by it, ties in an order drawn per seed: with equal hints (default) every
            seed has other favourites.
        prefill_us_per_token: rough speed alone on its accelerator [us], for nominal arrivals and think times only.
        decode_us_per_token: the same for output tokens [us].
    """

    name: str
    tasks: tuple[str, ...]
    kv_tokens: int = 1 << 20
    context_window: int = 131_072
    weights_gb: float = 0.0
    languages: tuple[str, ...] = ()
    popularity: float = 1.0
    prefill_us_per_token: float = 100.0
    decode_us_per_token: float = 15_000.0

    @property
    def longest_request(self) -> int:
        """Most tokens (context + output) of a request [tokens]."""
        return min(self.kv_tokens, self.context_window)


class Quantiles(Frozen):
    """A positive distribution by four of its quantiles (`quantile_table` of `quantiles.py` says what lies between)."""

    p10: float = Field(gt=0, description="10 % quantile")
    p50: float = Field(gt=0, description="median")
    p90: float = Field(gt=0, description="90 % quantile")
    p99: float = Field(gt=0, description="99 % quantile")

    @model_validator(mode="after")
    def _increasing(self) -> Self:
        if not self.p10 <= self.p50 <= self.p90 <= self.p99:
            raise ValueError(
                f"quantiles must not decrease: p10 {self.p10}, p50 {self.p50}, p90 {self.p90}, p99 {self.p99}"
            )
        return self

    @property
    def mean(self) -> float:
        """Mean of the tabulated distribution (0.05 to 99.95 %)."""
        return mean_of((self.p10, self.p50, self.p90, self.p99))


def _quantiles(p10: float, p50: float, p90: float, p99: float, source: str) -> Quantiles:
    """A default with its source in the description."""
    return Field(default=Quantiles(p10=p10, p50=p50, p90=p90, p99=p99), description=source)


class TaskShares(Frozen):
    """Shares of requests by task; normalised to a sum of 1. No public figure exists: assumed."""

    completion: float = Field(default=0.60, ge=0, description="completions while typing (assumed)")
    chat: float = Field(default=0.15, ge=0, description="chat about code (assumed)")
    reasoning: float = Field(default=0.05, ge=0, description="questions to a reasoning model (assumed)")
    agent: float = Field(default=0.20, ge=0, description="steps of coding agents (assumed)")

    @model_validator(mode="after")
    def _some(self) -> Self:
        if self.completion + self.chat + self.reasoning + self.agent <= 0:
            raise ValueError("at least one task needs a share above 0")
        return self

    def normalised(self) -> tuple[float, ...]:
        """Shares in the order of `TASKS`, sum 1."""
        # One by one: sum() rounds in another way from Python 3.12 on, but a seed means the same workload everywhere.
        total = self.completion + self.chat + self.reasoning + self.agent
        return tuple(share / total for share in (self.completion, self.chat, self.reasoning, self.agent))


class Role(Frozen):
    """Users of one role: how many, and how much more of each task than others they do (assumed, all)."""

    share: float = Field(gt=0, description="share of the users; normalised")
    completion: float = Field(default=1.0, ge=0, description="factor on completions")
    chat: float = Field(default=1.0, ge=0, description="factor on chat")
    reasoning: float = Field(default=1.0, ge=0, description="factor on reasoning")
    agent: float = Field(default=1.0, ge=0, description="factor on agents")


ROLES = {
    "developer": Role(share=0.65),
    "reviewer": Role(share=0.15, completion=0.4, chat=1.5, agent=0.5),
    "data_scientist": Role(share=0.10, completion=0.7, chat=1.5, reasoning=2.0, agent=0.7),
    "agent_operator": Role(share=0.10, completion=0.4, chat=0.5, agent=4.0),
}
LANGUAGES = {"python": 0.35, "typescript": 0.25, "java": 0.20, "cpp": 0.10, "other": 0.10}


class DayCurve(Frozen):
    """Rate of breaks that end, over 24 hours: a raised cosine to a power; 1 on average over the day."""

    start_hour: float = Field(default=9.0, ge=0, lt=24, description="hour of the day at time 0 [h] (assumed)")
    peak_hour: float = Field(default=14.0, ge=0, lt=24, description="busiest hour of the day [h] (assumed)")
    peak_to_mean: float = Field(default=1.73, ge=1, le=6, description="Copilot, REFERENCES 4; 1 = flat")
    peak_to_trough: float = Field(default=4.9, ge=1, description="ServeGen deepseek-r1; above peak_to_mean unless flat")

    @model_validator(mode="after")
    def _possible(self) -> Self:
        if self.peak_to_mean > 1 and self.peak_to_trough <= self.peak_to_mean:
            raise ValueError(f"peak_to_trough {self.peak_to_trough} must be above peak_to_mean {self.peak_to_mean}")
        return self


class Bursts(Frozen):
    """Company-wide bursts: all breaks end faster or slower by a log-normal factor of mean 1, new every `minutes`."""

    spread: float = Field(
        default=0.8, ge=0, le=3, description="standard deviation of the factor's logarithm; 0 = none (assumed)"
    )
    minutes: float = Field(default=5.0, gt=0, le=1440, description="how long a factor holds [min] (assumed)")


class Routing(Frozen):
    """Which model a session uses: popularity, drift, new deployments, language, habit."""

    popularity_exponent: float = Field(
        default=0.87, ge=0, le=4, description="share of rank i ~ i^-exponent exp(-i/cutoff); Chutes slope 0.87"
    )
    popularity_cutoff: float = Field(
        default=12.0, gt=0, description="[ranks]; with 0.87 a fit of GenTD26's top-k shares (<= 0.03 off)"
    )
    drift: float = Field(
        default=0.10,
        ge=0,
        le=0.45,
        description="total variation between the popularity of both halves of an episode (GenTD26)",
    )
    new_models: int = Field(
        default=1, ge=0, description="models deployed in the middle half of the episode (GenTD26: 9 of 86 in a week)"
    )
    stickiness: float = Field(
        default=0.72,
        ge=0,
        le=1,
        description="chance that a new session keeps its user's model of that task and language",
    )
    agent_switch: float = Field(
        default=0.0048, ge=0, le=1, description="chance per step that an agent changes its model (Claude Code)"
    )
    home_language: float = Field(
        default=0.8, ge=0, le=1, description="chance that a session is in its user's main language (assumed)"
    )
    language_spread: float = Field(
        default=0.5, ge=0, le=3, description="how far languages differ in taste: log-sd of a factor (assumed)"
    )


class Completion(Frozen):
    """Completions while typing; one in flight per user."""

    gap_s: Quantiles = _quantiles(0.8, 5.5, 38.0, 123.0, "arrival to arrival within a session [s] (CUPS)")
    prompt_tokens: Quantiles = _quantiles(
        147, 1469, 5188, 7436, "prompt where the cursor lands [tokens] (Azure 2023 code)"
    )
    output_tokens: Quantiles = _quantiles(2, 6, 24, 88, "[tokens] (CUPS)")
    session_requests: float = Field(
        default=10.0, ge=1, description="mean completions in one file before a break; geometric (assumed)"
    )
    stay: float = Field(
        default=0.8,
        ge=0,
        le=1,
        description="chance that the cursor is where the previous completion was (assumed; CUPS 0.75)",
    )
    kept_prefix: float = Field(
        default=0.7, ge=0, le=1, description="share of the prompt before the cursor, kept while it stays (assumed)"
    )


class Conversation(Frozen):
    """Chat or reasoning: prompts grow turn by turn, sorted draws of one distribution (whose marginal stays exact)."""

    gap_s: Quantiles = _quantiles(30, 107, 376, 911, "arrival to arrival within a session [s] (RealHumanEval)")
    prompt_tokens: Quantiles = _quantiles(
        207, 1020, 2734, 4142, "whole prompt with history [tokens] (Azure 2023 conversation)"
    )
    output_tokens: Quantiles = _quantiles(54, 129, 424, 601, "[tokens] (Azure 2023 conversation)")
    session_requests: float = Field(
        default=2.7,
        ge=1,
        description="mean turns of a session; geometric (RealHumanEval: 1055 requests, 392 first ones)",
    )


REASONING = Conversation(
    prompt_tokens=Quantiles(p10=18, p50=208, p90=2092, p99=23423),  # ServeGen deepseek-r1
    output_tokens=Quantiles(p10=287, p50=792, p90=3432, p99=12607),  # the same
    session_requests=1.5,  # assumed; its gaps are those of chat (assumed)
)


class SubAgent(Frozen):
    """An agent started by an agent, in a session of its own on a smaller model; figures: Claude Code sessions."""

    chance: float = Field(
        default=0.0015, ge=0, le=1, description="chance per step of the parent to start one (50 in 33,477 steps)"
    )
    gap_s: Quantiles = _quantiles(4.6, 7, 31, 81, "arrival to arrival [s]")
    first_tokens: Quantiles = _quantiles(9_070, 10_170, 13_310, 18_260, "context of the first step [tokens]")
    new_tokens: Quantiles = _quantiles(520, 2_400, 12_500, 63_000, "tokens added per step [tokens]")
    output_tokens: Quantiles = _quantiles(131, 236, 516, 4_360, "[tokens]")
    session_requests: Quantiles = _quantiles(5, 10.5, 18, 24, "steps")


class Agent(Frozen):
    """Coding agents: closed-loop steps whose context grows; figures: Claude Code sessions.

    Gaps are drawn independently: the same as turns of a geometric number of steps (8.7 on average, TraceLab), each
    ended by a wait for the human. "Adjusted" quantiles were chosen so that the contexts of all steps match.
    """

    gap_s: Quantiles = _quantiles(
        8, 17, 129, 2134, "arrival to arrival within a session, waits for the human included [s]"
    )
    first_tokens: Quantiles = _quantiles(
        15_500, 28_000, 271_000, 720_000, "context of a session's first step [tokens] (p50 adjusted from 24,900)"
    )
    new_tokens: Quantiles = _quantiles(
        232, 728, 4_895, 16_600, "tokens added per step [tokens] (p99: growth of the context)"
    )
    output_tokens: Quantiles = _quantiles(105, 216, 898, 3_686, "[tokens]")
    session_requests: Quantiles = _quantiles(7, 44, 156, 324, "steps")
    compact_tokens: Quantiles = _quantiles(
        140_000, 185_000, 550_000, 1_000_000, "context at which a session is compacted [tokens] (adjusted)"
    )
    compact_to: float = Field(
        default=0.29, gt=0, lt=1, description="context after a compaction, as a share of that before (median)"
    )
    compact_kept: float = Field(
        default=0.34, ge=0, le=1, description="share of the context after a compaction that is an old prefix (median)"
    )
    subagent: SubAgent = Field(default=SubAgent(), description="agents started by agents")


class WorkloadConfig(Frozen):
    """A company's requests. The defaults: 40 developers, 2,000 requests, about an hour of a morning."""

    requests: int = Field(default=2_000, ge=1, le=100_000_000, description="requests of an episode")
    users: int = Field(default=40, ge=1, le=100_000, description="developers (assumed)")
    requests_per_user_hour: float = Field(
        default=40.0,
        ge=0.001,
        description="mean over the day, all tasks [1/h]; Mellum: 24 completions per hour and seat, 60 % of requests",
    )
    activity_spread: float = Field(
        default=0.97, ge=0, le=3, description="users differ in activity: log-sd of a factor (GenTD26 user groups)"
    )
    shares: TaskShares = Field(default=TaskShares(), description="shares of requests by task")
    roles: dict[str, Role] = Field(default=ROLES, min_length=1, description="kinds of users (assumed)")
    languages: dict[str, float] = Field(
        default=LANGUAGES, min_length=1, description="shares of users by main language; normalised (assumed)"
    )
    day: DayCurve = Field(default=DayCurve(), description="day curve")
    bursts: Bursts = Field(default=Bursts(), description="company-wide bursts")
    routing: Routing = Field(default=Routing(), description="which model a session uses")
    completion: Completion = Field(default=Completion(), description="completions while typing")
    chat: Conversation = Field(default=Conversation(), description="chat about code")
    reasoning: Conversation = Field(default=REASONING, description="questions to a reasoning model")
    agent: Agent = Field(default=Agent(), description="coding agents")

    @model_validator(mode="after")
    def _possible(self) -> Self:
        bad = [name for name, share in self.languages.items() if not 0 < share < float("inf")]
        if bad:
            raise ValueError(f"languages.{bad[0]}: a share must be above 0")
        wanted = self.shares.normalised()[0] * self.requests_per_user_hour
        limit = 0.7 * 3600 / self.completion.gap_s.mean
        if wanted > limit:
            raise ValueError(
                f"{wanted:.0f} completions per user and hour, but users who type without a break reach {limit:.0f} "
                "(one in flight, completion.gap_s); lower requests_per_user_hour or shares.completion, and raise users"
            )
        years = self.requests / (self.users * self.requests_per_user_hour) / 8766
        if years > 100:
            raise ValueError(
                f"{self.requests} requests at this rate last {years:.0f} years; the limit is 100: lower requests"
            )
        for task in TASKS:
            if getattr(self.shares, task) > 0 and not any(getattr(role, task) > 0 for role in self.roles.values()):
                raise ValueError(f"shares.{task} is {getattr(self.shares, task)}, but no role does any {task}")
        return self
