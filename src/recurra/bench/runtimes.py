"""The same layers in onnxruntime and OpenVINO, from a graph of ONNX's own LSTM, GRU and RNN operators.

These packages are no dependencies of recurra: where one is missing, the table says so.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray

from recurra.bench.cases import GATES
from recurra.bench.problem import CARRIED_CALLS, Answer, Problem

RUNTIMES = ("onnxruntime", "openvino")
OPSET, IR_VERSION = 14, 8
"""Old enough for any runtime in use."""
ORDER = {"LSTM": (0, 3, 1, 2), "GRU": (1, 0, 2), "RNN": (0,)}
"""Where ONNX's gates stand among torch's: i o f c of i f g o, z r h of r z n."""

Arrays = dict[str, NDArray[Any]]


class Session(NamedTuple):
    """A layer ready to run: the call to be timed, and the answer to be compared."""

    call: Callable[[], object]
    answer: Callable[[], Answer]


def start(runtime: str, problem: Problem, threads: int) -> Session | str:
    """``problem``'s inference in ``runtime``, or why there is none."""
    if problem.case.projection:
        return "no operator"  # ONNX's LSTM has no projection
    try:
        packages = importlib.import_module("onnx"), importlib.import_module(runtime)
    except ImportError as error:
        missing = isinstance(error, ModuleNotFoundError) and error.name in ("onnx", runtime)
        return "not installed" if missing else f"does not load: {' '.join(str(error).split())}"
    onnx, package = packages
    model = graph(onnx, problem).SerializeToString()
    run = (_onnxruntime if runtime == "onnxruntime" else _openvino)(package, model, threads)
    return _carried(run, problem) if problem.case.carried else _whole(run, problem)


def _whole(run: Callable[[Arrays], Any], problem: Problem) -> Session:
    inputs = _inputs(problem)

    def answer() -> Answer:
        return _answer(run(inputs))

    return Session(lambda: run(inputs), answer)


def _carried(run: Callable[[Arrays], Any], problem: Problem) -> Session:
    """Each call's final states are the next one's initial states."""
    inputs = _inputs(problem)

    def call() -> Any:
        results = run(inputs)
        inputs["h_0"], inputs["c_0"] = results[1], results[2]
        return results

    def answer() -> Answer:
        inputs.update(_inputs(problem))
        for _ in range(CARRIED_CALLS):
            results = call()
        return _answer(results)

    return Session(call, answer)


def _inputs(problem: Problem) -> Arrays:
    """The graph's inputs. x is (T, N, F): the operators take no other layout in every runtime."""
    arrays: Arrays = {"x": problem.x.transpose(0, 1).contiguous().numpy()}
    if problem.lengths is not None:
        arrays["lengths"] = problem.lengths.int().numpy()
    return arrays | {name: state.numpy() for name, state in zip(("h_0", "c_0"), problem.states, strict=False)}


def _answer(results: Any) -> Answer:
    """y (T, N, D·H), h_n and c_n as torch has them; copies, since a runtime may use its memory again."""
    y, *states = (torch.from_numpy(np.array(result)) for result in results)
    return {"output": y.transpose(0, 1)} | dict(zip(("h_n", "c_n"), states, strict=False))


def _onnxruntime(package: Any, model: bytes, threads: int) -> Callable[[Arrays], Any]:
    options = package.SessionOptions()
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1
    # Its threads spin within a call as they always do, but not on into the turn of the next contender.
    options.add_session_config_entry("session.force_spinning_stop", "1")
    session = package.InferenceSession(model, options, providers=["CPUExecutionProvider"])
    return lambda inputs: session.run(None, inputs)


def _openvino(package: Any, model: bytes, threads: int) -> Callable[[Arrays], Any]:
    settings = {
        "INFERENCE_NUM_THREADS": threads,
        "PERFORMANCE_HINT": "LATENCY",
        "INFERENCE_PRECISION_HINT": "f32",
    }
    core = package.Core()
    request = core.compile_model(core.read_model(model), "CPU", settings).create_infer_request()
    return lambda inputs: list(request.infer(inputs, share_inputs=True).values())


def graph(onnx: Any, problem: Problem) -> Any:
    """The problem's layer as an ONNX model: x (and lengths, h_0, c_0) to output, h_n (and c_n)."""
    case, helper = problem.case, onnx.helper
    numbers = onnx.TensorProto
    finals = ["h_n", "c_n"] if case.cell == "LSTM" else ["h_n"]
    nodes: list[Any] = []
    constants: Arrays = {"one": np.array([1])} if case.directions == 1 else {"joined": np.array([0, 0, -1])}
    below = "x"
    for layer in range(case.layers):
        last = layer == case.layers - 1
        constants |= {f"{name}{layer}": value for name, value in _weights(problem, layer).items()}
        initial = ["h_0", "c_0"] if case.carried else []
        lengths = "" if case.lengths is None else "lengths"
        inputs = [below, f"W{layer}", f"R{layer}", f"B{layer}", lengths, *initial]
        outputs = [f"Y{layer}", *(f"{name}{layer}" for name in finals)]
        options: dict[str, Any] = {"hidden_size": case.hidden}
        if case.directions == 2:
            options["direction"] = "bidirectional"
        if case.cell == "GRU":
            options["linear_before_reset"] = 1  # torch's form: the reset gate after the product
        nodes.append(helper.make_node(case.cell, inputs, outputs, **options))
        below = "output" if last else f"y{layer}"
        # Y is (T, D, N, H)
        if case.directions == 1:
            nodes.append(helper.make_node("Squeeze", [f"Y{layer}", "one"], [below]))
        else:
            nodes.append(helper.make_node("Transpose", [f"Y{layer}"], [f"Z{layer}"], perm=[0, 2, 1, 3]))
            nodes.append(helper.make_node("Reshape", [f"Z{layer}", "joined"], [below]))
    for name in finals:
        parts = [f"{name}{layer}" for layer in range(case.layers)]
        nodes.append(helper.make_node("Concat", parts, [name], axis=0))
    results = [helper.make_tensor_value_info(name, numbers.FLOAT, [None] * 3) for name in ("output", *finals)]
    given = [
        helper.make_tensor_value_info(
            name, numbers.INT32 if name == "lengths" else numbers.FLOAT, list(value.shape)
        )
        for name, value in _inputs(problem).items()
    ]
    stored = [onnx.numpy_helper.from_array(value, name) for name, value in constants.items()]
    whole = helper.make_graph(nodes, "layer", given, results, stored)
    opsets = [helper.make_opsetid("", OPSET)]
    return helper.make_model(whole, opset_imports=opsets, ir_version=IR_VERSION)


def _weights(problem: Problem, layer: int) -> Arrays:
    """W (D, G·H, F), R (D, G·H, H) and B (D, 2·G·H) of one layer, with ONNX's order of gates."""
    cell = problem.case.cell
    rows = np.arange(GATES[cell] * problem.case.hidden).reshape(GATES[cell], -1)[list(ORDER[cell])].ravel()

    def both(name: str) -> NDArray[Any]:
        ends = ("", "_reverse")[: problem.case.directions]
        return np.stack([problem.weights[f"{name}_l{layer}{end}"].numpy()[rows] for end in ends])

    bias = np.concatenate([both("bias_ih"), both("bias_hh")], axis=1)
    return {"W": both("weight_ih"), "R": both("weight_hh"), "B": bias}
