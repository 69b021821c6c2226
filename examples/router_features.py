"""What a router has to remember of each model so that an exported policy can decide, without cace-env.

    python -m experiments.export cace:tuned-eviction --out exported
    python examples/router_features.py exported

`ModelHistory` is fed with what a proxy sees anyway: arrivals, ends of answers, loads, unloads. It gives the features
of recency and demand by the names and in the units of the table of features (docs/environment.md); a test holds them
against the simulator's. What else a policy reads (sizes, load times, free memory, states) the router knows from its
catalogue and its own bookkeeping.
"""

from __future__ import annotations

import argparse
import math
import sys
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, field

WINDOW_S = 300.0
NEVER_S = 1e6  # stands for the time since what has never happened
NEWEST = 0.1  # weight of the newest value in a moving mean; the first value starts it
HALF_LIVES_MIN = {"rate_1m": 1.0, "rate_10m": 10.0, "rate_60m": 60.0}


@dataclass
class ModelHistory:
    """Recency and demand of one model. All times are seconds of one clock that never runs backwards."""

    last_use_s: float | None = None  # last arrival or end of an answer; end of the load if there was none
    arrivals_s: tuple[float, ...] = ()  # the last two
    loaded_s: float | None = None
    uses: int = 0
    uses_since_load: int = 0
    expected_output_tokens: float | None = None
    latency_weight: float = 0.0
    mean_gap_s: float = 0.0
    mean_gap_squared: float = 0.0
    counts: dict[str, float] = field(default_factory=lambda: dict.fromkeys(HALF_LIVES_MIN, 0.0))  # at the last arrival
    window: deque[float] = field(default_factory=deque)  # arrivals of the last five minutes

    def arrived(self, now_s: float, cost_per_s: float) -> None:
        """A request for the model arrived; `cost_per_s`: what a second of waiting (TTFT and E2E) costs its user."""
        if self.arrivals_s:
            gap = now_s - self.arrivals_s[-1]
            self.counts = {name: count * 2 ** (-gap / 60 / HALF_LIVES_MIN[name]) for name, count in self.counts.items()}
            self.latency_weight += NEWEST * (cost_per_s - self.latency_weight)
            share = NEWEST if self.mean_gap_s else 1.0
            self.mean_gap_s += share * (gap - self.mean_gap_s)
            self.mean_gap_squared += share * (gap * gap - self.mean_gap_squared)
        else:
            self.latency_weight = cost_per_s
        self.counts = {name: count + 1.0 for name, count in self.counts.items()}
        self.arrivals_s = (*self.arrivals_s, now_s)[-2:]
        self.last_use_s = now_s
        self.window.append(now_s)
        self.uses += 1
        self.uses_since_load += 1

    def finished(self, now_s: float, output_tokens: int) -> None:
        """An answer ended."""
        self.last_use_s = now_s
        if self.expected_output_tokens is None:
            self.expected_output_tokens = output_tokens
        else:
            self.expected_output_tokens += NEWEST * (output_tokens - self.expected_output_tokens)

    def loaded(self, now_s: float, waiting: int) -> None:
        """The model is ready to serve, and so many requests wait for it."""
        self.loaded_s, self.uses_since_load = now_s, waiting
        if self.last_use_s is None:
            self.last_use_s = now_s

    def left(self) -> None:
        """The model has left the accelerator."""
        self.loaded_s, self.uses_since_load = None, 0

    def features(self, now_s: float) -> dict[str, float]:
        """Slot features of recency and demand."""
        while self.window and self.window[0] < now_s - WINDOW_S:
            self.window.popleft()
        minutes = (now_s - self.arrivals_s[-1]) / 60 if self.arrivals_s else 0.0
        rates = {
            name: self.counts[name] * 2 ** (-minutes / half_life) * math.log(2) / half_life
            for name, half_life in HALF_LIVES_MIN.items()
        }
        variance = max(self.mean_gap_squared - self.mean_gap_s**2, 0.0)
        return rates | {
            "since_use_s": 0.0 if self.last_use_s is None else now_s - self.last_use_s,
            "since_second_use_s": now_s - self.arrivals_s[0] if len(self.arrivals_s) == 2 else NEVER_S,
            "since_load_s": 0.0 if self.loaded_s is None else now_s - self.loaded_s,
            "uses_since_load": self.uses_since_load,
            "uses": self.uses,
            "window_requests": len(self.window),
            "latency_weight": self.latency_weight,
            "expected_output_tokens": self.expected_output_tokens or 0.0,
            "mean_gap_s": self.mean_gap_s or NEVER_S,
            "gap_cv": math.sqrt(variance) / self.mean_gap_s if self.mean_gap_s else 0.0,
        }


def main(arguments: Sequence[str] | None = None) -> int:
    """Lets an exported CACE choose between two models; returns the exit status."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", help="of `python -m experiments.export cace --out FOLDER`")
    sys.path.insert(0, parser.parse_args(arguments).folder)
    from policy import here  # type: ignore[import-not-found]  # the exported file

    reload_s = {"mellum-4b": 4.1, "starcoder2-7b": 7.3}  # measured, from the catalogue
    resident = {name: ModelHistory() for name in reload_s}
    for name in resident:
        resident[name].loaded(0.0, waiting=0)
    for second in range(10, 130, 20):
        resident["mellum-4b"].arrived(float(second), cost_per_s=1.0)  # completion
        resident["mellum-4b"].finished(second + 0.4, output_tokens=12)
    resident["starcoder2-7b"].arrived(140.0, cost_per_s=0.4)  # chat
    resident["starcoder2-7b"].finished(155.0, output_tokens=420)

    policy, now_s = here(), 240.0
    rows = [{"occupied": 1.0, "reload_s": reload_s[name], **each.features(now_s)} for name, each in resident.items()]
    slots, pending, context = policy.table("slot", rows), policy.table("pending", []), policy.table("context", [{}])[0]
    victim = policy.decide(slots, pending, context, [True, True])
    print(f"{policy.about['policy']} evicts {list(resident)[victim]}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
