"""News of a simulation: arrivals and finishes as an orchestrator sees them, and nothing of what is to come."""

from __future__ import annotations

from cace_env.forecasting.demand import Arrived, Finished, News
from cace_env.kernel import state as layout
from cace_env.kernel.state import COLUMN, LOG, LOGGED, NONE, REQUEST
from cace_env.simulation import Simulator


class Gazette:
    """Tells what has happened since it was last asked, of one simulator from the beginning of an episode.

    Refused requests are served by nobody, and not told. Sessions are numbered as they come, a session at another model
    as another one, so that not even a number depends on what comes later.
    """

    def __init__(self) -> None:
        self._numbers: dict[int, int] = {}
        self._told = 0  # arrivals
        self._open: dict[int, int] = {}  # requests without a finish yet, and their session

    def news(self, simulator: Simulator) -> News:
        """What has happened until the clock of the simulator."""
        state, columns = simulator.state, simulator.arguments[4].columns
        now_us, logged = int(state.scalars[layout.CLOCK]), int(state.scalars[LOGGED])
        events: list[Arrived | Finished] = []
        for arrival_us, request in state.log[self._told : logged, [LOG.arrival_us, LOG.request]].tolist():
            row = columns[request]
            session = self._numbers.setdefault(int(row[COLUMN.session_pair]), len(self._numbers))
            model = int(row[COLUMN.model])
            events.append(Arrived(arrival_us * 1e-6, session, model, int(row[COLUMN.task])))
            self._open[request] = session
        self._told = logged
        for request in list(self._open):
            finish_us = int(state.requests[request, REQUEST.finish_us])
            if finish_us != NONE and finish_us <= now_us:
                events.append(Finished(finish_us * 1e-6, self._open.pop(request)))
        events.sort(key=lambda event: event.time_s)
        return News(now_us * 1e-6, events, state.slots.copy(), simulator.tables.num_models)
