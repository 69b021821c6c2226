"""What stands between events, so that no event looks at every accelerator and every model.

- The *agenda*: a tree of accelerators, two rows to each row above them. A row has the earliest event below it, and the
  most room that any accelerator below it could offer. Row 1 is the root, row `half + a` is accelerator a, row 0 begins
  the list of accelerators whose room has changed since it was last looked up.
- The models that are pending, from the oldest waiting request to the newest.
- The models in the host cache, from the least recently touched to the most.

Both lists are rings through `State.links`, whose last row is before the first and after the last.
"""

from __future__ import annotations

from typing import Any, Final

from cace_env.compilation import inlined, outlined
from cace_env.kernel.state import (
    ACCELERATOR,
    AGENDA,
    FOREVER,
    IDLE,
    LINK,
    LOAD,
    MODEL,
    NONE,
    REQUEST,
    RESIDENT,
    SITE,
    SPEC,
    Fleet,
    State,
    int64,
)

Array = Any
# Priorities of simultaneous events (`docs/design.md`, section 1); an alarm is the timer's. In the agenda a key is four
# times the time, plus the priority of one of the first three.
TOKEN_END, UNLOAD_DONE, LOAD_DONE, ARRIVAL, ALARM = (int64(priority) for priority in range(5))
NEVER: Final = FOREVER << 2
NO_ROOM: Final = int64(-1)  # on accelerators whose channel is taken
FRESH: Final = int64(0)  # `AGENDA.stale` of a row that is up to date


@inlined
def channel_idle(s: State, a: int) -> bool:
    """No swap and no lone unload on accelerator a."""
    return s.accelerators[a, ACCELERATOR.swap_target] == NONE and s.accelerators[a, ACCELERATOR.channel] == IDLE


@outlined
def reset_standing(s: State, f: Fleet) -> None:
    """Nothing is due, pending or cached, and no room is known."""
    half = len(s.agenda) >> 1
    for row in range(len(s.agenda)):
        s.agenda[row, AGENDA.key] = NEVER
        s.agenda[row, AGENDA.accelerator] = row - half if row >= half else 0
        s.agenda[row, AGENDA.free] = NO_ROOM
        s.agenda[row, AGENDA.idle] = NO_ROOM
        s.agenda[row, AGENDA.busy] = NO_ROOM
        s.agenda[row, AGENDA.stale] = FRESH
    s.agenda[0, AGENDA.stale] = NONE
    for a in range(len(f.accelerators)):
        room_changed(s, a)
    end = len(f.models)
    for column in range(len(LINK)):
        s.links[end, column] = end


# ---------------------------------------------------------------------------------------------------------------------
# The agenda


@inlined
def schedule(s: State, a: int) -> None:
    """Notes the next event of accelerator a: of simultaneous ones that of the least priority, then accelerator."""
    ends = s.accelerators[a, ACCELERATOR.channel_end] << 2
    ends += LOAD_DONE if s.accelerators[a, ACCELERATOR.channel] == LOAD else UNLOAD_DONE
    row = (len(s.agenda) >> 1) + a
    s.agenda[row, AGENDA.key] = min(s.accelerators[a, ACCELERATOR.token_due] << 2, ends)
    while row > 1:
        row >>= 1
        first = 2 * row
        if s.agenda[first + 1, AGENDA.key] < s.agenda[first, AGENDA.key]:
            first += 1
        s.agenda[row, AGENDA.key] = s.agenda[first, AGENDA.key]
        s.agenda[row, AGENDA.accelerator] = s.agenda[first, AGENDA.accelerator]


@inlined
def room_changed(s: State, a: int) -> None:
    """What accelerator a could offer may be different now."""
    row = (len(s.agenda) >> 1) + a
    if s.agenda[row, AGENDA.stale] == FRESH:
        s.agenda[row, AGENDA.stale] = s.agenda[0, AGENDA.stale]
        s.agenda[0, AGENDA.stale] = row


@outlined
def find_rooms(s: State, f: Fleet) -> None:
    """Brings the rooms of the agenda up to date: free memory, with all that idle, or any, unpinned residents hold."""
    half = len(s.agenda) >> 1
    row = s.agenda[0, AGENDA.stale]
    s.agenda[0, AGENDA.stale] = NONE
    while row != NONE:
        following = s.agenda[row, AGENDA.stale]
        s.agenda[row, AGENDA.stale] = FRESH
        a = row - half
        free, idle, busy = NO_ROOM, NO_ROOM, NO_ROOM
        if channel_idle(s, a):  # so nothing is leaving
            free = s.accelerators[a, ACCELERATOR.free]
            idle, busy = free, free
            for slot in range(f.accelerators[a, SITE.first_slot], f.accelerators[a, SITE.end_slot]):
                v = s.slots[slot]
                if v == NONE or s.models[v, MODEL.phase] != RESIDENT or f.models[v, SPEC.pinned_on] != NONE:
                    continue
                freed = f.models[v, SPEC.need] - f.models[v, SPEC.residual]
                busy += freed
                if s.models[v, MODEL.running] == 0 and s.models[v, MODEL.waiting] == 0:
                    idle += freed
        s.agenda[row, AGENDA.free] = free
        s.agenda[row, AGENDA.idle] = idle
        s.agenda[row, AGENDA.busy] = busy
        while row > 1:
            row >>= 1
            for column in range(AGENDA.free, AGENDA.busy + 1):
                s.agenda[row, column] = max(s.agenda[2 * row, column], s.agenda[2 * row + 1, column])
        row = following


@inlined
def fits(s: State, f: Fleet, m: int, column: int) -> bool:
    """Whether some accelerator with an idle channel could offer model m the room of this column, limits aside.

    Where it sleeps, its residual counts. `find_rooms` goes before it.
    """
    need = f.models[m, SPEC.need]
    if need <= s.agenda[1, column]:
        return True
    home = s.models[m, MODEL.asleep]
    return home != NONE and need <= s.agenda[(len(s.agenda) >> 1) + home, column] + f.models[m, SPEC.residual]


# ---------------------------------------------------------------------------------------------------------------------
# Pending models


@inlined
def older(s: State, m: int, other: int) -> bool:
    """The oldest request of model m came before that of another one that is waited for."""
    mine, theirs = s.models[m, MODEL.queue_head], s.models[other, MODEL.queue_head]
    came, theirs_came = s.requests[mine, REQUEST.arrival_us], s.requests[theirs, REQUEST.arrival_us]
    return came < theirs_came or (came == theirs_came and mine < theirs)


@inlined
def next_pending(s: State, m: int) -> int:
    """The pending model after m (NONE: the first) by its oldest waiting request, or NONE."""
    end = len(s.links) - 1
    found = s.links[end if m == NONE else m, LINK.after]
    return NONE if found == end else found


@inlined
def line_up(s: State, m: int) -> None:
    """Model m is pending: nearly always the newest, as its oldest request has just arrived."""
    end = len(s.links) - 1
    before = s.links[end, LINK.before]
    while before != end and older(s, m, before):
        before = s.links[before, LINK.before]
    after = s.links[before, LINK.after]
    s.links[m, LINK.before] = before
    s.links[m, LINK.after] = after
    s.links[before, LINK.after] = m
    s.links[after, LINK.before] = m


@inlined
def leave_line(s: State, m: int) -> None:
    """Model m is pending no more."""
    before, after = s.links[m, LINK.before], s.links[m, LINK.after]
    s.links[before, LINK.after] = after
    s.links[after, LINK.before] = before


# ---------------------------------------------------------------------------------------------------------------------
# The host cache


@inlined
def warm(s: State, m: int) -> None:
    """Model m is the most recently touched entry; it is new."""
    end = len(s.links) - 1
    last = s.links[end, LINK.colder]
    s.links[m, LINK.colder] = last
    s.links[m, LINK.warmer] = end
    s.links[last, LINK.warmer] = m
    s.links[end, LINK.colder] = m


@inlined
def forget(s: State, m: int) -> None:
    """Model m is no entry any more."""
    colder, warmer = s.links[m, LINK.colder], s.links[m, LINK.warmer]
    s.links[colder, LINK.warmer] = warmer
    s.links[warmer, LINK.colder] = colder
