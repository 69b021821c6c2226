"""The benchmark's page in the docs, from the figures of one run."""

from __future__ import annotations

from textwrap import fill
from typing import Final

from cace_env.config import ConfigError
from experiments.benchmarks import tables as tables
from experiments.benchmarks.cartpole import DRAWS
from experiments.benchmarks.growth import NEED_GB, NUM_ENVS
from experiments.benchmarks.growth import REQUESTS as SMALL_EPISODE
from experiments.benchmarks.latency import ENV_STEP, PYTHON_LRU, THE_CALL
from experiments.benchmarks.measures import Figures
from experiments.benchmarks.parts import EVERYWHERE, PARTS
from experiments.benchmarks.targets import DEFAULT, vector_row
from experiments.reading.markdown import table

WIDTH: Final = 120
PICTURE: Final = "images/benchmarks.png"  # beside the page
TWO_KEYS: Final = {"start": ("start", "compile")}  # parts that fill more than the key of their name


def page(figures: Figures) -> str:
    """`docs/benchmarks.md`.

    Raises:
        ConfigError: parts are missing.
    """
    missing = [part for part in PARTS if any(key not in figures for key in TWO_KEYS.get(part, (part,)))]
    if missing:
        raise ConfigError(f"a page needs all parts, and {', '.join(missing)} were not measured; leave out --only")
    default = figures["scenarios"][DEFAULT]
    vector, memory, run = figures["vector"], figures["memory"], figures["long"]
    machine, features, start = figures["machine"], figures["features"], figures["start"]
    load = machine["load_average_1min"]
    return PAGE.format(
        cpu=machine["cpu"],
        cores=machine["cores"],
        platform=machine["platform"],
        versions=fill(
            ", ".join(f"{package} {version}" for package, version in machine["versions"].items()) + ".", WIDTH
        ),
        date=machine["started"][:10],
        load="" if load is None else f", load average at the start {load:.1f}",
        picture=PICTURE,
        targets=_table(tables.targets(figures)),
        bank=vector["bank"],
        vector=_table(tables.vector(vector)),
        skipped="".join(f"\nNot measured: {reason}.\n" for reason in vector["skipped"]),
        amortised=_amortised(figures),
        choosing=_choosing(figures),
        vector_scenarios=_table(tables.vector_scenarios(vector, 64)),
        shares=_table(tables.shares(figures["shares"])),
        cartpole=_table(tables.cartpole(figures["cartpole"])),
        envpool=fill(f"{OTHERS.format(draws=DRAWS)} {_envpool(figures['cartpole']['envpool'])}", WIDTH),
        steps=_table(tables.steps(figures["steps"])),
        requests_per_decision=1 / default["policies"]["lru"]["decisions_per_request"],
        latency=_table(tables.latency(figures["latency"])),
        the_call=THE_CALL,
        python_lru=PYTHON_LRU,
        env_step=ENV_STEP,
        growth=_table(tables.growth(figures["growth"])),
        growth_envs=NUM_ENVS,
        small_episode=SMALL_EPISODE,
        need_gb=NEED_GB,
        sb3=_sb3(figures["sb3"]),
        rounds=default["rounds"],
        episodes=default["episodes"],
        requests=default["requests"],
        models=default["models"],
        accelerators=default["accelerators"],
        policies=_table(tables.policies(figures["scenarios"])),
        scenarios=_table(tables.scenario_episodes(figures["scenarios"], EVERYWHERE)),
        parts=_table(tables.episode_parts(figures["scenarios"])),
        features_ns=features["ns_per_decision"],
        features_share=features["share_of_episode"],
        libcachesim=_libcachesim(figures["libcachesim"]),
        compiling=_compiling(figures["compile"]),
        starts=start["rounds"],
        start=_table(tables.start(start)),
        long=memory["requests"],
        memory=_table(tables.memory(memory)),
        long_rate=memory["requests"] / memory["episode_s"] / 1e6,
        environments=_table(tables.environments(figures["environments"])),
        run_decisions=run["decisions"],
        run_envs=run["num_envs"],
        run_episodes=run["episodes"],
        run_seconds=run["seconds"],
        settled_mb=run["settled_mb"],
        last_mb=run["last_mb"],
        states=_table(tables.states(figures["states"])),
        protocols=_table(tables.protocols(figures["protocols"])),
        keys=table(("key", "what is under it"), [(f"`{part}`", meaning) for part, meaning in PARTS.items()]),
    )


def _table(grid: tables.Grid) -> str:
    return table(grid.header, grid.rows, numbers="right")


def _amortised(figures: Figures) -> str:
    """What filling the bank comes to."""
    rows = [
        row
        for num_envs in (64, 1024)
        if (row := vector_row(figures, num_envs=num_envs, bank=figures["vector"]["bank"])) is not None
    ]
    parts = [
        f"{row['ready_s']:.1f} s with {row['num_envs']:,} environments, which leaves "
        f"{row['amortised_decisions_per_s'] / row['decisions_per_s']['median']:.1%} of the rate"
        for row in rows
    ]
    return (
        f"until the first action\n  it takes {'; '.join(parts)} over {figures['vector']['amortised_over']:,} decisions"
    )


def _choosing(figures: Figures) -> str:
    """What the choice of actions takes of the time."""
    rows = [row for row in figures["vector"]["rows"] if row["choice"] == "lowest" and row["num_envs"] >= 64]
    shares = [row["choosing_share"] for row in rows]
    return f"{min(shares):.1%} to {max(shares):.1%}" if shares else "an unknown share"


def _envpool(figures: Figures) -> str:
    if "skipped" in figures:
        return f"EnvPool was not measured: {figures['skipped']}."
    return f"EnvPool {figures['version']} steps CartPole in C++ threads; it is measured where it is installed."


def _libcachesim(figures: Figures) -> str:
    if "skipped" in figures:
        return f"Not measured: {figures['skipped']}."
    rates = figures["requests_per_s"]
    return (
        f"libCacheSim {figures['version']}, {figures['slots']} slots: {rates['best'] / 1e6:.1f} million requests/s\n"
        f"(median round {rates['median'] / 1e6:.1f}; miss ratio {figures['miss_ratio']:.3f}); ours over "
        f"theirs: {figures['ours_over_theirs']:.3f}."
    )


def _compiling(figures: Figures) -> str:
    if "skipped" in figures:
        return f"Not measured ({figures['skipped']})."
    return _table(tables.compiling(figures))


def _sb3(figures: Figures) -> str:
    if "skipped" in figures:
        return f"Not measured: {figures['skipped']}."
    return _table(tables.training(figures))


OTHERS: Final = "Gymnasium's CartPole-v1 under random actions from a table of {draws} rows; thousand steps/s."
PAGE: Final = """\
# Benchmarks

How fast the simulator is, and how that was measured. `make bench` (`python -m experiments.benchmark`) measures all of
it and writes `benchmark.json` and plots into `runs/`; `--quick` gives rough figures in seconds, `--only vector,growth`
some parts. This page is written by it: `python -m experiments.benchmark --write docs/benchmarks.md`, or from earlier
results with `--results runs/benchmark-.../benchmark.json`.

Measured on {date}: {cpu}, {cores} cores, {platform}{load};
{versions}
Everything runs on one core, but where threads are said.

No machine is quite idle, so what is compared is measured in turns, round after round. *Best* is the fastest a thing has
been, *median* the median round: what the code can do, and what to expect.

{targets}

![Batches in decisions and requests per second, where their time goes, growth, memory]({picture})

## Batches of environments

`gymnasium.make_vec("cace_env:cace_env/Eviction-v0", num_envs=N)` on the default scenario, ended episodes beginning
again within the step (`SameStep`). All that a training loop pays for is in the figures: choosing an action from the
mask, simulating, observations, masks, rewards, infos, and for every episode that ends its metrics, its reset and its
requests. No round is shorter than a mean episode, so every environment ends about one episode in each. Thousand per
second, median round but where *best* is said.

- *Requests from*: `fresh` generates new requests for every episode (`num_workloads=None`); `bank` plays the first
  {bank} workloads of the split again and again (`num_workloads={bank}`): less diversity for more speed. The bank is
  filled before the first round, which is not in the rates: {amortised}.
- *Choice*: `lowest` is the legal slot of lowest index, one `argmax` over the mask for the whole batch ({choosing} of
  the time of batches of 64 and more, which is in the figures); `lru` reads the least recently used model from the
  observation, and so plays episodes as the compiled LRU does.
- *Over LRU*: requests/s over those of whole episodes under LRU in one compiled call, in which nobody looks: no
  observation, no mask, no copies. *With generation*: over the same with the time to generate and lay out the requests,
  which is what fresh requests are to be held against. *Over CartPole*: decisions/s over the steps/s of one
  `gymnasium.make("CartPole-v1")`. All were measured in turns with the batch; medians of the ratios within a round.
  Policies differ in decisions per request, so requests/s and decisions/s do not follow from each other.

{vector}
{skipped}
64 environments on every scenario, one thread, lowest legal slot:

{vector_scenarios}

Where the time of a step goes:

{shares}

What compiled LRU does not do and a batch has to is to look, to hand arrays over, and to sum up each episode that ends.
What holds large batches back on top of that is memory. A step touches some 15 KB of each environment and a few requests
of its workload. Those of 64 environments stay in the processor's caches from one step to the next, those of 1,024 do
not. Rows are fetched ahead; in trials with and without, on one copy of the code after the other, that helped by a tenth
where 1,024 environments shared 64 workloads. Fetching the coming requests as well did not help. Two threads
have two sets of caches and so gain most in large batches; in small ones handing the work over costs more than it saves,
and new requests are generated by one thread in any case.

## CartPole

{envpool}

{cartpole}

## One environment

One `cace_env/Eviction-v0` under random legal actions, resets included (each generates an episode and simulates up to
its first question; each last step computes all metrics), beside Gymnasium's CartPole-v1. A step of ours simulates what
happens until the next question: {requests_per_decision:.1f} requests on average under LRU. The ratio is of the best.

{steps}

## Both environments

Whole compiled episodes of the default scenario in Swap-v0, in turns with those of LRU in Eviction-v0; thousand requests
per second. Where it is also asked which model to load there are more decisions, and every instant that might allow a
load looks at all models.

{protocols}

## One decision

What a policy takes for one decision on the default scenario, each decision timed by itself from Python. A built-in
policy is one call into compiled code; *{the_call}* is such a call that does nothing. *{python_lru}* reads the
features of all slots and scores them with NumPy; *{env_step}* simulates up to the next question.

{latency}

## States

`get_state` and `set_state` of one environment with 16 slots, one after the other, halfway through an episode under LRU:
time for both, memory of one state, and of the requests, which all states of an episode share. A pickled state brings
them along. What is kept for long takes fresh memory from the system, which it has to clear first: add its page faults.

{states}

## Growth

Fleets of growing size, made for this: every model takes {need_gb:.0f} GB, so that each fleet has exactly the slots it
should have; the models are those of the default scenario, as often as it takes and equally popular; the company is the
default one (with *all together* it grows with the fleet); episodes of {small_episode:,} requests. *us/decision* is a
step of one environment in a batch of {growth_envs} that plays from a bank, everything included; more slots for as many
models mean fewer misses, and so more requests between two decisions. *us/observation* is one observation alone,
*us/request* a whole compiled episode under LRU. The exponent b is that of the power law a size^b, fitted to the
logarithms by least squares: 0 costs nothing, 1 is linear.

{growth}

## Training with Stable-Baselines3

How the wall time of training on the default scenario is shared out, with SB3's default network on the processor:
*environment* is *vector env* (simulation, observations, masks, infos, resets, fresh requests) plus *adapter*
(`cace_env.sb3.EvictionVecEnv`); *acting* is the network's choice of actions, *learning* the gradient steps, *other*
SB3's own bookkeeping.

{sb3}

## Whole episodes

A built-in policy runs a whole episode in one compiled call, with everything [design.md](design.md) describes: queues,
continuous batching, prefix caches, swap channels, tiers. A *request* is one request of the workload, from arrival to
last token; a *decision* is one question to the policy. A round runs {episodes} test seeds one after the other
({requests:,} requests); {rounds} rounds; *best* takes every episode's fastest run. Thousand per second; *with
generation* counts the time to generate the requests and to lay them out as well.

The default scenario ({models} models, {accelerators} accelerators):

{policies}

LRU and CACE on every scenario (they differ in length, queues, accelerators and decisions per request):

{scenarios}

Where the time of an episode goes, default scenario, median round:

{parts}

Reading every feature of every candidate costs {features_ns:.0f} ns per decision, {features_share:.0%} of an episode:
LRU against an LRU that reads them all and decides the same. A rule reads only those that it needs.

One long episode of {long:,} requests, which no processor cache holds, runs at {long_rate:.2f} million requests/s under
LRU, laying it out included.

## Beside libCacheSim

[libCacheSim](https://github.com/1a1a11a/libCacheSim) is a fast cache simulator in C. Its LRU, called from Python with
`process_trace`, gets the models of the default scenario's requests in the order in which they arrived, one unit each,
and as many slots as models fit into memory on average. It has no time: no arrivals, queues, loads, tokens or
accelerators; it counts hits. The ratio says what simulating all of that costs over counting.

{libcachesim}

## First compilation and start

The simulator is compiled once per version of the package (and of Numba and Python), part by part: each when it is
first needed, with a line on stderr that says which and how many are done. Each is kept in `~/.cache/cace_env` (or
`$CACE_ENV_CACHE_DIR`) as soon as it is compiled, for every virtual environment. `python -m cace_env.compile` compiles
all of them.

{compiling}

From then on, {starts} new processes one after the other:

{start}

## Memory

Peak resident memory of a process of its own that generates one episode of {long:,} requests of the default scenario,
simulates it under LRU and computes its metrics:

{memory}

What a batch of the default scenario adds to a process that holds one environment already:

{environments}

Nothing grows with time: {run_decisions:,} decisions of {run_envs} environments with fresh requests at every reset
({run_episodes:,} episodes, {run_seconds:.0f} s) held at most {settled_mb:.1f} MB in their first fifth and
{last_mb:.1f} MB in their last. `make bench-long` does a hundred million.

## benchmark.json

`format` is 2; `machine`, `command` and `quick` say where and how it was measured, `targets` what was promised. Rates
are `{{"best": ..., "median": ...}}`, every other name ends with its unit. Where something could not be measured,
`skipped` says why. Each part has a key of its name:

{keys}
"""
