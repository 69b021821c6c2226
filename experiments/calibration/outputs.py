"""What a calibration leaves: raw measurements, fits, and a scenario with the measured models."""

from __future__ import annotations

import dataclasses
import statistics
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Final, NamedTuple

from cace_env.config import ConfigError, dump, one_line, parse
from cace_env.files import csv_text, json_text, replace_file
from cace_env.fleets import MODELS
from cace_env.live.calibration import Calibration, Sample, findings
from cace_env.live.calibration.gguf_files import kv_bytes_per_token
from cace_env.scenarios import Scenario

SAMPLES: Final = "samples.csv"
FITS: Final = "calibration.json"
SCENARIO: Final = "scenario.yaml"
GPU: Final = "h100"  # stands for one's own machine: no figure of it is read once every model is measured
STAND_IN: Final = "qwen2.5-coder-7b"  # says which tasks and contexts a model that the catalogue lacks is asked for


class Sizes(NamedTuple):
    """What the rules have to be told of a model, for no server says it."""

    weights_bytes: int
    need_bytes: int
    kv_tokens: int
    seats: int
    chunk_tokens: int


def size_of(
    name: str, weights_bytes: int | None, file: Path | None, kv_tokens: int, seats: int, chunk_tokens: int
) -> Sizes:
    """The memory of a model: its weights, and the KV cache where its GGUF file is known.

    Raises:
        ConfigError: nobody says how large it is.
    """
    if weights_bytes is None:
        raise ConfigError(f"nobody says how much memory {one_line(name)} takes; name it in --memory FILE.yaml")
    room = kv_tokens * kv_bytes_per_token(file) if file is not None else 0
    return Sizes(weights_bytes, weights_bytes + room, kv_tokens, seats, chunk_tokens)


def write_samples(samples: Sequence[Sample], folder: Path) -> None:
    """Every measurement as a row."""
    rows = ((f"{s.at_s:.6f}", s.model, s.what, f"{s.seconds:.9f}", *s[4:]) for s in samples)
    replace_file(folder / SAMPLES, csv_text(Sample._fields, rows))


def write_fits(found: Sequence[Calibration], drift: float, about: Mapping[str, Any], folder: Path) -> None:
    """Coefficients, what is left over, and what the rules cannot express."""
    models = [
        {
            **dataclasses.asdict(one),
            "fits": [
                {"what": fit.what, "error_percent": fit.error_percent, "worst_percent": fit.worst_percent,
                 "columns": ["batch", "context", "measured_s", "p10_s", "p90_s", "predicted_s"], "points": fit.points}
                for fit in one.fits
            ],
            "spread": {what: spread for what, spread in one.spread.items() if spread[0]},
            "not_in_the_rules": findings(one),
        }
        for one in found
    ]  # fmt: skip
    content = {**about, "drift_percent": drift, "models": models}
    replace_file(folder / FITS, json_text(content))


def scenario_of(
    found: Sequence[Calibration], sizes: Mapping[str, Sizes], memory_bytes: int | None, name: str
) -> Scenario:
    """A scenario with the measured models on one accelerator. Host RAM holds all weights, as a page cache does.

    Args:
        found: the measured models, in the order of their indices.
        sizes: by name.
        memory_bytes: of the accelerator; None: half of what all models need together, but enough for the largest.
        name: of the scenario.

    Raises:
        ConfigError: it cannot be simulated.
    """
    needs = [sizes[one.model].need_bytes for one in found]
    memory = max(max(needs), sum(needs) // 2) if memory_bytes is None else memory_bytes
    content = {
        "name": name,
        "description": "Models measured on a real server; gpu and model stand for tasks and contexts alone.",
        "fleet": [{"gpu": GPU, "memory_gb": memory / 1e9, **_slowdown(found)}],
        "rules": {"whole_rounds": True},
        "host_ram_gb": sum(sizes[one.model].weights_bytes for one in found) / 1e9,
        "start": "cached",
        "catalogue": [_entry(one, sizes[one.model]) for one in found],
    }
    return parse(Scenario, content, "scenario of the measured models")


def _slowdown(found: Sequence[Calibration]) -> dict[str, float]:
    """Of rounds beside a load: the median over the models, within what the rules allow."""
    beside = [one.beside_load for one in found if one.beside_load is not None]
    return {"load_slowdown": round(max(1.0, statistics.median(beside)), 3)} if beside else {}


def _entry(one: Calibration, size: Sizes) -> dict[str, Any]:
    measured = {"weights_bytes": size.weights_bytes, "need_bytes": size.need_bytes, **one.coefficients()}
    return {
        "name": one.model,
        "model": one.model if one.model in MODELS else STAND_IN,
        "tasks": ["completion", "chat", "reasoning", "agent"],
        "kv_tokens": size.kv_tokens,
        "max_num_seqs": size.seats,
        "chunk_tokens": size.chunk_tokens,
        "measured": {**measured, **{name: tuple(measured[name]) for name in ("load_us", "batch_ns")}},
    }


def write_scenario(scenario: Scenario, folder: Path, drift: float, at: str) -> None:
    """The scenario as a file, with where it is from."""
    head = f"# Measured {at} by python -m experiments.calibrate; the machine drifted by {drift:+.1f} % meanwhile.\n"
    replace_file(folder / SCENARIO, head + dump(scenario))
