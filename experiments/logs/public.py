"""Public logs, each on a fleet and at a load: where policies are judged that nothing was trained on.

The files are those of docs/traces.md. What a log lacks is attached, and its time is stretched or compressed, so that
people wait and nobody starves: the numbers were set by eye, from what LRU costs.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, Final, Literal, NamedTuple

from cace_env.config import ConfigError, parse
from cace_env.evaluation import load_suite
from cace_env.scenarios import Scenario, load_scenario
from cace_env.tables import Protocol
from cace_env.traces import TraceConfig

FLEET_SIX: Final = "fleet-six"  # 48 models on six accelerators, an entry of suite shifted-v1
TOKENS: Final = "servegen_client_tokens.csv.gz"
WINDOWS: Final = 12  # of each log: four blocks of three


class PublicLog(NamedTuple):
    """One log as requests for one fleet."""

    file: str
    fleet: str  # a shipped scenario, or `FLEET_SIX`
    speed: float  # time is divided by this
    options: dict[str, Any]  # further keys of `TraceConfig`
    # Whether the numbers of the guard were set on it; those with long answers were used for one of them.
    role: Literal["set here", "long answers", "held out"] = "held out"


_CODE: Final[dict[str, Any]] = {"format": "azure", "users": 60, "tasks": "completion"}
_CHAT: Final[dict[str, Any]] = {"format": "azure", "users": 200, "tasks": "chat"}
_IMAGES: Final[dict[str, Any]] = {"format": "gentd26", "attach": "client-as-model"}
_RATES: Final[dict[str, Any]] = {"format": "servegen", "attach": "client-as-model", "skip": 300, "limit": 12_000}
_R1: Final[dict[str, Any]] = _RATES | {"tokens_model": "deepseek-r1", "tasks": "reasoning"}
_AZURE_CODE, _AZURE_CONV = "azure2023_code_first60.csv.gz", "azure2023_conv.csv.gz"
_GENTD26, _CLAUDE = "alibaba_gentd26_requests_before_1202.csv.gz", "claude_code_requests_train.csv.gz"
_LARGE, _MID = "servegen_m-large_rates_days0-9.csv.gz", "servegen_m-mid_rates_days0-9.csv.gz"
_SMALL = "servegen_m-small_rates_days0-9.csv.gz"

LOGS: Final[dict[str, PublicLog]] = {
    "gentd26": PublicLog(_GENTD26, "default", 30, _IMAGES, "set here"),
    "gentd26-busy": PublicLog(_GENTD26, "workstation", 30, _IMAGES, "set here"),
    "gentd26-48": PublicLog(_GENTD26, FLEET_SIX, 30, _IMAGES, "set here"),
    "azure-code": PublicLog(_AZURE_CODE, "default", 0.1, _CODE, "set here"),
    "azure-code-48": PublicLog(_AZURE_CODE, FLEET_SIX, 0.3, _CODE, "set here"),
    "azure-conv": PublicLog(_AZURE_CONV, "default", 0.03, _CHAT),
    "azure-conv-48": PublicLog(_AZURE_CONV, FLEET_SIX, 0.1, _CHAT),
    "claude-code": PublicLog(_CLAUDE, "agents", 1, {"format": "claude-code", "attach": "drawn"}, "set here"),
    "servegen-large": PublicLog(_LARGE, "default", 0.003, _RATES),
    "servegen-busy": PublicLog(_LARGE, "default", 0.01, _RATES),
    "servegen-48": PublicLog(_LARGE, FLEET_SIX, 0.03, _RATES),
    "servegen-mid": PublicLog(_MID, "default", 0.003, _RATES),
    "servegen-small": PublicLog(_SMALL, "workstation", 0.003, _RATES),
    "reasoning": PublicLog(_LARGE, "default", 0.001, _R1, "long answers"),
    "reasoning-busy": PublicLog(_LARGE, "reasoning-heavy", 0.003, _R1, "long answers"),
}


def scenarios(folder: Path, protocol: Protocol, windows: int = WINDOWS) -> dict[str, Scenario]:
    """The logs that lie in a folder, as scenarios by the name of the log.

    Args:
        folder: with the files.
        protocol: of the environment.
        windows: that each log is cut into.

    Raises:
        ConfigError: none of the files is there.
    """
    found = {}
    for name, log in LOGS.items():
        if not (folder / log.file).is_file():
            continue
        fleet = log.fleet
        served = load_suite("shifted-v1").entry(f"{protocol}-{fleet}").load() if fleet == FLEET_SIX else None
        section = {"path": str(folder / log.file), "time_compression": log.speed, "windows": windows, **log.options}
        if log.options["format"] == "servegen":
            section["tokens_path"] = str(folder / TOKENS)
        trace = parse(TraceConfig, section, name)
        found[name] = (served or load_scenario(fleet)).model_copy(update={"trace": trace})
    if not found:
        files = ", ".join(dict.fromkeys(log.file for log in LOGS.values()))
        raise ConfigError(f"{folder}: none of the public logs is there; docs/traces.md has them: {files}")
    return found
