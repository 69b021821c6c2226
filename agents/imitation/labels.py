"""Priced episodes that are kept in a folder, so that pricing takes hours once and each training from them minutes.

One file for each scenario and training seed, npz without pickle: what was seen, what each action costs at every
horizon, and as JSON what made them. Networks of other sizes, seeds and means of horizons learn from the same files.
Since the learner does not play in them, somebody else does: `player`, always the same.
"""

from __future__ import annotations

import io
import json
import re
from collections.abc import Generator, Iterator, Mapping, Sequence
from contextlib import closing
from pathlib import Path
from typing import Any, Final

import numpy as np

from agents.imitation.config import ImitationConfig
from agents.imitation.demonstrations import Classroom, Labelled, Lessons
from agents.imitation.pricing import Priced, Pricing, price_episode
from cace_env.config import ConfigError, shown
from cace_env.decision_log.recorder import fingerprint_of as fingerprint_of_policy
from cace_env.evaluation.held_out import check_training, spent_before, training_scenarios, training_seeds
from cace_env.evaluation.suite import fingerprint_of as fingerprint_of_scenario
from cace_env.executor import Executor
from cace_env.files import read_arrays, replace_file
from cace_env.forecasting import load_habits
from cace_env.policies import policy
from cace_env.policies.agent import PREFIX, features_hash

FORMAT: Final = "cace-env labels 1"
MOST_BYTES: Final = 1 << 32  # of one episode
# Labels of earlier players have to be alike in these.
NEEDED: Final = ("format", "features", "scenario")


class KeptLabels:
    """The labels of a configuration, in its folder or still to be priced.

    Args:
        config: with `labels`.
        rooms: its classrooms.
        pricing: as it prices decisions.

    Attributes:
        jobs: (classroom, seed) of each episode.
        spent_before: requests that were simulated to train the player, besides those of the agent to begin from.

    Raises:
        ConfigError: there is no such player, it knows the true future where futures are sampled, or was trained on
            seeds that judge agents; or there are not as many training seeds.
    """

    def __init__(self, config: ImitationConfig, rooms: Sequence[Classroom], pricing: Pricing) -> None:
        self._config, self._rooms, self._pricing = config, tuple(rooms), pricing
        self._player = policy(config.played_by)
        if config.futures and self._player.clairvoyant:
            raise ConfigError(f"player: {self._player.name!r} knows the true future, and futures are sampled here")
        trained = self._player.name.startswith(PREFIX)
        agent = config.played_by.removeprefix(PREFIX) if trained else None
        self.spent_before = spent_before(agent) if agent != config.init else 0
        self.jobs = [(room, seed) for seed in training_seeds(config.episodes, config.first_seed) for room in rooms]
        scenarios = training_scenarios(config.train_on, config.env, with_logs=True).values()
        self._scenarios = [fingerprint_of_scenario(scenario, config.env) for scenario in scenarios]
        self._made_by = {
            "format": FORMAT,
            "features": features_hash(),
            "player": fingerprint_of_policy(self._player),
            "play_on": [fingerprint_of_policy(other or self._player) for other in pricing.others],
            "futures": config.futures,
            "habits": load_habits(config.habits or None)[1].arrays_sha256 if config.futures else "",
            "share": config.share,
            "horizons_s": list(config.priced_horizons_s),
        }

    def missing(self) -> list[tuple[Classroom, int]]:
        """Episodes that have not been priced."""
        return [job for job in self.jobs if not self._file(*job).exists()]

    def check(self) -> None:
        """Refuses a folder that nothing could be learned from once it is filled.

        Raises:
            ConfigError: an episode in it is damaged, or was priced otherwise.
        """
        for job in self.jobs:
            if self._file(*job).exists():
                self._labels(self._file(*job), job[0], self._about(*job))

    def price(self, episodes: Sequence[tuple[Classroom, int]], executor: Executor) -> Generator[int, None, None]:
        """Prices episodes and writes the file of each as soon as it is priced; yields the number of its decisions.

        Raises:
            SimulationError: an episode failed.
            TaskLostError: what priced one was lost again and again.
        """
        shared = executor.share(self._player), executor.share(self._pricing)
        with closing(Lessons(self._rooms, executor).labelled(price_episode, episodes, *shared)) as finished:
            for number, priced in finished:
                self._write(*episodes[number], priced)
                yield len(priced.extra)

    def _write(self, room: Classroom, seed: int, priced: Priced) -> None:
        about = self._about(room, seed) | {"requests": priced.requests, "limits": priced.limits}
        packed = io.BytesIO()
        text = np.frombuffer(json.dumps(about).encode(), dtype=np.uint8)
        np.savez_compressed(packed, observations=priced.observations, extra=priced.extra, about=text)
        replace_file(self._file(room, seed), packed.getvalue())

    def read(self) -> Iterator[tuple[Labelled, int, int]]:
        """Every episode, those of earlier players first: its labels, seed, and requests that were simulated for it.

        Those of earlier players count 0: they are in the budget of the player that learned from them.

        Raises:
            ConfigError: an episode is missing, damaged, or was priced otherwise.
        """
        missing = self.missing()
        if missing:
            raise ConfigError(
                f"labels: {len(missing)} of {len(self.jobs)} episodes are not in {shown(self._config.labels)}; price "
                "them with: python -m experiments.label, and the options of this training"
            )
        for folder in self._config.earlier_labels:
            yield from self._earlier(Path(folder))
        for room, seed in self.jobs:
            labels, about = self._labels(self._file(room, seed), room, self._about(room, seed))
            yield labels, seed, int(about["requests"])

    def _earlier(self, folder: Path) -> Iterator[tuple[Labelled, int, int]]:
        found = 0
        for room in self._rooms:
            for path in sorted(folder.glob("*.npz")):
                match = re.fullmatch(rf"{re.escape(room.case.name)}-(\d+)\.npz", path.name)
                if match is None:
                    continue
                check_training([int(match[1])])
                labels, _ = self._labels(path, room, {key: self._about(room, 0)[key] for key in NEEDED})
                found += 1
                yield labels, int(match[1]), 0
        if not found:
            raise ConfigError(f"earlier_labels: {shown(str(folder))} holds no labels of these scenarios")

    def _labels(self, path: Path, room: Classroom, expected: Mapping[str, Any]) -> tuple[Labelled, Mapping[str, Any]]:
        """What a file holds, if it is as expected."""
        where = shown(str(path))
        try:
            arrays = read_arrays(path.read_bytes(), MOST_BYTES)
            about = json.loads(arrays["about"].tobytes())
            seen, extra = arrays["observations"], arrays["extra"]
            limits = {str(name): (float(low), float(high)) for name, (low, high) in about["limits"].items()}
            priced = Priced(room.number, seen, extra, limits, int(about["requests"]))
            known = [float(horizon) for horizon in about["horizons_s"]]
        except (OSError, KeyError, TypeError, ValueError, AttributeError) as error:
            raise ConfigError(
                f"{where}: holds no labels ({type(error).__name__}); delete it, and price it anew"
            ) from error
        other = [key for key, value in expected.items() if about.get(key) != value]
        if other:
            raise ConfigError(
                f"{where}: was priced otherwise, with other {', '.join(other)}; name another folder, or train with "
                "what it has"
            )
        shape = (len(seen), room.actions, len(known))
        if seen.shape != (len(seen), room.layout.size) or extra.shape != shape or not np.isfinite(extra).all():
            raise ConfigError(f"{where}: its arrays do not fit their scenario; delete it, and price it anew")
        missing = [horizon for horizon in self._config.horizons_s if horizon not in known]
        if missing:
            raise ConfigError(
                f"{where}: was not priced at {missing[0]:g} s, but at {known}; choose horizons_s of those"
            )
        return priced.labelled(room, [known.index(horizon) for horizon in self._config.horizons_s]), about

    def _about(self, room: Classroom, seed: int) -> dict[str, Any]:
        return {**self._made_by, "scenario": self._scenarios[room.number], "seed": seed}

    def _file(self, room: Classroom, seed: int) -> Path:
        return Path(self._config.labels) / f"{room.case.name}-{seed}.npz"
