"""Every feature recomputed from what has happened so far: the specification of `cace_env.observation`, plain and slow.

Counts, rates and means come from the event trace and the workload; who is where, who waits and what the clocks show
from the reference simulator, which was written independently of the kernel. Nothing is kept between questions.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from cace_env.observation import CONTEXT_FEATURES, PENDING_FEATURES, SLOT_FEATURES, Feature
from cace_env.sessions import AGAIN_AGES_S, AGAIN_STEPS, shipped_table
from cace_env.tables import NONE
from tests.specification import swap as reference_swap
from tests.specification.reference import ROUND, Model, Question, Simulation

WINDOW_US = 300_000_000
PREFIX_HALF_LIFE_US = 600_000_000
NEVER_S = 1e6
NEWEST = 0.1  # weight of the newest value in a moving mean

Rows = npt.NDArray[np.float64]


@dataclass(frozen=True)
class Expected:
    """All features at a question, in physical units."""

    slots: Rows  # (S, len(SLOT_FEATURES)), zero where empty
    pending: Rows  # (K, len(PENDING_FEATURES)), oldest request first; in Swap-v0 row m is model m, zero if not present
    context: Rows  # (len(CONTEXT_FEATURES),)
    greedy_dual_clock: float  # [s/GB] what priorities are relative to, and so how far they may be off


def expected_features(question: Question) -> Expected:
    """What a policy must be shown at a question of the reference simulator, while it is open."""
    fleet = _Fleet(question.simulation, question)
    slots = [
        np.zeros(len(SLOT_FEATURES)) if m == NONE else _row(SLOT_FEATURES, fleet.slot(slot, fleet.models[m]))
        for slot, m in enumerate(question.slot_models)
    ]
    pending = [
        np.zeros(len(PENDING_FEATURES)) if model is None else _row(PENDING_FEATURES, fleet.pending_model(model))
        for model in fleet.pending()
    ]
    context = _row(CONTEXT_FEATURES, fleet.context())
    return Expected(np.array(slots), np.array(pending), context, fleet.greedy_dual_clock)


def _row(features: tuple[Feature, ...], values: Mapping[str, float]) -> Rows:
    names = [feature.name for feature in features]
    assert sorted(names) == sorted(values), f"features {sorted(set(names) ^ set(values))} are on one side only"
    return np.array([values[name] for name in names], dtype=np.float64)


class _Demand:
    """Who has asked for a model so far."""

    def __init__(self, simulation: Simulation, m: int) -> None:
        self.simulation, self.now = simulation, simulation.now
        result, cost = simulation.result, simulation.tables.cost
        rows = [row for row in result.trace if _model_of(simulation, row[1], row[2]) == m]
        arrived = [(time, r) for time, kind, r, _ in rows if kind == "ARRIVAL" and not result.refused[r]]
        self.arrivals_us = [time for time, _ in arrived]
        self.finishes_us = [time for time, kind, _, _ in rows if kind == "FINISH"]
        self.loads_us = [time for time, kind, _, _ in rows if kind == "LOAD_DONE"]
        self.evictions_us = [time for time, kind, _, _ in rows if kind == "UNLOAD_DONE"]
        self.recent = [r for time, r in arrived if time >= self.now - WINDOW_US]
        task_weight = cost.w_ttft + cost.w_e2e
        self.weights = [float(task_weight[simulation.task_of[r]]) for _, r in arrived]
        self.outputs = [float(simulation.output[r]) for _, kind, r, _ in rows if kind == "FINISH"]
        # Of each session: its requests in the order of their arrival, and how many have left.
        self.asked: dict[int, list[int]] = {}
        self.left: dict[int, list[int]] = {}
        for time, kind, r, _ in rows:
            session = simulation.session_of[r] if kind in ("ARRIVAL", "FINISH") else NONE
            if kind == "ARRIVAL" and not result.refused[r]:
                self.asked.setdefault(session, []).append(r)
            elif kind == "FINISH":
                self.left.setdefault(session, []).append(time)
        # Prompts cached since it came: the last one of each session.
        self.cached: dict[int, tuple[int, int]] = {}  # session -> (admitted at, tokens)
        for time, kind, r, _ in rows:
            if kind == "UNLOAD_DONE":
                self.cached.clear()
            elif kind == "ADMITTED":
                self.cached[simulation.session_of[r]] = time, simulation.context[r]

    def _per_minute(self, half_life_min: float) -> float:
        """Arrivals, each halved every `half_life_min`: so weighted, a steady stream counts rate * half-life / ln 2."""
        count = sum(0.5 ** ((self.now - time) / 60e6 / half_life_min) for time in self.arrivals_us)
        return count * math.log(2.0) / half_life_min

    def asked_again(self) -> list[float]:
        """Probability that some session which pauses asks again, within each horizon."""
        table = shipped_table() if self.simulation.tables.again is None else self.simulation.tables.again
        silent = np.ones(table.shape[-1])
        for session, requests in self.asked.items():
            finishes = self.left.get(session, [])
            if len(finishes) < len(requests):
                continue  # one is in flight
            age_s = (self.now - max(finishes)) / 1e6
            ages = [age for age, start_s in enumerate(AGAIN_AGES_S) if start_s <= age_s]
            if age_s < AGAIN_AGES_S[-1]:
                step = min(len(requests), AGAIN_STEPS) - 1
                silent *= 1.0 - table[self.simulation.task_of[requests[-1]], step, ages[-1]]
        return list(1.0 - silent)

    def common(self) -> dict[str, float]:
        """What is shown of a resident model and of a pending one alike."""
        users = {int(self.simulation.workload.user[r]) for r in self.recent}
        sessions = {self.simulation.session_of[r] for r in self.recent}
        again = self.asked_again()
        return {
            "again_1m": again[0],
            "again_5m": again[1],
            "again_15m": again[2],
            "rate_1m": self._per_minute(1.0),
            "rate_10m": self._per_minute(10.0),
            "rate_60m": self._per_minute(60.0),
            "window_users": len(users),
            "window_sessions": len(sessions),
            "latency_weight": _moving_mean(self.weights),
            "expected_output_tokens": _moving_mean(self.outputs),
        }

    def of_slot(self) -> dict[str, float]:
        last_use = max([*self.arrivals_us, *self.finishes_us] or self.loads_us or [0])
        gaps_s = [(later - time) / 1e6 for time, later in zip(self.arrivals_us, self.arrivals_us[1:], strict=False)]
        while gaps_s and gaps_s[0] == 0.0:  # simultaneous first arrivals say nothing about a rhythm
            gaps_s.pop(0)
        mean_s = _moving_mean(gaps_s)
        variance = _moving_mean([gap**2 for gap in gaps_s]) - mean_s**2
        return {
            **self.common(),
            "since_use_s": (self.now - last_use) / 1e6,
            "since_second_use_s": (self.now - self.arrivals_us[-2]) / 1e6 if len(self.arrivals_us) > 1 else NEVER_S,
            "uses": len(self.arrivals_us),
            "window_requests": len(self.recent),
            "prefix_tokens": sum(
                tokens * 0.5 ** ((self.now - time) / PREFIX_HALF_LIFE_US) for time, tokens in self.cached.values()
            ),
            "mean_gap_s": mean_s if gaps_s else NEVER_S,
            "gap_cv": math.sqrt(max(variance, 0.0)) / mean_s if gaps_s else 0.0,
        }


class _Fleet:
    """Models, queues and memory at a question."""

    def __init__(self, simulation: Simulation, question: Question) -> None:
        self.simulation, self.question, self.tables = simulation, question, simulation.tables
        self.models, self.now = simulation.models, simulation.now
        self.target = None if question.target == NONE else self.models[question.target]
        self.slots = len(question.slot_models)
        self.demand = [_Demand(simulation, model.index) for model in self.models]
        self.greedy_dual_clock, self.inflation, self.uses_since_load = _greedy_dual_clock(simulation)

    def freed_gb(self, model: Model) -> float:
        return _gb(self.tables.need_bytes[model.index] - self.tables.residual_bytes[model.index])

    def missing_gb(self, accelerator: int) -> float:
        """What the target lacks here once all that are leaving have left; 0 without a target."""
        if self.target is None:
            return 0.0
        free_gb = _gb(self.simulation.free_bytes(accelerator))
        if self.target.asleep_on == accelerator:
            free_gb += _gb(self.tables.residual_bytes[self.target.index])
        leaving = [model for model in self.models if model.accelerator == accelerator and _leaves(model)]
        free_gb += sum(self.freed_gb(model) for model in leaving)
        missing_gb = _gb(self.tables.need_bytes[self.target.index]) - free_gb
        return missing_gb if missing_gb > 1e-12 else 0.0  # a byte is 1e-9 GB

    def slot(self, slot: int, model: Model) -> dict[str, float]:
        m, a, demand = model.index, model.accelerator, self.demand[model.index]
        ages_s = [(self.now - self.simulation.result.arrival_us[r]) / 1e6 for r in model.admitted]
        reload_s = self.simulation.reload_us(model) / 1e6
        priority = self.inflation[m] + self.uses_since_load[m] * reload_s / self.freed_gb(model)
        loaded_us = max(demand.loads_us, default=0)
        return {
            "occupied": True,
            "legal": self.question.legal[slot],
            "loading": model.state == "loading",
            "leaving": _leaves(model),
            "pinned": model.pinned,
            "freed_gb": self.freed_gb(model),
            "weights_gb": _gb(self.tables.weights_bytes[m]),
            "reload_s": reload_s,
            "decode_ms": self.decode_ms(a, m),
            "running": len(model.admitted),
            "waiting": len(model.waiting),
            "running_age_s": sum(ages_s) / len(ages_s) if ages_s else 0.0,
            "emitted_tokens": emitted_tokens(self.simulation, model),
            "since_load_s": 0.0 if model.state == "loading" else (self.now - loaded_us) / 1e6,
            "uses_since_load": self.uses_since_load[m],
            "missing_gb": self.missing_gb(a),
            "free_gb": _gb(self.simulation.free_bytes(a)),
            "greedy_dual": priority - self.greedy_dual_clock,
            **(of_demand := demand.of_slot()),
            "worth": of_demand["rate_10m"] * reload_s / self.freed_gb(model),
            **self.against_target(model, of_demand["expected_output_tokens"]),
        }

    def against_target(self, model: Model, expected_tokens: float) -> dict[str, float]:
        """What evicting the model takes, and what it does for the target there."""
        m, a, target = model.index, model.accelerator, self.target
        spare_gb = self.freed_gb(model) - self.missing_gb(a)
        suffices = target is not None and spare_gb >= -1e-12
        busy = sum(other.accelerator == a and len(other.admitted) > 0 for other in self.models)
        left = 0.0
        if model.admitted:
            emitted = emitted_tokens(self.simulation, model) / len(model.admitted)
            left = max(expected_tokens - emitted, 0.1 * expected_tokens)
        return {
            "drain_s": left * busy * self.decode_ms(a, m) / 1e3,
            "busy_here": busy,
            "suffices": suffices,
            "spare_gb": max(spare_gb, 0.0) if suffices else 0.0,
            "target_load_s": self.load_s(target, a) if target else 0.0,
            "target_decode_ms": self.decode_ms(a, target.index) if target else 0.0,
        }

    def decode_ms(self, a: int, m: int) -> float:
        batch_ns = self.tables.batch_ns[a, m].tolist()
        alone_ns = batch_ns[1] if len(batch_ns) > 1 else batch_ns[0] + int(self.tables.decode_ns[a, m])
        return (int(self.tables.round_ns[a, m]) + alone_ns) / 1e6

    def load_s(self, model: Model, a: int) -> float:
        return int(self.tables.load_us[a, model.index, self.simulation.tier(model, a)]) / 1e6

    def fastest_load_s(self, model: Model) -> float:
        return min(self.load_s(model, a) for a in range(self.tables.num_accelerators))

    def pending(self) -> list[Model | None]:
        """Pending models without room made for them, and the target; in Swap-v0 each model in its own row (12.8)."""
        pending = [model for model in self.models if model.pending or model is self.target]
        if self.simulation.asks_which:
            shown = pending if self.target else reference_swap.candidates(self.simulation) + pending
            return [model if model in shown else None for model in self.models]
        return [*sorted(pending, key=lambda model: (self._oldest_us(model), model.waiting[0]))]

    def _fits(self, model: Model, where_idle: bool) -> bool:
        """By memory alone, on some idle channel; with what idle models there would free, or without."""
        for place in self.simulation.idle_channels():
            idle = self.simulation.evictable(place, busy_too=False) if where_idle else []
            if self.simulation.left_over_bytes(place, model, idle) >= 0:
                return True
        return False

    def _oldest_us(self, model: Model) -> int:
        return self.simulation.result.arrival_us[model.waiting[0]]

    def pending_model(self, model: Model) -> dict[str, float]:
        m, demand = model.index, self.demand[model.index]
        evicted_us = max(demand.evictions_us, default=None)
        oldest_us = self._oldest_us(model) if model.waiting else self.now
        # Pending since it left, if a request waited for it then; else since the first arrival after that.
        since_us = max(oldest_us, evicted_us or 0)
        return {
            "present": True,
            "target": model is self.target,
            "need_gb": _gb(self.tables.need_bytes[m]),
            "weights_gb": _gb(self.tables.weights_bytes[m]),
            "load_s": self.fastest_load_s(model),
            "waiting": len(model.waiting),
            "waiting_weight": len(model.waiting) * _moving_mean(demand.weights),
            "oldest_wait_s": (self.now - oldest_us) / 1e6,
            "pending_s": (self.now - since_us) / 1e6,
            "since_eviction_s": NEVER_S if evicted_us is None else min((self.now - evicted_us) / 1e6, NEVER_S),
            "legal": any(self.question.legal[self.slots + m : self.slots + m + 1]),
            "fits": self._fits(model, where_idle=False),
            "idle_suffices": self._fits(model, where_idle=True),
            **demand.common(),
        }

    def context(self) -> dict[str, float]:
        asked_us = self.simulation.result.asked_us
        target, ordering = self.target, self.target is None
        slots = zip(self.question.slot_models, self.question.legal[: self.slots], strict=True)
        legal = [self.models[m] for m, ok in slots if ok]
        channels = self.simulation.channels
        places = range(self.tables.num_accelerators)
        return {
            "elapsed_s": (self.now - (asked_us[-1] if asked_us else 0)) / 1e6,
            "legal": sum(self.question.legal),
            "chosen": sum(len(channel.victims) for channel in channels if target and channel.target == target.index),
            "target_need_gb": _gb(self.tables.need_bytes[target.index]) if target else 0.0,
            "target_load_s": self.fastest_load_s(target) if target else 0.0,
            "missing_gb": min((self.missing_gb(a) for a in {model.accelerator for model in legal}), default=0.0),
            "free_gb": sum(_gb(self.simulation.free_bytes(a)) for a in places),
            "memory_gb": sum(_gb(memory) for memory in self.tables.memory_bytes),
            "pending": sum(model.pending for model in self.models),
            "waiting": sum(len(model.waiting) for model in self.models),
            "running": sum(len(model.admitted) for model in self.models),
            "loading": sum(channel.unloading != NONE or channel.tier != NONE for channel in channels),
            "idle_models": sum(model.idle for model in self.models),
            "host_cache_gb": _gb(self.tables.host_cache_bytes),
            "ordering": ordering,
            "wait_legal": ordering and self.question.legal[-1],
        }


def emitted_tokens(simulation: Simulation, model: Model) -> int:
    """Output tokens so far: one when decoding begins, one more per round since, in all and rounded down once."""
    begun = {r: model.targets[r] - (simulation.output[r] - 1) * ROUND for r in model.decoding}
    rounds = [simulation.clock(model) - start for start in begun.values()]
    tokens = len(rounds) + sum(rounds) // ROUND
    assert sum(1 + part // ROUND for part in rounds) <= tokens <= sum(1 + part / ROUND for part in rounds)
    return tokens


def _greedy_dual_clock(simulation: Simulation) -> tuple[float, list[float], list[int]]:
    """GreedyDual over the trace: its clock, and per model the clock at its last use and its uses since its load.

    The clock is the highest priority of a victim, as of its choice. While a model is absent or loads, its uses are the
    arrivals since it left; those that still wait when its load ends are the uses with which it starts.
    """
    tables, result = simulation.tables, simulation.result
    clock, victims = 0.0, 0
    inflation, uses, waiting = ([0.0] * tables.num_models, [0] * tables.num_models, [0] * tables.num_models)
    for _, kind, subject, _ in result.trace:
        m = _model_of(simulation, kind, subject)
        if kind == "ARRIVAL" and not result.refused[subject]:
            uses[m] += 1
            waiting[m] += 1
            inflation[m] = clock
        elif kind == "ADMITTED":
            waiting[m] -= 1
        elif kind == "LOAD_DONE":
            uses[m], inflation[m] = waiting[m], clock
        elif kind == "UNLOAD_DONE":
            uses[m] = 0
        elif kind == "VICTIM":
            reload_s = result.victim_reload_us[victims] / 1e6
            freed_gb = _gb(tables.need_bytes[m] - tables.residual_bytes[m])
            clock = max(clock, inflation[m] + uses[m] * reload_s / freed_gb)
            victims += 1
    return clock, inflation, uses


def _model_of(simulation: Simulation, kind: str, subject: int) -> int:
    """The model that a row of the trace is about."""
    of_request = kind in ("ARRIVAL", "REFUSED", "ADMITTED", "FIRST_TOKEN", "FINISH")
    return simulation.model_of[subject] if of_request else subject


def _moving_mean(values: list[float]) -> float:
    """0 of nothing; the first value counts in full, each later one moves the mean by a tenth."""
    mean = values[0] if values else 0.0
    for value in values[1:]:
        mean += NEWEST * (value - mean)
    return mean


def _leaves(model: Model) -> bool:
    return model.state in ("draining", "unloading")


def _gb(size_bytes: int) -> float:
    return int(size_bytes) / 1e9
