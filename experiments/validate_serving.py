"""The fluid serving model of the simulator against continuous batching one forward pass at a time.

`python -m experiments.validate_serving` serves the Azure 2023 traces by both, one and two models resident from the
start and nothing swapped, and prints how far times to first token (TTFT) and end-to-end times (E2E) are apart. Errors
are tolerated or not against the loop that follows the simulator's own rule of scheduling (`batch="head"`), and
reported against one that gives out tokens as vLLM does (`"budget"`). `--write docs/serving.md` writes the page. Traces
that are not there are replaced by generated requests with their published quantiles, and labelled so.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Final, get_args

import numpy as np
import numpy.typing as npt

from cace_env.catalogue import MODELS
from cace_env.generator import ServedModel
from cace_env.hardware import ENGINES, GPUS
from cace_env.markdown import table
from cace_env.simulator import Question, simulate
from cace_env.tables import FOREVER, TASKS, CostTable, FleetTables
from cace_env.tabulate import GB, Accelerator, HostedModel, reserve, tabulate
from cace_env.traces import load_trace
from cace_env.traces.attach import TOKENS_OF_TASK
from cace_env.traces.trace import draw_quantiles
from cace_env.workload import Workload
from experiments.iteration_level import SLICE_US, Batch, IterationRun, run_iterations
from experiments.serving_page import PAGE

GPU: Final = "a100-80"
ONE: Final = ("qwen2.5-coder-7b",)
TWO: Final = ("qwen2.5-coder-7b", "qwen2.5-coder-14b")  # by popularity: two thirds and one third of the requests
LOADS: Final = (0.3, 0.6, 0.9)
TOLERATED: Final = (0.05, 0.10, 0.05, 0.10)  # of TTFT mean, p95, E2E mean, p95, same rule; twice that from HEAVY on
HEAVY: Final = 0.9
BOUND: Final = (0.10, 0.10, 0.05, 0.10)  # against the vLLM-like loop, at any load: no tolerance, but a fence for tests

ROOT = Path(__file__).resolve().parents[1]
FOLDERS = (Path(), ROOT.parent / "shared" / "data", ROOT / "shared" / "data")


@dataclass(frozen=True)
class TraceSource:
    """A trace, and what is published about it for when it is not there."""

    name: str
    task: str  # its token quantiles are those of this task
    files: tuple[str, ...]  # as downloaded, then as kept elsewhere; the first that exists is read
    requests: int
    gap_cv: float  # coefficient of variation of the gaps between arrivals


TRACES: Final = (
    TraceSource(
        "code", "completion", ("AzureLLMInferenceTrace_code.csv", "azure2023_code_first60.csv.gz"), 6_521, 13.2
    ),
    TraceSource("conversation", "chat", ("AzureLLMInferenceTrace_conv.csv", "azure2023_conv.csv.gz"), 19_366, 1.09),
)


@dataclass(frozen=True)
class Latencies:
    """Mean and 95 % quantile over all requests [s]."""

    ttft_mean: float
    ttft_p95: float
    e2e_mean: float
    e2e_p95: float

    @property
    def values(self) -> tuple[float, float, float, float]:
        """In the order of the table."""
        return self.ttft_mean, self.ttft_p95, self.e2e_mean, self.e2e_p95


@dataclass(frozen=True)
class Case:
    """One workload at one load, served by the loop and by the fluid."""

    trace: str
    models: int
    load: float
    compression: float  # the trace's times are divided by it
    busy_share: float
    loop: Latencies
    fluid: Latencies

    @property
    def errors(self) -> tuple[float, ...]:
        """Relative errors of the fluid: TTFT mean, p95, E2E mean, p95."""
        return tuple(ours / true - 1 for ours, true in zip(self.fluid.values, self.loop.values, strict=True))

    @property
    def tolerances(self) -> tuple[float, ...]:
        """What the errors may be."""
        times = 2 if self.load >= HEAVY else 1
        return tuple(most * times for most in TOLERATED)

    @property
    def holds(self) -> bool:
        """Whether all four errors are tolerable."""
        return self.within(self.tolerances)

    def within(self, bounds: Sequence[float]) -> bool:
        """Whether no error is larger than its bound; `bounds` in the order of `errors`."""
        return all(abs(error) <= most for error, most in zip(self.errors, bounds, strict=True))


def fleet(names: Sequence[str], gpu: str = GPU) -> FleetTables:
    """One accelerator with these models of the catalogue, default reserves, resident from time 0."""
    hosted = []
    for name in names:
        reserve_bytes, kv_tokens = reserve(MODELS[name])
        hosted.append(HostedModel(name, MODELS[name], reserve_bytes, kv_tokens, resident_on=0))
    nothing, tasks = np.zeros(len(TASKS)), len(TASKS)
    cost = CostTable(nothing, nothing, np.full(tasks, FOREVER), np.zeros(tasks, dtype=np.bool_))
    accelerator = Accelerator(gpu, GPUS[gpu], round(GPUS[gpu].memory_gb.value * GB))
    return tabulate([accelerator], hosted, ENGINES["safetensors"], cost)


def requests_of(source: TraceSource, names: Sequence[str], path: Path | None) -> Workload:
    """The trace with models drawn by popularity, in the order of `names` (shares 1, 1/2, 1/3, ...).

    Args:
        source: which trace.
        names: models.
        path: its file; None: generated by the published quantiles of tokens and the CV of gaps (Gamma gaps).
    """
    if path is None:
        return generated(source, len(names), source.requests)
    models = [ServedModel(name, (source.task,), popularity=-rank) for rank, name in enumerate(names)]
    return load_trace(path, "azure", models=models, tasks=source.task, zipf_exponent=1.0)


def generated(source: TraceSource, num_models: int, requests: int, seed: int = 0) -> Workload:
    """Requests with the published token quantiles and CV of gaps of a trace, at one request per second on average."""
    rng = np.random.default_rng(seed)
    levels, prompt, _, output = TOKENS_OF_TASK[source.task]
    gaps_s = rng.gamma(source.gap_cv**-2, source.gap_cv**2, requests)
    shares = 1 / np.arange(1, num_models + 1)
    return Workload.from_columns(
        label=f"generated by the published quantiles of azure 2023 {source.name}",
        arrival_us=np.rint(np.cumsum(gaps_s) * 1e6),
        model=rng.choice(num_models, requests, p=shares / shares.sum()),
        task=np.full(requests, TASKS.index(source.task)),
        context_tokens=draw_quantiles(levels, prompt, rng.random(requests)),
        output_tokens=draw_quantiles(levels, output, rng.random(requests)),
    )


def at_load(tables: FleetTables, workload: Workload, load: float) -> tuple[Workload, float]:
    """The workload with its times divided such that requests come at `load` of the rate at which they can be served.

    That rate is the one at which the vLLM-like loop works off the whole workload when all of it waits at time 0.
    Bursts stay: at any load below 1 queues build up while the log is faster than its mean.

    Returns:
        The workload, and by what its times were divided.
    """
    at_once = replace(workload, arrival_us=np.zeros_like(workload.arrival_us))
    capacity_us = float(np.nanmax(run_iterations(tables, at_once, batch="budget").finish_us))
    compression = float(np.ptp(workload.arrival_us)) / (capacity_us / load)
    arrival_us = np.rint((workload.arrival_us - workload.arrival_us.min()) / compression).astype(np.int64)
    return replace(workload, arrival_us=arrival_us), compression


def compare(
    tables: FleetTables,
    workload: Workload,
    load: float,
    trace: str = "",
    *,
    batch: Batch,
    slice_us: int | None = SLICE_US,
) -> Case:
    """Serves the workload at a load by loop and fluid; `batch` and `slice_us` of the loop as in `run_iterations`."""
    scaled, compression = at_load(tables, workload, load)
    loop = run_iterations(tables, scaled, batch=batch, slice_us=slice_us)
    return Case(
        trace=trace,
        models=tables.num_models,
        load=load,
        compression=compression,
        busy_share=loop.busy_share,
        loop=loop_latencies(scaled, loop),
        fluid=fluid_latencies(tables, scaled),
    )


def effect_of_slices(tables: FleetTables, workload: Workload, load: float, batch: Batch) -> float:
    """Largest relative difference that slices of a quarter or four times the length make in the loop's latencies."""
    scaled, _ = at_load(tables, workload, load)
    lengths = (SLICE_US, SLICE_US // 4, SLICE_US * 4)
    runs = [run_iterations(tables, scaled, batch=batch, slice_us=length) for length in lengths]
    usual, *others = (np.array(loop_latencies(scaled, run).values) for run in runs)
    return float(max(np.abs(other / usual - 1).max() for other in others))


def fluid_latencies(tables: FleetTables, workload: Workload) -> Latencies:
    """Latencies in the simulator, where nothing is ever swapped."""
    episode = simulate(tables, workload, _never_asked)
    served = ~episode.refused
    return _latencies(workload.arrival_us[served], episode.first_token_us[served], episode.finish_us[served])


def loop_latencies(workload: Workload, run: IterationRun) -> Latencies:
    """Latencies in the iteration-level loop."""
    served = ~np.isnan(run.finish_us)
    return _latencies(workload.arrival_us[served], run.first_token_us[served], run.finish_us[served])


def _latencies(arrival_us: npt.NDArray, first_us: npt.NDArray, finish_us: npt.NDArray) -> Latencies:
    ttft_s, e2e_s = (first_us - arrival_us) / 1e6, (finish_us - arrival_us) / 1e6
    figures = (ttft_s.mean(), np.quantile(ttft_s, 0.95), e2e_s.mean(), np.quantile(e2e_s, 0.95))
    return Latencies(*(float(figure) for figure in figures))


def _never_asked(question: Question) -> int:
    raise AssertionError(f"a victim was asked for at {question.now_us} us, though every model is resident")


def find(source: TraceSource) -> Path | None:
    """The trace's file, in the working directory or beside the repository."""
    return next((folder / name for folder in FOLDERS for name in source.files if (folder / name).is_file()), None)


# --- the page ---------------------------------------------------------------------------------------------------------


def latency_table(cases: Iterable[Case]) -> str:
    """What was simulated: load, and latencies in the loop."""
    header = ("trace", "models", "load", "times divided by", "busy", "TTFT mean s", "p95 s", "E2E mean s", "p95 s")
    rows = [
        (
            *_name(case),
            f"{case.compression:.2f}",
            f"{case.busy_share:.0%}",
            *(f"{value:.3g}" for value in case.loop.values),
        )
        for case in cases
    ]
    return table(header, rows)


def error_table(cases: Iterable[Case], judged: bool) -> str:
    """Errors of the fluid, where `judged` with what is tolerated."""
    header = ("trace", "models", "load", "TTFT mean", "TTFT p95", "E2E mean", "E2E p95", "tolerated", "holds")
    rows = []
    for case in cases:
        verdict = (f"{case.tolerances[0]:.0%} / {case.tolerances[1]:.0%}", "yes" if case.holds else "**no**")
        rows.append((*_name(case), *(f"{error:+.1%}" for error in case.errors), *(verdict if judged else ())))
    return table(header if judged else header[:-2], rows)


def count_held(cases: Sequence[Case]) -> str:
    """How many cases are within the tolerance."""
    return f"{sum(case.holds for case in cases)} of {len(cases)}"


def largest_misses(cases: Sequence[Case]) -> str:
    """Which mean TTFTs are off by more than would be tolerated below heavy load, and by how much."""
    missed = [case for case in cases if abs(case.errors[0]) > TOLERATED[0]]
    names = (
        f"{case.trace} at {case.load:.0%} with {case.models} model{'s' if case.models > 1 else ''}"
        f" ({case.errors[0]:+.1%}, {(case.fluid.ttft_mean - case.loop.ttft_mean) * 1000:+.0f} ms)"
        for case in missed
    )
    return f"**{len(missed)} of {len(cases)} cases**" + (": " if missed else "") + ", ".join(names)


def _name(case: Case) -> tuple[str, str, str]:
    return case.trace, str(case.models), f"{case.load:.0%}"


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(
        prog="python -m experiments.validate_serving",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    for source in TRACES:
        parser.add_argument(f"--{source.name}", type=Path, metavar="FILE", help=f"Azure 2023 {source.name} trace")
    parser.add_argument("--generated", action="store_true", help="generated requests even where the traces are there")
    parser.add_argument("--write", type=Path, metavar="FILE.md", help="write the page")
    arguments = parser.parse_args()

    labels, head_cases, budget_cases, turn_cases = [], [], [], []
    slice_effect = 0.0
    for source in TRACES:
        path = None if arguments.generated else getattr(arguments, source.name) or find(source)
        for names in (ONE, TWO):
            tables, workload = fleet(names), requests_of(source, names, path)
            if names == ONE:
                span_min = np.ptp(workload.arrival_us) / 60e6
                origin = "generated" if path is None else path.name
                labels.append(f"{source.name}: {len(workload):,} requests, {span_min:.0f} minutes ({origin})")
            for load in LOADS:
                head_cases.append(compare(tables, workload, load, source.name, batch="head"))
                budget_cases.append(compare(tables, workload, load, source.name, batch="budget"))
                if names == TWO:
                    turn_cases.append(compare(tables, workload, load, source.name, batch="head", slice_us=None))
                    effects = (effect_of_slices(tables, workload, load, batch) for batch in get_args(Batch))
                    slice_effect = max(slice_effect, *effects)
    measured = {
        "traces": "; ".join(labels),
        "latencies": latency_table(head_cases),
        "head": error_table(head_cases, judged=True),
        "held": count_held(head_cases),
        "budget": error_table(budget_cases, judged=False),
        "misses": largest_misses(budget_cases),
        "turns": error_table(turn_cases, judged=False),
        "slices": f"{slice_effect:.1%}",
    }
    for name, text in measured.items():
        print(f"{name}\n{text}\n")
    if arguments.write:
        arguments.write.write_text(PAGE.format(**measured), encoding="utf-8")


if __name__ == "__main__":
    main()
