"""What the status page shows: who is where, who waits, and what was decided last."""

from __future__ import annotations

import time
from typing import Any, Final

from cace_env.config import one_line
from cace_env.decision_log import Decision, in_words
from cace_env.kernel.state import ACCELERATOR, MODEL, REQUEST
from cace_env.live.router import Router
from cace_env.live.stage import Stage
from cace_env.tables import NONE

PHASES: Final = ("absent", "planned", "loading", "resident", "draining", "unloading")
SHOWN: Final = 20  # decisions


def status_of(router: Router) -> dict[str, Any]:
    """The state of a router as plain values for JSON."""
    mirror, tables = router.mirror, router.tables
    s, now_us = mirror.state, router.now_us()
    models = []
    for m, name in enumerate(tables.model_names):
        model = s.models[m].tolist()
        waiting, place = model[MODEL.waiting], model[MODEL.place]
        oldest_us = int(s.requests[model[MODEL.queue_head], REQUEST.arrival_us]) if waiting else now_us
        models.append(
            {
                "name": one_line(name),
                "state": PHASES[model[MODEL.phase]],
                "accelerator": "" if place == NONE else tables.accelerator_names[place],
                "need_gb": round(int(tables.need_bytes[m]) * 1e-9, 3),
                "running": model[MODEL.running],
                "waiting": waiting,
                "oldest_wait_s": round((now_us - oldest_us) * 1e-6, 3),
                "unused_s": round((now_us - model[MODEL.last_use]) * 1e-6, 1),
                "requests": model[MODEL.uses],
            }
        )
    used = (tables.memory_bytes - s.accelerators[:, ACCELERATOR.free]).tolist()
    return {
        "policy": router.decider.name,
        "standing": standing_of(router.decider.stage),
        "asks": tables.protocol.env_name,
        "time": time.strftime("%Y-%m-%d %H:%M:%S UTC", time.gmtime()),
        "up_s": round(now_us * 1e-6),
        "open": router.open,
        "accelerators": [
            {
                "name": name,
                "memory_gb": round(memory * 1e-9, 3),
                "used_gb": round(used[a] * 1e-9, 3),
                "server": router.backends[a].kind,
            }
            for a, (name, memory) in enumerate(zip(tables.accelerator_names, tables.memory_bytes.tolist(), strict=True))
        ],
        "models": models,
        "decisions": [said_of(decision) for decision in list(router.decisions)[-SHOWN:][::-1]],
    }


def count(router: Router) -> None:
    """Brings the gauges of a router up to date."""
    s, tables, metrics = router.mirror.state, router.tables, router.metrics
    for m, name in enumerate(tables.model_names):
        metrics.waiting.labels(name).set(int(s.models[m, MODEL.waiting]))
        metrics.running.labels(name).set(int(s.models[m, MODEL.running]))
    if router.log is not None:
        metrics.of_log(router.log.failed, router.log.lost)
    used = tables.memory_bytes - s.accelerators[:, ACCELERATOR.free]
    for name, size in zip(tables.accelerator_names, used.tolist(), strict=True):
        metrics.used.labels(name).set(size)
    metrics.of_stage(router.decider.stage)


def standing_of(stage: Stage) -> dict[str, str]:
    """Who decides: "policy" or "lru", since when, and why."""
    now = stage.standing()
    return {
        "by": "lru" if now.reason else "policy",
        "since": time.strftime("%Y-%m-%d %H:%M:%S UTC", time.gmtime(now.since_s)),
        "reason": now.reason,
        "detail": one_line(now.detail),
    }


def said_of(decision: Decision) -> dict[str, str]:
    """A decision as plain values for JSON."""
    chosen = decision.chosen.model
    return {
        "time": time.strftime("%H:%M:%S", time.gmtime(decision.time_us / 1e6)),
        "kind": decision.kind,
        "chosen": one_line(chosen) if chosen else "wait",
        "target": one_line(decision.target),
        "fallback": decision.fallback,
        "why": in_words(decision, "utc"),
    }
