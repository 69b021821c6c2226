"""A policy as an ONNX file, written with the `onnx` package alone.

Inputs and outputs, `S` places of models and `K` models that wait, both free:

    slots    double (S, F)    in physical units, columns as the metadata says
    pending  double (K, P)
    context  double (C,)
    legal    bool (S,), for Swap-v0 (S + K + 1,)
    action   int64 ()         the legal action with the highest score; -1 if nothing is legal, or a number is not finite
    scores   double           of all actions, -inf for illegal ones
"""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from cace_env.config import ConfigError
from cace_env.export.form import TIES, Form, form_of
from cace_env.export.standalone import APART, THERE
from cace_env.files import replace_file
from cace_env.observation import BLOCKS, CONTEXT, PENDING, SLOT

OPSET: Final = 17
IR_VERSION: Final = 8  # what belongs to this opset: read by onnxruntime since 1.12
METADATA: Final = "cace_env"  # key of the metadata: all of `policy.json`
INSTALL: Final = "run: pip install 'cace-env[export]'"
Array = npt.NDArray[Any]
Decide = Callable[[Array, Array, Array, Array], tuple[int, Array]]  # (slots, pending, context, legal) -> action, scores


class _Graph:
    """Nodes and constants of a graph; every method returns the name of a value."""

    def __init__(self, helper: Any, numpy_helper: Any) -> None:
        self.nodes: list[Any] = []
        self.constants: list[Any] = []
        self._helper, self._numpy_helper = helper, numpy_helper

    def constant(self, values: Any, dtype: Any = np.float64) -> str:
        name = f"c{len(self.constants)}"
        self.constants.append(self._numpy_helper.from_array(np.array(values, dtype=dtype), name))
        return name

    def __call__(self, op: str, *inputs: str, name: str = "", **attributes: Any) -> str:
        """Add a node with one output."""
        out = name or f"v{len(self.nodes)}"
        self.nodes.append(self._helper.make_node(op, list(inputs), [out], **attributes))
        return out

    def column(self, rows: str, number: int) -> str:
        """A column of a table, one axis less."""
        return self("Gather", rows, self.constant(number, np.int64), axis=1)

    def total(self, values: str) -> str:
        """The sum of all numbers."""
        return self("ReduceSum", values, keepdims=0)

    def over_rows(self, rows: str) -> str:
        """The sum over rows, one axis less."""
        return self("ReduceSum", rows, self.constant([0], np.int64), keepdims=0)


def write_onnx(policy: Any, path: str | Path, env: str | None = None) -> Form:
    """Write a policy as an ONNX file.

    Args:
        policy: anything that `form_of` takes.
        path: the file; one that is already there is overwritten.
        env: as for `form_of`.

    Raises:
        ConfigError: as `form_of`, or onnx is not installed.
    """
    form = form_of(policy, env)
    replace_file(Path(path), model_of(form).SerializeToString())
    return form


def model_of(form: Form) -> Any:
    """The `onnx.ModelProto` of a policy, checked by onnx.

    Raises:
        ConfigError: onnx is not installed.
    """
    try:
        import onnx
        from onnx import TensorProto, helper, numpy_helper
    except ImportError:
        raise ConfigError(f"an ONNX file needs onnx; {INSTALL}") from None
    add = _Graph(helper, numpy_helper)
    scores = add("Cast", _network(add, form), to=TensorProto.DOUBLE) if form.network else add("Neg", _keep(add, form))
    add("Where", "legal", scores, add.constant(-np.inf), name="scores")
    legal_scores = add("Where", "legal", scores, add.constant(0.0))
    _action(add, ("slots", "pending", "context", legal_scores), ties=not form.network, int32=TensorProto.INT32)
    inputs = [
        helper.make_tensor_value_info("slots", TensorProto.DOUBLE, ["S", len(SLOT)]),
        helper.make_tensor_value_info("pending", TensorProto.DOUBLE, ["K", len(PENDING)]),
        helper.make_tensor_value_info("context", TensorProto.DOUBLE, [len(CONTEXT)]),
        helper.make_tensor_value_info("legal", TensorProto.BOOL, ["A"]),
    ]
    outputs = [
        helper.make_tensor_value_info("action", TensorProto.INT64, []),
        helper.make_tensor_value_info("scores", TensorProto.DOUBLE, ["A"]),
    ]
    graph = helper.make_graph(add.nodes, "policy", inputs, outputs, add.constants, doc_string=form.about["description"])
    model = helper.make_model(
        graph,
        opset_imports=[helper.make_opsetid("", OPSET)],
        ir_version=IR_VERSION,
        producer_name="cace-env",
        producer_version=form.about["cace_env"],
    )
    helper.set_model_props(model, {METADATA: json.dumps(form.about), "features_hash": form.about["features_hash"]})
    onnx.checker.check_model(model, full_check=True)
    return model


def load_onnx(path: str | Path, threads: int = 1) -> Decide:
    """An ONNX file as a function `(slots, pending, context, legal) -> (action, scores)`, by onnxruntime on the CPU.

    Raises:
        ConfigError: it is no policy that this package has written, onnxruntime does not read it or is not installed.
    """
    try:
        import onnxruntime
    except ImportError:
        raise ConfigError(f"playing an ONNX file needs onnxruntime; {INSTALL}") from None
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = threads
    if not Path(path).is_file():
        raise ConfigError(f"there is no file {path}")
    try:
        session = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    except Exception as error:  # onnxruntime's errors share no base but RuntimeError and Exception
        raise ConfigError(f"{path}: onnxruntime does not read this file ({type(error).__name__})") from error
    if METADATA not in session.get_modelmeta().custom_metadata_map:
        raise ConfigError(f"{path}: this ONNX file is no policy of cace-env")

    def decide(slots: Array, pending: Array, context: Array, legal: Array) -> tuple[int, Array]:
        given = {"slots": slots, "pending": pending, "context": context, "legal": legal}
        action, scores = session.run(["action", "scores"], given)
        return int(action), scores

    return decide


def _action(add: _Graph, numbers: tuple[str, ...], *, ties: bool, int32: int) -> None:
    """The action, and -1 where nothing is legal or some of the numbers are not finite."""
    key = "scores"
    if ties:
        tied = add("Equal", "scores", add("ReduceMax", "scores", keepdims=0))
        key = add("Where", tied, add.column("slots", SLOT._fields.index(TIES)), add.constant(-np.inf))
    chosen = add("ArgMax", key, axis=0, keepdims=0)
    some = add("Greater", add("ReduceMax", add("Cast", "legal", to=int32), keepdims=0), add.constant(0, np.int32))
    total = add("Sum", *(add.total(values) for values in numbers))
    finite = add("Equal", add("Sub", total, total), add.constant(0.0))  # inf - inf and NaN are not 0
    add("Where", add("And", some, finite), chosen, add.constant(-1, np.int64), name="action")


def _keep(add: _Graph, form: Form) -> str:
    """Keep-scores of a rule, `(S,)`; those of illegal places do not matter."""
    score, weights = form.about["score"], form.weights["weights"]

    def feature(name: str) -> str:
        return add.column("slots", SLOT._fields.index(name))

    def summed(parts: list[str]) -> str:
        """In the order of the kernel, to the same bit."""
        sum_of = parts[0]
        for part in parts[1:]:
            sum_of = add("Add", sum_of, part)
        return sum_of

    match score["kind"]:
        case "sum":
            pairs = zip(score["features"], weights, strict=True)
            return summed([add("Mul", feature(name), add.constant(weight)) for name, weight in pairs])
        case "terms":
            terms = zip(score["features"], score["falling"], weights, strict=True)
            return summed([_term(add, feature(name), falls, weight) for name, falls, weight in terms])
        case "hyperbolic":
            age = add("Max", feature("since_load_s"), add.constant(1e-6))
            return add("Div", feature("uses_since_load"), age)
        case "rate_load_size":
            return add("Div", add("Mul", feature("rate_10m"), feature("reload_s")), feature("freed_gb"))
        case "churn_guard":
            young = add("Less", feature("since_load_s"), add.constant(weights[0]))
            extra = add("Where", young, add.constant(APART), add.constant(0.0))
            return add("Sub", extra, feature("since_use_s"))
        case "single_victim":
            freed = feature("freed_gb")
            suffices = add("GreaterOrEqual", freed, feature("missing_gb"))
            alone = add("Sub", add("Neg", feature("since_use_s")), add.constant(APART))
            return add("Where", suffices, alone, add("Neg", freed))
    raise ConfigError(f"there is no ONNX form of the score {score['kind']!r}")


def _term(add: _Graph, values: str, falls: bool, weight: float) -> str:
    """Weight times a feature scaled to [0, 1] over the candidates; 0 where they are all alike."""
    low = add("ReduceMin", add("Where", "legal", values, add.constant(np.inf)), keepdims=0)
    high = add("ReduceMax", add("Where", "legal", values, add.constant(-np.inf)), keepdims=0)
    apart, one = add("Greater", high, low), add.constant(1.0)
    share = add("Div", add("Sub", values, low), add("Where", apart, add("Sub", high, low), one))
    if falls:
        share = add("Sub", one, share)
    return add("Where", apart, add("Mul", share, add.constant(weight)), add.constant(0.0))


def _scaled(add: _Graph, block: str, values: str) -> str:
    """Features as the network was trained on them, float32."""
    features = BLOCKS[block]
    x = add("Mul", values, add.constant([1.0 / feature.scale for feature in features]))
    log = add("Mul", add("Sign", x), add("Log", add("Add", add("Abs", x), add.constant(1.0))))
    chosen = add("Where", add.constant([feature.log for feature in features], np.bool_), log, x)
    return add("Cast", chosen, to=1)  # TensorProto.FLOAT


def _network(add: _Graph, form: Form) -> str:
    """Scores of all actions by the network; `cace_env.policies.network` has the formula."""
    w, hidden = form.weights, form.about["score"]["hidden"]

    def weight(values: Array) -> str:
        return add.constant(values, np.float32)

    def affine(values: str, weights: Array, bias: Array) -> str:
        return add("Add", add("MatMul", values, weight(weights.T)), weight(bias))

    def encode(name: str, rows: str, width: int, common: str) -> tuple[str, str]:
        """Hidden units of each row, 0 for empty rows, and their mean over the others."""
        shared = affine(common, w[name][:, width:], w[f"{name}_bias"])
        there = add("Gather", rows, add.constant([THERE], np.int64), axis=1)
        before = add("Add", add("MatMul", rows, weight(w[name][:, :width].T)), shared)
        units = add("Mul", add("Relu", before), there)
        return units, add("Div", add.over_rows(units), add("Max", add.total(there), weight(np.array(1.0))))

    def mixed(block: str, units: str, pooled: str) -> str:
        """What the second layer adds to the scores of a block."""
        own, common = w[f"{block}_mix"][:, :hidden], w[f"{block}_mix"][:, hidden:]
        shared = affine(pooled, common, w[f"{block}_mix_bias"])
        before = add("Add", add("MatMul", units, weight(own.T)), shared)
        return add("MatMul", add("Relu", before), weight(w[f"{block}_out"]))

    slots, pending, context = (_scaled(add, *one) for one in zip(BLOCKS, ("slots", "pending", "context"), strict=True))
    scores = add("MatMul", slots, weight(w["slot_linear"]))
    if hidden:
        flag = add("Gather", pending, add.constant([PENDING.target], np.int64), axis=1)
        target = add.over_rows(add("Mul", pending, flag))
        common = add("Concat", target, context, axis=0)
        of_slots, slot_mean = encode("slot_in", slots, len(SLOT), common)
        of_pending, pending_mean = encode("pending_in", pending, len(PENDING), context)
        pooled = add("Concat", slot_mean, pending_mean, axis=0)
        scores = add("Add", scores, mixed("slot", of_slots, pooled))
    if not form.swap:
        return scores
    loads = add("MatMul", pending, weight(w["pending_linear"]))
    wait = affine(context, w["wait_linear"][None, :], w["wait_bias"])
    if hidden:
        loads = add("Add", loads, mixed("pending", of_pending, pooled))
        units = affine(add("Concat", pooled, context, axis=0), w["wait_mix"], w["wait_mix_bias"])
        wait = add("Add", wait, add("MatMul", add("Relu", units), weight(w["wait_out"][:, None])))
    if "urgency" in form.about["score"]:
        loads = add("Add", loads, add("Cast", _urgency(add, form.about["score"]["urgency"]), to=1))
    return add("Concat", scores, loads, wait, axis=0)


def _urgency(add: _Graph, by: dict[str, float]) -> str:
    """What each model gains because its oldest request has waited for longer than its limit."""
    zero, one = add.constant(0.0), add.constant(1.0)
    ages = add(
        "Div",
        add.total(add.column("slots", SLOT.running_age_s)),
        add("Max", add.total(add.column("slots", THERE)), one),
    )
    others = add("Greater", add("Gather", "context", add.constant(CONTEXT.pending, np.int64)), add.constant(1.5))
    limit = add("Mul", add.column("pending", PENDING.load_s), add.constant(by["loads"]))
    limit = add("Add", limit, add("Mul", add("Where", others, ages, zero), add.constant(by["ages"])))
    limit = add("Add", limit, add.constant(by["grace_s"]))
    suffices = add("Greater", add.column("pending", PENDING.idle_suffices), zero)
    limit = add("Mul", limit, add("Where", suffices, one, add.constant(by["busy"])))
    over = add("Sub", add("Div", add.column("pending", PENDING.oldest_wait_s), limit), one)
    return add("Mul", add("Max", over, zero), add.constant(by["price"]))
