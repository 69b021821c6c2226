"""The built-in policies by name: which model each one evicts.

A policy gives each slot a keep-score from the same features (`cace_env.observation.SLOT_FEATURES`); the legal slot with
the lowest score is evicted. Ties go to the least recently used model, then to the lowest slot. `POLICIES` describes
each policy and how it differs from the system it is named after; `rule_of` converts it to what the kernel runs.

The following holds for all of them, and so differs from every system below: pending models are served in the order of
their oldest request; while an idle victim suffices, no busy one is evicted; once a model has been pending for the
scenario's `drain_after`, the busy model with the lowest score is drained, even if the real system would not; a model is
resident at most once in the fleet; memory is never overcommitted.

Your own policy is a callable `f(features, legal) -> scores`, see `cace_env.evaluation.evaluate`.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Final

from cace_env.config import ConfigError, did_you_mean
from cace_env.kernel import rules
from cace_env.policies.agent import PREFIX, load_agent
from cace_env.policies.base import Policy, Training, keep_alive_order, rule_of, static_values, weigh, weights_gb
from cace_env.policies.cace import TERMS, load_cace
from cace_env.policies.clairvoyant import Future
from cace_env.policies.orders import ORDERS, split_order
from cace_env.policies.quoted import NAME as AS_IN_REVIEW
from cace_env.policies.quoted import QUOTED, Quoted, load_quoted

__all__ = [
    "GROUPS", "POLICIES", "READINGS", "Future", "Policy", "Training", "policy", "rule_of", "weigh",
]  # fmt: skip

LRU: Final = weigh(since_use_s=-1.0)
FIFO: Final = weigh(since_load_s=-1.0)

FLOOR: Final = "Floor"
DEPLOYED: Final = "Deployed"
PROPOSED: Final = "Proposed"  # proposed for a system, but not released in it as far as we could find
CACHING: Final = "Caching"
FORECAST: Final = "Forecast"
CACE: Final = "CACE"
AS_QUOTED: Final = "CACE as quoted"
CLAIRVOYANT: Final = "Clairvoyant"
GROUPS: Final = (FLOOR, DEPLOYED, PROPOSED, CACHING, FORECAST, CACE, AS_QUOTED, CLAIRVOYANT)


def _floor() -> list[Policy]:
    """Baselines that every other policy should beat."""
    return [
        Policy(
            "random",
            "any candidate, by numbers drawn beforehand from the seed of the episode",
            group=FLOOR,
            kind=rules.RANDOM,
        ),
        Policy("fifo", "loaded longest ago", group=FLOOR, weights=FIFO),
        Policy(
            "static-best",
            "least requests x reload seconds / GB freed, counted once over training episodes: a fixed ranking, so that "
            "its head stays resident and its tail takes turns",
            source="greedy knapsack of value per GB",
            group=FLOOR,
            kind=rules.VALUES,
            values=static_values,
            trained=True,
        ),
    ]


def _deployed() -> list[Policy]:
    """Policies of deployed systems, as their sources described them in 2025-26."""
    return [
        Policy(
            "lru",
            "least recently used: its last arrival or finish is longest ago",
            source="what most systems below come down to; every comparison is drawn against it",
            group=DEPLOYED,
            weights=LRU,
        ),
        Policy(
            "ollama",
            "first by (keep-alive, model name); at most 3 models per accelerator; idle ones leave after 5 min",
            source="Ollama, `server/sched.go`",
            differs="Ollama treats pending requests one at a time, and when nothing is idle it lets the first of that "
            "order expire at once, without a `drain_after`; here the name stands for the path of the model",
            group=DEPLOYED,
            kind=rules.VALUES,
            values=keep_alive_order,
            keep_alive_s=300.0,
            max_resident=3,
        ),
        Policy(
            "ttl",
            "least recently used; idle ones leave after a fixed 10 min",
            source="fixed keep-alive of serverless platforms (Shahrad et al., Serverless in the Wild, ATC 2020)",
            differs="a platform that scales out has no victim to choose; here the next to expire makes room",
            group=DEPLOYED,
            weights=LRU,
            keep_alive_s=600.0,
        ),
        Policy(
            "llama-cpp",
            "least recently used; at most 4 models per accelerator",
            source="llama.cpp, router of its server",
            differs="llama.cpp counts models and is blind to memory: it would run out where this evicts one more",
            group=DEPLOYED,
            weights=LRU,
            max_resident=4,
        ),
        Policy(
            "llama-swap",
            "lowest evict cost: GB of weights, unless set by hand with "
            '`dataclasses.replace(policy("llama-swap"), values={model: cost, ...})`',
            source="llama-swap, matrix mode; the default costs are our choice",
            differs="llama-swap runs sets that are listed by hand and minimises the sum of the costs of what it would "
            "stop; here every set that fits is allowed and victims are taken one by one. It never evicts a busy model, "
            "and serves all who wait for one model together",
            group=DEPLOYED,
            kind=rules.VALUES,
            values=weights_gb,
        ),
        Policy(
            "llama-swap-one",
            "one model per accelerator at a time",
            source="llama-swap, default mode",
            differs="llama-swap runs one model in all; it never evicts a busy model, and serves all who wait for one "
            "model together",
            group=DEPLOYED,
            weights=LRU,
            max_resident=1,
        ),
        Policy(
            "localai",
            "largest (GB freed), ties: least recently used; idle ones leave after 15 min",
            source="LocalAI, watchdog and largest-first eviction",
            differs="there largest-first is an option, LRU the default; LocalAI evicts when a count is exceeded, "
            "here when memory is short",
            group=DEPLOYED,
            weights=weigh(freed_gb=-1.0),
            keep_alive_s=900.0,
        ),
        Policy(
            "modelmesh",
            "least recently used; those loaded less than 10 min ago only where there is no other candidate",
            source="KServe ModelMesh, weighted LRU with a churn guard",
            differs="the weights of ModelMesh's LRU are sizes that bound what is held, as memory does here; it may "
            "enter a copy as used at an earlier time, which is left out here. It rejects a load while its least "
            "recently used entry is younger than about 10 min; here no load is rejected, the guard only changes which "
            "model leaves",
            group=DEPLOYED,
            kind=rules.CHURN_GUARD,
            weights=(600.0,),
        ),
        Policy(
            "ray-serve",
            "least recently used; at most 3 models per accelerator",
            source="Ray Serve, model multiplexing",
            differs="Ray Serve counts models per replica and may hold a model in several replicas",
            group=DEPLOYED,
            weights=LRU,
            max_resident=3,
        ),
        Policy(
            "serverlessllm",
            "loaded longest ago; idle ones leave at once",
            source="ServerlessLLM: pool sorted by the time of the load, never refreshed; keep-alive 0",
            differs="there FIFO rules the pool of weights in host RAM, which is LRU for every policy here",
            group=DEPLOYED,
            weights=FIFO,
            keep_alive_s=0.0,
        ),
        Policy(
            "omlx",
            "least recently used of those that alone make enough room; if none does, the largest (GB freed)",
            source="omlx, proposed in its pull request 3306",
            differs="omlx knows one memory; here candidates on several accelerators compete, each measured by what is "
            "missing on its own",
            group=PROPOSED,
            kind=rules.SINGLE_VICTIM,
        ),
    ]


def _caching() -> list[Policy]:
    """Policies from the caching literature, and one forecast."""
    return [
        Policy(
            "lfu",
            "fewest requests since its load; an eviction forgets them (in-cache LFU)",
            group=CACHING,
            weights=weigh(uses_since_load=1.0),
        ),
        Policy(
            "lru-2",
            "its last arrival but one is longest ago",
            source="LRU-K, O'Neil et al., SIGMOD 1993, K = 2",
            differs="arrivals are remembered for ever, and bursts count in full (no correlated reference period)",
            group=CACHING,
            weights=weigh(since_second_use_s=-1.0),
        ),
        Policy(
            "gdsf",
            "least clock at its last use + requests since its load x reload seconds / GB freed",
            source="GreedyDual-Size-Frequency, Cherkasova, HPL-98-69",
            differs="there a newcomer may bypass the cache, which a model with waiting requests cannot; cost and "
            "size are today's: the reload time is that of the tier the weights would be in",
            group=CACHING,
            weights=weigh(greedy_dual=1.0),
        ),
        Policy(
            "hyperbolic",
            "fewest requests since its load per second since its load",
            source="hyperbolic caching, Blankstein et al., ATC 2017",
            differs="compares all candidates instead of a sample",
            group=CACHING,
            kind=rules.HYPERBOLIC,
        ),
        Policy(
            "rate-load-size",
            "least demand rate (half-life 10 min) x reload seconds / GB freed",
            group=CACHING,
            kind=rules.RATE_LOAD_SIZE,
        ),
        Policy(
            "ewma",
            "least demand rate: arrivals weighted exponentially, half-life 10 min",
            group=FORECAST,
            weights=weigh(rate_10m=1.0),
        ),
    ]


def _cace() -> list[Policy]:
    """CACE in both readings of output length, and without each of its terms (`cace_env.policies.cace` defines them)."""
    shipped = load_cace("cace").weights
    full = Policy(
        "cace",
        "least sum of weight x term over " + ", ".join(TERMS),
        source="factors named in arXiv 2506.18796",
        differs="formula and weights are our reconstruction: the paper's are not public in what we could read",
        group=CACE,
        kind=rules.TERMS,
        weights=shipped.row(),
    )
    other = Policy(
        "cace-output-kept",
        "cace with expected output length the other way round: long answers are a reason to keep",
        source="factors named in arXiv 2506.18796",
        differs="the paper names the factor, not its direction; results that hinge on it say nothing about CACE",
        group=CACE,
        kind=rules.TERMS,
        weights=load_cace("cace-output-kept").weights.row(),
    )
    names = ("load-time", "latency", "output", "recency", "demand")
    return [full, other] + [
        Policy(
            f"cace-no-{name}",
            f"cace with weight 0 for {term}",
            source="leave-one-out ablation",
            group=CACE,
            kind=rules.TERMS,
            weights=shipped.without(term).row(),
        )
        for name, term in zip(names, TERMS, strict=True)
    ]


def _clairvoyant() -> list[Policy]:
    """Rules that know when each model is used next, but not how a swap changes the queues."""
    return [
        Policy(
            "belady",
            "its next use is furthest away",
            source="Belady 1966; optimal for equal sizes and costs and no queues",
            group=CLAIRVOYANT,
            kind=rules.BELADY,
            clairvoyant=True,
        ),
        Policy(
            "belady-size",
            "greatest time to its next use x GB freed",
            source="Belady-Size of libCacheSim, over all candidates instead of a sample",
            group=CLAIRVOYANT,
            kind=rules.BELADY_SIZE,
            clairvoyant=True,
        ),
        Policy(
            "belady-cost",
            "least reload seconds / (time to its next use x GB freed)",
            source="rate-load-size with the true time to the next use",
            group=CLAIRVOYANT,
            kind=rules.BELADY_COST,
            clairvoyant=True,
        ),
    ]


def _as_quoted(name: str, options: Quoted) -> Policy:
    """A reading of the formula that a review quotes for CACE; those that know the future are clairvoyant."""
    clairvoyant = options.upcoming == "future"
    return Policy(
        name,
        options.said(),
        source="formula quoted for arXiv 2506.18796 in a machine-written review",
        differs="could not be checked against the paper, which direction evicts least of all",
        group=CLAIRVOYANT if clairvoyant else AS_QUOTED,
        kind=rules.QUOTED,
        weights=options.row(),
        clairvoyant=clairvoyant,
    )


POLICIES: Final[dict[str, Policy]] = {
    row.name: row for row in (*_floor(), *_deployed(), *_caching(), *_cace(), *_clairvoyant())
}
# Readings of the quoted formula: known by name, but not part of the default list of policies.
READINGS: Final[dict[str, Policy]] = {name: _as_quoted(name, options) for name, options in QUOTED.items()}


def policy(what: str | Policy) -> Policy:
    """Find a built-in policy by name; a `Policy` is returned as it is.

    Args:
        what: a name of `POLICIES` or `READINGS`; CACE with other weights, `cace:NAME` for a shipped file,
            `cace:FILE.yaml` for one of your own (`cace_env.policies.cace`); a reading with options of your own,
            `cace-quoted:FILE.yaml` or `cace-quoted:window=20` (`cace_env.policies.quoted`); or a trained agent,
            `agent:NAME` or `agent:FOLDER` (`cace_env.policies.agent`). For Swap-v0 with an order in front: `wsjf+lru`
            (`cace_env.policies.orders`).

    Raises:
        ConfigError: the name is unknown (the error lists the closest one and all of them), or the weights are not
            valid.
    """
    if isinstance(what, Policy):
        return what
    by_order, victims = split_order(what)
    if by_order is not None:
        chosen = policy(victims)
        if chosen.order is not None:
            raise ConfigError(f"{victims!r} has its own order, but {what!r} gives it another one; name it alone")
        return replace(chosen, name=what, order=by_order)
    if what.startswith(PREFIX):
        return replace(load_agent(what.removeprefix(PREFIX)).policy(), name=what)
    if what.startswith("cace:"):
        other = load_cace(what.removeprefix("cace:"))
        return replace(POLICIES["cace"], name=what, weights=other.weights.row(), source=other.description)
    if what.startswith(AS_IN_REVIEW):
        return READINGS.get(what) or _as_quoted(what, load_quoted(what))
    if what not in POLICIES:
        if what in ORDERS:
            raise ConfigError(f"{what!r} is an order; add a policy that chooses victims, such as {what}+lru")
        raise ConfigError(f"no policy called {what!r}{did_you_mean(what, POLICIES)}; known are {', '.join(POLICIES)}")
    return POLICIES[what]
