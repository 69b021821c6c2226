"""Coefficients from what runs show, as if they had been a calibration: what predicts one policy from another's runs.

Only clean moments count: tokens while one engine is busy, nothing is loading and no prompt is being read, with the
number of writing requests constant; first tokens of requests that were alone from their admission on.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Final, NamedTuple

import numpy as np
import numpy.typing as npt

from cace_env.live.calibration import Calibration, Sample, fit_model, spans
from cace_env.tables import FloatArray, Int64Array
from cace_env.workload import Workload
from experiments.calibration.outputs import Sizes
from experiments.validation.records import Run

Mask = npt.NDArray[np.bool_]

LEAST_POINTS: Final = {"load warm": 1, "unload": 1, "prefill": 4, "token": 10}  # of a model, else others stand in


class Clean(NamedTuple):
    """What runs show of a fleet.

    Attributes:
        samples: as of a calibration.
        fresh: of each model, `(new tokens, time to the first token)` of requests that were the first after a load.
    """

    samples: list[Sample]
    fresh: dict[str, list[tuple[Sample, float]]]


def clean_samples(runs: Sequence[Run], workload: Workload, names: Sequence[str]) -> Clean:
    """The clean moments of runs over one workload."""
    found = Clean([], defaultdict(list))
    for run in runs:
        for move in run.moves:
            what = "load warm" if move.what == "load" else "unload"
            found.samples.append(Sample(move.begin, names[move.model], what, move.end - move.begin))  # type: ignore[arg-type]
        _of_requests(run, workload, names, found)
    return found


def _of_requests(run: Run, workload: Workload, names: Sequence[str], found: Clean) -> None:
    admitted = np.array([one.admitted for one in run.asked])
    first = np.array([one.tokens[0] for one in run.asked])
    finish = np.array([one.tokens[-1] for one in run.asked])
    moves = np.array([(move.begin, move.end) for move in run.moves]).reshape(-1, 2)
    model = workload.model.astype(np.int64)
    for r, one in enumerate(run.asked):
        name, context = names[model[r]], int(workload.context_tokens[r])
        others = np.arange(len(admitted)) != r

        def beside(begin: float, end: float, others: Mask = others) -> Mask:
            """Which other requests the server has at some time between."""
            return others & (admitted < end) & (finish > begin)

        def moving(begin: float, end: float) -> bool:
            return bool(((moves[:, 0] < end) & (moves[:, 1] > begin)).any())

        begin, end = one.admitted, one.tokens[0]
        if not beside(begin, end).any() and not moving(begin, end):
            sample = Sample(begin, name, "prefill", end - begin, 1, context, one.cached, one.written)
            if _is_fresh(run, r, model, admitted):
                found.fresh[name].append((sample, end - begin))
            else:
                found.samples.append(sample)
        for begin, end, count in spans(one.tokens):
            there = beside(begin, end)
            if (model[there] != model[r]).any() or moving(begin, end):
                continue
            if (first[there] > begin).any() or (finish[there] < end).any():
                continue  # one of them reads its prompt, or ends meanwhile
            contexts = [context, *workload.context_tokens[there].tolist()]
            written = int(np.mean([one.written, *workload.output_tokens[there].tolist()]))
            found.samples.append(
                Sample(
                    begin, name, "token", (end - begin) / count, len(contexts), round(np.mean(contexts)), 0, written
                )
            )  # fmt: skip


def _is_fresh(run: Run, r: int, model: Int64Array, admitted: FloatArray) -> bool:
    """Whether a request is the first after its model's load."""
    loads = [move.end for move in run.moves if move.what == "load" and move.model == model[r]]
    since = max((end for end in loads if end <= admitted[r]), default=-np.inf)
    return not ((model == model[r]) & (admitted >= since) & (admitted < admitted[r])).any()


def fit_runs(
    clean: Clean, calibrated: Sequence[Sample], sizes: Mapping[str, Sizes]
) -> tuple[list[Calibration], list[str]]:
    """Coefficients of all models.

    Where runs show too little, the calibration stands in, multiplied by what has changed: of the same model in other
    batches, or else of the other models.

    Args:
        clean: of `clean_samples`.
        calibrated: of calibrations.
        sizes: by model.

    Returns:
        The fits, and what was too little, as `model: what`.
    """
    before = {name: fit_model(calibrated, name, size.chunk_tokens) for name, size in sizes.items()}
    samples: list[Sample] = []
    missing: list[str] = []
    for what, least in LEAST_POINTS.items():
        seen = _by_model(clean.samples, what, least)
        changed = {name: _change(before[name], mine, what, sizes[name]) for name, mine in seen.items()}
        others = float(np.median(list(changed.values()))) if changed else 1.0
        wanted = _by_model(calibrated, what, 1)
        for name in sizes:
            found = seen.get(name, [])
            rest = [one for one in wanted[name] if one.batch not in {each.batch for each in found}]
            samples += [*found, *(one._replace(seconds=changed.get(name, others) * one.seconds) for one in rest)]
            batches = sorted({one.batch for one in rest})
            missing += [
                f"{name}: {what}, {batch} at once" if what == "token" else f"{name}: {what}" for batch in batches
            ]
    # The slow first request after a load is a part of the load; here it is what the fit of the others leaves over.
    no_difference = [Sample(0.0, name, what, 1e-3) for name in sizes for what in ("first", "again")]  # type: ignore[arg-type]
    beside = [one for one in calibrated if one.what == "token beside load"]
    fits = []
    for name, size in sizes.items():
        one = fit_model([*samples, *no_difference, *beside], name, size.chunk_tokens)
        over = [
            seconds - one.first_s(sample.context, sample.cached, size.chunk_tokens)
            for sample, seconds in clean.fresh.get(name, [])
        ]
        known_us = before[name].load_us[0] - round(1e6 * before[name].spread["load warm"][1])
        late_us = round(1e6 * max(0.0, float(np.median(over)))) if over else known_us
        fits.append(replace(one, load_us=(one.load_us[0] + late_us, one.load_us[1] + late_us)))
    return fits, missing


def _by_model(samples: Sequence[Sample], what: str, least: int) -> dict[str, list[Sample]]:
    """Those of one kind, where there are so many of a model in a batch."""
    found: dict[tuple[str, int], list[Sample]] = defaultdict(list)
    for one in samples:
        if one.what == what:
            found[one.model, one.batch].append(one)
    by_model: dict[str, list[Sample]] = defaultdict(list)
    for (name, _), mine in found.items():
        if len(mine) >= least:
            by_model[name] += mine
    return by_model


def _change(before: Calibration, samples: Sequence[Sample], what: str, size: Sizes) -> float:
    """Measured over calibrated, the median."""
    ratios = []
    for one in samples:
        if what == "load warm":
            predicted = before.spread["load warm"][1]
        elif what == "unload":
            predicted = before.unload_us * 1e-6
        elif what == "prefill":
            predicted = before.first_s(one.context, one.cached, size.chunk_tokens)
        else:
            predicted = before.gap_s(one.batch, one.context, one.tokens)
        ratios.append(one.seconds / predicted)
    return float(np.median(ratios))
