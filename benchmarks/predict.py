"""Small predictions and small updates beside scikit-learn and onnxruntime.

``python -m benchmarks predict [--rows 1 32 1000] [--rounds 7] [--json FILE]`` prints a table in Markdown: the median
microseconds of one call of ``predict_proba`` and of ``partial_fit`` on 32 rows, with BLAS on one thread. All are
measured in turn in every round. onnxruntime, if it and onnx are installed, runs the same weights as a graph and does
not check its input; our `Model` is the estimator's ``to_model()``.
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
from sklearn.neural_network import MLPClassifier as Theirs
from threadpoolctl import threadpool_limits

from mlp_xp.sklearn import MLPClassifier as Ours

Call = Callable[[], Any]
FEATURES, HIDDEN, CLASSES = 50, (100,), 10


def data(rows: int, dtype: str) -> tuple[np.ndarray[Any, Any], np.ndarray[Any, Any]]:
    rng = np.random.default_rng(0)
    return rng.normal(size=(rows, FEATURES)).astype(dtype), np.arange(rows) % CLASSES


def fitted(cls: type, dtype: str) -> Any:
    model = cls(HIDDEN, random_state=0)
    return model.partial_fit(*data(1000, dtype), classes=range(CLASSES))


def onnx_session(model: Any) -> Any:
    """The network of an estimator with ReLU and softmax as an onnxruntime session on one thread."""
    import onnxruntime
    from onnx import TensorProto, helper, numpy_helper

    kind = TensorProto.FLOAT if model.coefs_[0].dtype == np.float32 else TensorProto.DOUBLE
    last = len(model.coefs_) - 1
    nodes, arrays, name = [], [], "X"
    for i, (W, b) in enumerate(zip(model.coefs_, model.intercepts_, strict=True)):
        arrays += [numpy_helper.from_array(W, f"W{i}"), numpy_helper.from_array(b, f"b{i}")]
        nodes.append(helper.make_node("Gemm", [name, f"W{i}", f"b{i}"], [f"z{i}"]))
        name = "probabilities" if i == last else f"h{i}"
        nodes.append(helper.make_node("Softmax" if i == last else "Relu", [f"z{i}"], [name]))
    ends = [
        helper.make_tensor_value_info(end, kind, [None, n]) for end, n in (("X", FEATURES), ("probabilities", CLASSES))
    ]
    graph = helper.make_graph(nodes, "mlp", ends[:1], ends[1:], arrays)
    proto = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10)
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    return onnxruntime.InferenceSession(proto.SerializeToString(), options, providers=["CPUExecutionProvider"])


def predictions(rows: int, dtype: str) -> dict[str, Call]:
    """One call of each library, on the same rows."""
    X, _ = data(rows, dtype)
    ours, theirs = fitted(Ours, dtype), fitted(Theirs, dtype)
    model = ours.to_model("cpu")
    calls: dict[str, Call] = {
        "scikit-learn": lambda: theirs.predict_proba(X),
        "mlp_xp": lambda: ours.predict_proba(X),
        "mlp_xp Model": lambda: model.predict_proba(X),
    }
    if find_spec("onnxruntime") and find_spec("onnx"):
        session = onnx_session(ours)
        calls["onnxruntime"] = lambda: session.run(None, {"X": X})[0]
    for call in calls.values():
        np.testing.assert_allclose(call(), ours.predict_proba(X), rtol=0.0, atol=1e-5)
    return calls


def updates(rows: int, dtype: str) -> dict[str, Call]:
    X, y = data(rows, dtype)
    ours, theirs = fitted(Ours, dtype), fitted(Theirs, dtype)
    return {"scikit-learn": lambda: theirs.partial_fit(X, y), "mlp_xp": lambda: ours.partial_fit(X, y)}


def measure(calls: dict[str, Call], rounds: int) -> dict[str, float]:
    """The median microseconds of a call of each library."""
    times: dict[str, list[float]] = {name: [] for name in calls}
    for _ in range(rounds):
        for name, call in calls.items():
            for _ in range(3):
                call()
            n = 0
            began = time.perf_counter()
            while (passed := time.perf_counter() - began) < 0.05 or n < 5:
                call()
                n += 1
            times[name].append(passed / n)
    return {name: 1e6 * statistics.median(each) for name, each in times.items()}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, nargs="+", default=[1, 32, 1000])
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--json", type=Path)
    args = parser.parse_args()
    cases = [("predict_proba", rows, predictions) for rows in args.rows] + [("partial_fit", 32, updates)]
    columns = ["scikit-learn", "mlp_xp", "mlp_xp Model", "onnxruntime"]
    print("| call | rows | dtype | " + " | ".join(columns) + " | mlp_xp / scikit-learn |")
    print("| --- " * (len(columns) + 4) + "|")
    results = []
    for call, rows, make in cases:
        for dtype in ("float64", "float32"):
            with threadpool_limits(1):
                found = measure(make(rows, dtype), args.rounds)
            results.append({"call": call, "rows": rows, "dtype": dtype, "microseconds": found})
            cells = [f"{found[name]:.0f}" if name in found else "" for name in columns]
            ratio = found["mlp_xp"] / found["scikit-learn"]
            print(f"| {call} | {rows} | {dtype} | {' | '.join(cells)} | {ratio:.2f} |", flush=True)
    if args.json is not None:
        args.json.write_text(json.dumps(results, indent=2) + "\n")


if __name__ == "__main__":
    main()
