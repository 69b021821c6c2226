"""What is kept of one decision, and its form in Parquet."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Final, Literal

from cace_env.config import ConfigError
from cace_env.policies.explanations import Contribution

# EVICT and LOAD are questions to the policy; FORCED and KEEP_ALIVE are evictions in which nobody chose.
Kind = Literal["evict", "load", "forced", "keep-alive"]
EVICT: Final = "evict"
LOAD: Final = "load"
FORCED: Final = "forced"  # the only model that could make room
KEEP_ALIVE: Final = "keep-alive"  # its time without requests was up
EVICTIONS: Final = (EVICT, FORCED, KEEP_ALIVE)
WAIT: Final = "wait"  # what a candidate without a model stands for
FORMAT: Final = "cace-env decisions 1"
NUMBERS: Final = ("time_us", "decision", "seed")


@dataclass(frozen=True)
class Candidate:
    """An action that the policy could take.

    Attributes:
        model: the model that would leave or be loaded; "" = wait.
        accelerator: where it is; "" for a model to load.
        score: of the policy, the highest is chosen (minus a keep-score); None if the policy gives none.
        values: its features, in the order of `Decision.features`.
        action: its number in the environment; -1 outside of one.
    """

    model: str
    accelerator: str = ""
    score: float | None = None
    values: tuple[float, ...] = ()
    action: int = -1


@dataclass(frozen=True)
class Decision:
    """One decision, or an eviction in which nobody chose.

    Attributes:
        time_us: microseconds since the episode began; in a log with the clock "utc" since 1970.
        policy: name of the policy.
        candidates: the actions that were legal.
        choice: index of the candidate that was chosen.
        kind: "evict": which model leaves; "load": which model is loaded next; "forced": a single victim, so nobody was
            asked; "keep-alive": unloaded because nobody used it.
        target: the model that needs room; "" if none does, or it is not known.
        accelerator: where it will be loaded, if that is fixed already.
        features: names of the candidates' features; units are those of `cace_env.observation`.
        version: what the policy was: version of the package, fingerprint of the policy's numbers.
        rival: index of the candidate with the next best score; -1 if the policy compares none.
        reasons: how much each feature moved the score of the choice above that of the rival, the largest first.
        note: what else explains the choice, in words.
        fallback: why a guard did not let the policy decide; "" if it did.
        detail: the problem that the guard saw, in words.
        decided_by: who decided then.
        scenario: name of the scenario, or of the deployment.
        seed: of the episode; -1 outside of one.
        decision: number of the question in its episode, from 0; -1 if nobody was asked.
        done: in shadow mode, index of the candidate that the watched system chose; -1: not in shadow mode, the choice
            was carried out.
    """

    time_us: int
    policy: str
    candidates: tuple[Candidate, ...]
    choice: int
    kind: Kind = EVICT
    target: str = ""
    accelerator: str = ""
    features: tuple[str, ...] = ()
    version: str = ""
    rival: int = -1
    reasons: tuple[Contribution, ...] = ()
    note: str = ""
    fallback: str = ""
    detail: str = ""
    decided_by: str = ""
    scenario: str = ""
    seed: int = -1
    decision: int = -1
    done: int = -1

    def __post_init__(self) -> None:
        if not 0 <= self.choice < len(self.candidates) or not all(
            -1 <= place < len(self.candidates) for place in (self.rival, self.done)
        ):
            raise ConfigError(
                f"a decision among {len(self.candidates)} candidates has choice {self.choice}, rival {self.rival} and "
                f"done {self.done}; they have to be places in the list of candidates"
            )

    @property
    def chosen(self) -> Candidate:
        """The candidate that was chosen."""
        return self.candidates[self.choice]


def schema(pyarrow: Any) -> Any:
    """Columns of the file: the fields of `Decision`, and `model`, that of the choice, to search by."""
    text, real, whole = pyarrow.string(), pyarrow.float64(), pyarrow.int64()
    candidate = {"model": text, "accelerator": text, "score": real, "values": pyarrow.list_(real), "action": whole}
    reason = {"feature": text, "unit": text, "value": real, "others": real, "amount": real}
    columns = {
        "time_us": whole,
        "scenario": text,
        "policy": text,
        "seed": whole,
        "decision": whole,
        "kind": text,
        "model": text,
        "target": text,
        "accelerator": text,
        "choice": whole,
        "rival": whole,
        "candidates": pyarrow.list_(pyarrow.struct(list(candidate.items()))),
        "features": pyarrow.list_(text),
        "reasons": pyarrow.list_(pyarrow.struct(list(reason.items()))),
        "note": text,
        "fallback": text,
        "detail": text,
        "decided_by": text,
        "version": text,
        "done": whole,
    }
    return pyarrow.schema(list(columns.items()))


def row_of(decision: Decision) -> dict[str, Any]:
    """A decision as a row of the file."""
    row: dict[str, Any] = {name: value for name, value in vars(decision).items() if name not in NUMBERS}
    row |= {name: int(getattr(decision, name)) for name in NUMBERS}
    row["candidates"] = [vars(candidate) for candidate in decision.candidates]
    row["reasons"] = [vars(reason) for reason in decision.reasons]
    row["model"] = decision.chosen.model
    return row


def decision_of(row: dict[str, Any]) -> Decision:
    """The decision that `row_of` made a row of."""
    given = {name: value for name, value in row.items() if name != "model"}
    given["candidates"] = tuple(Candidate(**{**one, "values": tuple(one["values"])}) for one in row["candidates"])
    given["reasons"] = tuple(Contribution(**reason) for reason in row["reasons"])
    given["features"] = tuple(row["features"])
    return Decision(**given)


def writable(value: Any) -> Any:
    """A row in which names that are no valid Unicode (lone surrogates) are written with backslashes."""
    if isinstance(value, str):
        return value.encode("utf-8", "backslashreplace").decode()
    if isinstance(value, dict):
        return {key: writable(one) for key, one in value.items()}
    if isinstance(value, list | tuple):
        return [writable(one) for one in value]
    return value
