"""Measures what a real server takes for loads, prompts and tokens, and fits the simulator's coefficients to it.

    python -m experiments.calibrate llama.cpp:models --out calibrated       a folder of GGUF files: a server is started
    python -m experiments.calibrate llama.cpp --models a.gguf b.gguf --out calibrated              files of yours
    python -m experiments.calibrate vllm:http://127.0.0.1:8000 --memory memory.yaml --out calibrated
    python -m experiments.calibrate torch:cuda --models qwen2.5-coder-1.5b --out calibrated    no server: random weights

Nobody else should use the server meanwhile. The same is measured at the beginning and at the end; where the machine
drifted by more than --most-drift, no scenario is written and the exit status is 1. OUT gets samples.csv (everything
that was measured), calibration.json (fits), report.html, and scenario.yaml, which commands take for a scenario.
`docs/calibrate.md` says what the numbers mean and what they cannot say.
"""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Sequence
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated, Final

import tyro
from pydantic import Field

from cace_env.config import ConfigError, Frozen, one_line, read_text
from cace_env.fleets import MODELS
from cace_env.fleets.catalogue import RUNTIME_GB
from cace_env.live.backends import Backend, BackendError, make_backend, read_memory
from cace_env.live.calibration import Calibration, Plan, Sample, drift_percent, findings, fit_model, measure
from experiments.calibration.outputs import Sizes, scenario_of, size_of, write_fits, write_samples, write_scenario
from experiments.calibration.page import page_of
from experiments.calibration.torch_form import decoders_of, measure_torch
from experiments.reports.page import write_page
from experiments.running.command_line import Session, metavar, run_command

REPORT: Final = "report.html"
GGUF: Final = ".gguf"


class Options(Frozen):
    """What is measured, and what no server says."""

    backend: Annotated[str, tyro.conf.Positional] = Field(
        description="KIND:WHERE as in docs/live.md, llama.cpp with --models FILE.gguf ..., torch:cuda or torch:cpu"
    )
    out: Annotated[Path, metavar("FOLDER")] = Field(description="gets what is found; what is there is overwritten")
    models: tuple[str, ...] = Field(default=(), description="names on the server, or GGUF files; default: all of it")
    files: Annotated[Path | None, metavar("FOLDER")] = Field(
        default=None, description="where NAME.gguf of each model lies, for cold loads; known where WHERE is a folder"
    )
    repeats: int = Field(default=3, ge=1, le=1000, description="of each measurement")
    lengths: tuple[int, ...] = Field(default=(32, 64, 128, 256, 512), min_length=2, description="of prompts [tokens]")
    batches: tuple[int, ...] = Field(default=(1, 2, 4), min_length=1, description="requests at once")
    contexts: tuple[int, ...] = Field(default=(32, 512), min_length=1, description="before timed tokens [tokens]")
    tokens: int = Field(default=32, ge=4, le=100_000, description="written by each timed request")
    pairs: bool = Field(default=True, description="two models at once: tokens beside a load, two busy engines")
    seats: int = Field(default=4, ge=1, le=4096, description="requests that the server writes at once")
    kv_tokens: int = Field(default=4096, ge=1, le=1 << 31, description="of the KV cache of each model")
    chunk_tokens: int = Field(default=2048, ge=1, le=1 << 31, description="prompt tokens per round")
    memory_gb: Annotated[float | None, metavar("GB")] = Field(
        default=None, gt=0, le=1e6, description="of the accelerator in the scenario; default: half of what all need"
    )
    memory: Annotated[Path | None, metavar("FILE.yaml")] = Field(
        default=None, description="how much each model takes, where the server does not say: lines 'qwen-7b: 4.7 GB'"
    )
    most_drift: float = Field(default=10.0, gt=0, le=1e6, description="of the machine [%]; above it nothing counts")
    key_file: Annotated[Path | None, metavar("FILE")] = Field(default=None, description="the server's API key")
    load_s: float = Field(default=600.0, gt=0, description="a load may take so many seconds")
    log: Path = Field(default=Path("/dev/null"), description="gets what a server writes that is started here")

    @property
    def plan(self) -> Plan:
        """Without the files."""
        return Plan(self.repeats, self.lengths, self.batches, self.contexts, self.tokens, pairs=self.pairs)


def calibrate(options: Options, session: Session) -> int:
    """Measures, fits and writes; the exit status is 1 where the machine drifted too much.

    Raises:
        ConfigError: options, a server or measurements that cannot be used.
    """
    at = datetime.now(UTC).strftime("%Y-%m-%d %H:%M UTC")
    options.out.mkdir(parents=True, exist_ok=True)
    unverified = []
    if options.backend.startswith("torch:"):
        samples, sizes = _with_torch(options)
        unverified = ["The form with torch is unverified on a GPU: it has been tested on the CPU alone."]
    else:
        samples, sizes, verified = asyncio.run(_with_server(options, session))
        if not verified:
            unverified = ["This backend is unverified against the real server: it was written from documentation."]
    write_samples(samples, options.out)
    found = [fit_model(samples, name, options.chunk_tokens) for name in sizes]
    drift = drift_percent(samples)
    steady = abs(drift) <= options.most_drift
    about = {"measured": at, "command": session.command, "sizes": {n: size._asdict() for n, size in sizes.items()}}
    write_fits(found, drift, about, options.out)
    drifted = f"The machine drifted by {drift:+.1f} %, more than {options.most_drift:g} %: no scenario was written."
    boxes = unverified + ([] if steady else [drifted])
    page = page_of(found, drift, options.most_drift, boxes, f"{session.command}, {at}, {len(samples):,} measurements")
    write_page(page, options.out / REPORT)
    if steady:
        memory_bytes = None if options.memory_gb is None else round(options.memory_gb * 1e9)
        write_scenario(scenario_of(found, sizes, memory_bytes, "calibrated"), options.out, drift, at)
    _say(found, session, boxes)
    session.console.print(f"{len(samples):,} measurements in {options.out}; the machine drifted by {drift:+.1f} %")
    return 0 if steady else 1


def _say(found: Sequence[Calibration], session: Session, boxes: Sequence[str]) -> None:
    for one in found:
        loads = " / ".join(f"{us / 1e6:.3g}" for us in one.load_us)
        session.console.print(
            f"{one_line(one.model)}: load {loads} s (warm / cold), unload {one.unload_us / 1e6:.3g} s, round "
            f"{one.gap_s(1, 0, 0) * 1e3:.3g} ms, prompt {one.prefill_ns / 1e6:.3g} ms a token, request "
            f"{one.request_ns / 1e6:.3g} ms{_beside(one)}; median errors: tokens "
            f"{one.fits[0].error_percent:.1f} %, first tokens {one.fits[1].error_percent:.1f} %",
            soft_wrap=True,
        )
        for line in findings(one):
            session.console.print(f"    {line}", soft_wrap=True)
    for box in boxes:
        session.console.print(box, style="yellow", soft_wrap=True)


def _beside(one: Calibration) -> str:
    """How many times longer a token takes beside what else goes on."""
    beside = (("a load", one.beside_load), ("another busy model", one.two_busy))
    return "".join(f", beside {what} x{times:.2f}" for what, times in beside if times is not None)


def _with_torch(options: Options) -> tuple[list[Sample], dict[str, Sizes]]:
    if not options.models:
        raise ConfigError("torch: name models of the catalogue in --models")
    decoders = decoders_of(options.models, options.backend.removeprefix("torch:"))
    samples = list(measure_torch(decoders, options.plan, options.chunk_tokens))
    sizes = {}
    for name, decoder in decoders.items():
        room = options.kv_tokens * MODELS[name].kv_bytes_per_token + round(RUNTIME_GB.value * 1e9)
        sizes[name] = _sizes(options, decoder.weights_bytes, room)
    return samples, sizes


def _sizes(options: Options, weights_bytes: int, room_bytes: int) -> Sizes:
    return Sizes(weights_bytes, weights_bytes + room_bytes, options.kv_tokens, options.seats, options.chunk_tokens)


async def _with_server(options: Options, session: Session) -> tuple[list[Sample], dict[str, Sizes], bool]:
    """Samples, sizes, and whether the backend has met the real server."""
    key = read_text(options.key_file).strip() if options.key_file is not None else None
    memory = read_memory(options.memory) if options.memory is not None else {}
    spec, names = _spec(options)
    try:
        backend = make_backend(spec, memory=memory, key=key, load_s=options.load_s, log=options.log)
        try:
            known = {model.name: model.memory_bytes for model in await backend.models()}
            names = names or list(known)
            missing = [name for name in names if name not in known]
            if missing or not names:
                raise ConfigError(f"the server has no model {one_line(missing[0]) if missing else 'at all'}")
            files = _files(spec, options, names)
            rest = (options.kv_tokens, options.seats, options.chunk_tokens)
            sizes = {name: size_of(name, known[name], files.get(name), *rest) for name in names}
            samples = await _measured(backend, names, options, files, session)
            return samples, sizes, backend.verified
        finally:
            await backend.close()
    except BackendError as error:
        raise ConfigError(error.message) from error


async def _measured(
    backend: Backend, names: list[str], options: Options, files: dict[str, Path], session: Session
) -> list[Sample]:
    plan = replace(options.plan, files={name: [path] for name, path in files.items()})
    samples: list[Sample] = []
    with session.console.status("measuring") as status:
        async for sample in measure(backend, names, plan):
            samples.append(sample)
            if len(samples) % 100 == 0:
                status.update(f"measuring: {len(samples):,}, now {one_line(sample.model)}, {sample.what}")
    return samples


def _spec(options: Options) -> tuple[str, list[str]]:
    """The backend and the names of models; GGUF files become a folder of links, which llama.cpp serves."""
    names = list(dict.fromkeys(options.models))
    if not any(name.endswith(GGUF) for name in names):
        return options.backend, names
    paths = [Path(name).resolve() for name in names]
    if options.backend != "llama.cpp" or len({path.stem for path in paths}) < len(paths):
        raise ConfigError(
            "GGUF files in --models, each of its own name, go with the backend llama.cpp without an address"
        )
    folder = options.out / "models"
    folder.mkdir(parents=True, exist_ok=True)
    for path in paths:
        if not path.is_file():
            raise ConfigError(f"{path}: there is no such file")
        link = folder / path.name
        link.unlink(missing_ok=True)
        link.symlink_to(path)
    return f"llama.cpp:{folder}", [path.stem for path in paths]


def _files(spec: str, options: Options, names: Sequence[str]) -> dict[str, Path]:
    """The file of each model whose folder is known."""
    where = Path(spec.partition(":")[2])
    folder = options.files or (where if where.is_dir() else None)
    if folder is None:
        return {}
    return {name: path for name in names if (path := folder / f"{name}{GGUF}").is_file()}


def main(arguments: Sequence[str] | None = None) -> int:
    """Command line; returns the exit status."""
    return run_command("calibrate", Options, calibrate, arguments, __doc__)


if __name__ == "__main__":
    sys.exit(main())
