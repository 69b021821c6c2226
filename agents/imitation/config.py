"""Configuration of imitation."""

from __future__ import annotations

from itertools import pairwise
from typing import Final, Literal, Self

from pydantic import Field, model_validator

from cace_env.config import MOST_SEED, MOST_STEPS, Frozen, Line
from cace_env.policies.agent import PREFIX
from cace_env.tables import Protocol

LEARNER: Final = "learner"  # name of the learner among the policies that continue copies
REFERENCE: Final = "reference"  # name of the reference as a teacher
PLAY_ON: Final[dict[Protocol, tuple[str, ...]]] = {
    Protocol.EVICTION: (LEARNER, "belady-cost"),
    Protocol.SWAP: (LEARNER, "very-patient-wsjf+belady-cost"),
}
LONGEST_S: Final = 86_400.0  # that a sampled future may reach


class ImitationConfig(Frozen):
    """How an agent learns by imitation."""

    algorithm: Literal["imitation"] = "imitation"
    env: Protocol = Field(default=Protocol.EVICTION, description="environment: eviction or swap")
    train_on: str | tuple[str, ...] = Field(
        default="suite", description='"suite" (all its entries of the environment), or names of entries and scenarios'
    )
    seed: int = Field(
        default=0, ge=0, le=MOST_SEED, description="of weights, and of the order in which labels are learned from"
    )
    init: str | None = Field(
        default=None, description="an agent to begin from: the name of a shipped one, or its folder; none = at random"
    )
    hidden: int = Field(default=32, ge=0, le=256, description="hidden units per layer; 0 = linear")
    first_seed: int = Field(default=0, ge=0, description="the first training seed; each is played once per scenario")
    teacher: str = Field(default=REFERENCE, description='copied at first: "reference", or a policy by its name')
    shown: int = Field(
        default=5, ge=0, le=1_000_000, description="episodes per scenario that the teacher plays; 0 = none"
    )
    max_replays: int = Field(default=10_000, ge=0, le=1_000_000_000, description="of the search for a reference")
    play_on: tuple[str, ...] | None = Field(
        default=None,
        min_length=1,
        description=f'policies that continue after a priced action: names, or "{LEARNER}"; none = the learner '
        "and a rule that knows the future, with sampled futures the learner alone",
    )
    futures: int = Field(
        default=0,
        ge=0,
        le=4096,
        description="futures that are sampled at each priced decision from what has happened so far; 0 = the true one",
    )
    habits: Line = Field(
        default="", description="folder of habits that futures are sampled from; by default those that ship"
    )
    horizons_s: tuple[float, ...] = Field(
        default=(300.0, 900.0), min_length=1, description="ascending times after which costs are read [s]"
    )
    share: float = Field(default=1.0, gt=0, le=1, description="of the agent's own decisions, which are priced")
    labels: Line = Field(
        default="",
        description="folder of priced episodes to learn from, which `python -m experiments.label` fills; then `player` "
        "plays, not the learner, and nothing is priced in training",
    )
    player: Line = Field(
        default="",
        description="policy that plays the episodes of `labels`, and continues there as the learner; by default `init`",
    )
    episodes: int = Field(default=20, ge=1, le=1_000_000, description="episodes per scenario in `labels`")
    kept_horizons_s: tuple[float, ...] = Field(
        default=(),
        description="horizons that `labels` keeps, so that trainings choose `horizons_s` among them; by default those",
    )
    earlier_labels: tuple[str, ...] = Field(
        default=(), description="folders of labels, of earlier players, to learn from besides"
    )
    capacity: int = Field(default=100_000, ge=1, le=10_000_000, description="priced decisions that are remembered")
    shown_passes: float = Field(
        default=10.0, gt=0, le=1e6, description="times that a shown decision is learned from at first"
    )
    passes: float = Field(
        default=2.0, gt=0, le=1e6, description="times that a priced decision is learned from, on the average"
    )
    copying: float = Field(
        default=0.5, ge=0, le=1e6, description="weight of copying the teacher once decisions are priced"
    )
    batch_size: int = Field(default=256, ge=1, le=1_000_000, description="decisions per gradient step")
    learning_rate: float = Field(default=2e-3, gt=0, le=1, description="of Adam, at the beginning")
    final_learning_rate: float = Field(default=2e-4, ge=0, le=1, description="after `decay_steps`, and from then on")
    decay_steps: int = Field(
        default=200_000, ge=1, le=MOST_STEPS, description="decisions over which it goes from one to the other"
    )
    averaging: float = Field(default=0.998, ge=0, lt=1, description="share of the mean that a gradient step leaves")
    threads: int = Field(default=1, ge=1, le=64, description="of the simulation and of torch")

    @model_validator(mode="after")
    def _can_be_priced(self) -> Self:
        for name, horizons in (("horizons_s", self.horizons_s), ("kept_horizons_s", self.kept_horizons_s)):
            if not all(late > early for early, late in pairwise((0.0, *horizons))):
                raise ValueError(f"{name} is {horizons}; horizons have to ascend from above 0")
        if self.futures and self.priced_horizons_s[-1] > LONGEST_S:
            raise ValueError(f"horizons are {self.priced_horizons_s}; a sampled future reaches {LONGEST_S:g} s at most")
        if self.habits and not self.futures:
            raise ValueError("habits are what futures are sampled from, and futures is 0; set it, to 16 for example")
        return self

    @model_validator(mode="after")
    def _labels_can_be_kept(self) -> Self:
        if not self.labels:
            given = [name for name in ("player", "kept_horizons_s", "earlier_labels") if getattr(self, name)]
            if given:
                raise ValueError(f"{given[0]} is about labels that are kept; name their folder: labels")
            return self
        if not self.player and self.init is None:
            raise ValueError("labels: somebody has to play the episodes; name a policy: player, or an agent: init")
        missing = [horizon for horizon in self.horizons_s if horizon not in self.priced_horizons_s]
        if missing:
            raise ValueError(f"horizons_s has {missing[0]:g} s, and kept_horizons_s is {self.kept_horizons_s}")
        return self

    @property
    def priced_horizons_s(self) -> tuple[float, ...]:
        """Horizons at which decisions are priced."""
        return self.kept_horizons_s or self.horizons_s

    @property
    def played_by(self) -> str:
        """Name of the policy that plays the episodes of `labels`."""
        return self.player or f"{PREFIX}{self.init}"

    @property
    def continued_by(self) -> tuple[str, ...]:
        """Names of the policies that continue after a priced action."""
        return self.play_on or ((LEARNER,) if self.futures else PLAY_ON[self.env])

    def learning_rate_at(self, step: int) -> float:
        """The learning rate after so many decisions: a matter of the step alone, so a resumed run has the same."""
        share = min(step / self.decay_steps, 1.0)
        return self.learning_rate + share * (self.final_learning_rate - self.learning_rate)
