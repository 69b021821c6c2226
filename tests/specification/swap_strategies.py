"""Policies of Swap-v0 for tests: they answer both simulators' questions, unless they say otherwise."""

from __future__ import annotations

from collections.abc import Callable

from cace_env.simulation import Question
from cace_env.tables import NONE
from tests.specification import reference

Victim = Callable[[reference.Question, list[int]], int]  # picks one of some slots


def legal_actions(question: Question | reference.Question) -> list[int]:
    return [action for action, legal in enumerate(question.legal) if legal]


def wait(question: Question | reference.Question) -> int:
    """The action that waits."""
    return len(question.legal) - 1


def load(question: Question | reference.Question, model: int) -> int:
    """The action that loads a model."""
    return len(question.slot_models) + model


def pick_action(name: str, question: Question | reference.Question) -> int:
    """A legal action by a rule that depends on nothing but what both simulators show.

    "hashed" takes any, "lazy" waits if it may, "eager" only if it must, "patient" waits two times of three.
    """
    legal = legal_actions(question)
    hashed = (question.decision * 7919 + question.now_us) // 3
    others = [action for action in legal if action != wait(question)]
    waits = {"hashed": hashed % len(legal) == len(legal) - 1, "lazy": True, "patient": question.now_us % 3 > 0}
    if len(others) < len(legal) and waits.get(name, False):
        return wait(question)
    return others[hashed % len(others)]


POLICIES = ("hashed", "lazy", "eager", "patient")


def least_recent(question: reference.Question, slots: list[int]) -> int:
    return min(slots, key=lambda slot: (question.last_use_us[question.slot_models[slot]], slot))


def most_recent(question: reference.Question, slots: list[int]) -> int:
    return max(slots, key=lambda slot: (question.last_use_us[question.slot_models[slot]], slot))


def fifo(victim: Victim, patience_us: int) -> reference.Policy:
    """Oldest first; a model that needs a busy victim once it has been pending for so long (end of section 12).

    Of the reference simulator only: it looks at the fleet.
    """

    def policy(question: reference.Question) -> int:
        simulation = question.simulation
        idle_channels = simulation.idle_channels()
        if question.target != NONE:
            target = simulation.models[question.target]
            slots = legal_actions(question)
            taken = [place for place, channel in enumerate(simulation.channels) if channel.target == target.index]
            if taken:  # by the first victim: the others are found where it leaves
                leaving = [simulation.models[m] for m in simulation.channels[taken[0]].victims]
                idle = simulation.evictable(taken[0], busy_too=False)
                enough = simulation.suffices(taken[0], target, leaving + idle)
            else:
                idle = simulation.victims(target, idle_channels, busy_too=False)
                enough = bool(idle)
            return victim(question, [model.slot for model in idle] if enough else slots)
        for model in simulation.pending_models():
            fits = any(simulation.suffices(place, model) for place in idle_channels)
            ready = fits or simulation.victims(model, idle_channels, busy_too=False)
            overdue = question.now_us - model.pending_since_us >= patience_us
            if question.legal[load(question, model.index)] and (ready or overdue):
                return load(question, model.index)
        return wait(question)

    return policy
