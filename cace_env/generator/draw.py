"""Generated workloads: the requests of a company of developers, fitted to published statistics.

Each developer has tracks, one or more per task. A track alternates between sessions and breaks: within a session each
request follows the previous one after a gap; a break ends by a hazard that follows the day curve and company-wide
bursts. All completions of one user form one closed-loop chain (an editor waits or cancels, it does not pile up);
sessions of the other tasks start at absolute times and are closed loop inside. What comes out is compared with the
published figures in `docs/workloads.md`.

Start with `WorkloadConfig` (what can be set, and where each default comes from), then `generate`. The rest:
`generator_tables` (all that does not depend on the seed), `generator_random` (streams), `generator_routing` (users and
models), `generator_kernel` (the pass over time).
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from cace_env.config import ConfigError
from cace_env.generator.config import ServedModel, WorkloadConfig
from cace_env.generator.routing import routing_space
from cace_env.generator.rows import generate_rows, new_space
from cace_env.generator.streams import NUM_STREAMS
from cace_env.generator.tables import GeneratorTables, tabulate
from cace_env.workload import COLUMNS, Workload


def generate(config: WorkloadConfig, models: Sequence[ServedModel], seed: int) -> Workload:
    """The requests of one episode, sorted by nominal arrival; the same to the bit for the same arguments.

    Randomness comes from named streams (`generator_random.STREAMS`), keyed by `numpy.random.SeedSequence(seed)`: a draw
    added to one of them changes no other.

    Args:
        config: the company.
        models: the catalogue in index order: `Workload.model` holds these indices.
        seed: at least 0.

    Returns:
        Workload: `config.requests` rows, label "generated". Nominal arrivals are those of a fleet on which every
        request runs alone on a resident model; `think_us` is what is left of the drawn gap after that nominal service,
        at least 0.1 s. The first row of a session that was running at time 0 is an open-loop request with the context
        the session had by then.

    Raises:
        ConfigError: a task with a share above 0 that no model serves in some language, or a negative seed.
    """
    if seed < 0:
        raise ConfigError(f"seed {seed} must be at least 0")
    tables: GeneratorTables = tabulate(config, tuple(models))
    states = np.random.SeedSequence(seed).generate_state(NUM_STREAMS, np.uint64)
    columns = {name: np.empty(config.requests, dtype) for name, dtype in COLUMNS.items()}
    with np.errstate(over="ignore"):  # 64-bit wrap-around is meant; numpy warns where numba is switched off
        generate_rows(tables, states, routing_space(tables), *new_space(tables, config.requests), *columns.values())
    return Workload(**columns, label="generated", meta={"seed": seed})
