"""What fleets cost: list prices of GPUs with their sources, and fleets by name, count and money a month.

A price is what one GPU on demand costs an hour, without commitment, storage, traffic and tax. Prices differ by a factor
of four between providers and change by the month: give your own (`--price h100=2.10`), owned machines too, with power
and depreciation.
"""

from __future__ import annotations

import itertools
import re
from collections.abc import Mapping, Sequence
from typing import Final, NamedTuple

from cace_env.config import ConfigError, did_you_mean
from cace_env.fleets import GPUS

HOURS_PER_MONTH: Final = 730.0  # a machine that is never switched off: 8,760 hours a year / 12
MOST_FLEETS: Final = 24  # more curves cannot be read
MOST_GPUS: Final = 64  # of a kind, as in a scenario


class Price(NamedTuple):
    """What one GPU costs."""

    usd_per_hour: float
    source: str
    read: str  # date


_RUNPOD: Final = "RunPod, Secure Cloud, on demand, https://www.runpod.io/pricing"
_LAMBDA: Final = "Lambda, on demand, https://lambda.ai/pricing"
# List prices, on demand, as public transcriptions of the providers' pages give them. The H100 SXM was between 2.69 and
# 12.29 USD in November 2026, depending on the provider. The A100 with 40 GB is another provider's, hence the odd order.
PRICES: Final[dict[str, Price]] = {
    "a100-40": Price(1.99, _LAMBDA, "2026-09-25"),
    "a100-80": Price(1.59, _RUNPOD, "2026-09-25"),
    "h100": Price(3.49, _RUNPOD, "2026-09-25"),
    "h200": Price(4.59, _RUNPOD, "2026-09-25"),
    "l40s": Price(1.09, _RUNPOD, "2026-09-25"),
    "rtx-4090": Price(0.74, _RUNPOD, "2026-09-25"),
}
YOURS: Final = "given by --price"


class Fleet(NamedTuple):
    """GPUs, and what they cost."""

    groups: tuple[tuple[str, int], ...]  # (name in the catalogue, how many)
    usd_per_hour: float

    @property
    def name(self) -> str:
        return " + ".join(f"{count} x {gpu}" for gpu, count in self.groups)

    @property
    def gpus(self) -> int:
        return sum(count for _, count in self.groups)

    @property
    def kinds(self) -> tuple[str, ...]:
        return tuple(gpu for gpu, _ in self.groups)


def price_table(given: Sequence[str]) -> dict[str, Price]:
    """The list prices, with those that a user gives in their place.

    Args:
        given: texts `NAME=USD_PER_HOUR`.

    Raises:
        ConfigError: no such GPU, or no price.
    """
    prices = dict(PRICES)
    for text in given:
        found = re.fullmatch(r"\s*([\w.-]+)\s*=\s*(\d{1,6}(?:\.\d{1,6})?)\s*", text)
        if found is None:
            raise ConfigError(f"--price {text!r} is no price in USD an hour; write NAME=USD, as h100=2.10")
        known(found[1], "--price")
        prices[found[1]] = Price(float(found[2]), YOURS, "")
    return prices


def known(gpu: str, option: str) -> None:
    """Refuses what is no GPU of the catalogue.

    Raises:
        ConfigError: it is not one.
    """
    if gpu not in GPUS:
        raise ConfigError(f"{option}: no GPU called {gpu!r}{did_you_mean(gpu, GPUS)}; known are {', '.join(GPUS)}")


def fleet_of(groups: Sequence[tuple[str, int]], prices: Mapping[str, Price]) -> Fleet:
    """A fleet with its price.

    Raises:
        ConfigError: a GPU has no price.
    """
    for gpu, _ in groups:
        if gpu not in prices:
            raise ConfigError(f"there is no price of {gpu}; give one: --price {gpu}=USD_PER_HOUR")
    return Fleet(tuple(groups), sum(prices[gpu].usd_per_hour * count for gpu, count in groups))


def fleets_around(gpu: str, gpus: int, prices: Mapping[str, Price], most: int | None = None) -> list[Fleet]:
    """Five fleets of one kind around a number of GPUs, or from 1 up to `most`."""
    first = max(1, gpus - 2)
    counts = range(first, first + 5) if most is None else range(1, most + 1)
    return [fleet_of([(gpu, count)], prices) for count in counts]


def fleets_named(texts: Sequence[str], prices: Mapping[str, Price]) -> list[Fleet]:
    """Fleets as they are typed: `h100:2`, `h100:1..4` (four fleets), `h100:1+l40s:2` (one of two kinds).

    Raises:
        ConfigError: a text that names no fleet, no such GPU, or too many fleets.
    """
    fleets = []
    for text in texts:
        parts = [_group(part, text) for part in text.split("+")]
        if len(parts) > 1 and any(low != high for _, low, high in parts):
            raise ConfigError(f"--fleets {text!r}: a range is for fleets of one kind; name each mixed fleet")
        gpus = [gpu for gpu, _, _ in parts]
        for counts in itertools.product(*(range(low, high + 1) for _, low, high in parts)):
            fleets.append(fleet_of(list(zip(gpus, counts, strict=True)), prices))
    fleets = list(dict.fromkeys(fleets))
    if len(fleets) > MOST_FLEETS:
        raise ConfigError(f"--fleets names {len(fleets)} fleets; at most {MOST_FLEETS} can be told apart")
    return fleets


def _group(part: str, text: str) -> tuple[str, int, int]:
    """`h100:1..4` as its name and its least and greatest count."""
    found = re.fullmatch(r"\s*([\w.-]+?)\s*:\s*(\d{1,3})(?:\.\.(\d{1,3}))?\s*", part)
    if found is None:
        raise ConfigError(
            f"--fleets {text!r}: write NAME:COUNT, NAME:FROM..TO or NAME:COUNT+NAME:COUNT, as in h100:1..4"
        )
    gpu, low, high = found[1], int(found[2]), int(found[3] or found[2])
    known(gpu, "--fleets")
    if not 1 <= low <= high <= MOST_GPUS:
        raise ConfigError(f"--fleets {text!r}: counts are 1 to {MOST_GPUS}, the smaller one first")
    return gpu, low, high
