"""Policies: built-in rules and orders, CACE, clairvoyant rules, Python policies, networks, guards, explanations."""

from cace_env.policies.agent import Agent, load_agent, write_agent
from cace_env.policies.base import Policy, rule_of, weigh
from cace_env.policies.built_in import POLICIES, READINGS, policy
from cace_env.policies.cace import CaceWeights
from cace_env.policies.clairvoyant import Future
from cace_env.policies.contestants import Contestant, contestant_of
from cace_env.policies.explanations import explain
from cace_env.policies.guard import Guarded
from cace_env.policies.orders import ORDERS, Order, order, split_order
from cace_env.policies.planner import Planner
from cace_env.policies.player import Player
from cace_env.policies.python import PolicyError, PythonPolicy

__all__ = [
    "ORDERS",
    "POLICIES",
    "READINGS",
    "Agent",
    "CaceWeights",
    "Contestant",
    "Future",
    "Guarded",
    "Order",
    "Planner",
    "Player",
    "Policy",
    "PolicyError",
    "PythonPolicy",
    "contestant_of",
    "explain",
    "load_agent",
    "order",
    "policy",
    "rule_of",
    "split_order",
    "weigh",
    "write_agent",
]
