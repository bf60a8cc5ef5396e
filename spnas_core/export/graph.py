"""Builder of an ONNX graph: nodes in order of computation, and the weights and constants that they read.

A value is a name. Opset 17 (since 16, RoiAlign can omit the shift by half a pixel), for onnxruntime 1.13 and later.
Source: https://onnx.ai/onnx/operators.
"""

from collections.abc import Sequence
from typing import Any

import mindspore  # noqa: F401 - before onnx: MindSpore needs protobuf's Python parser, and selects it if imported first
import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from spnas_core.weights.tensor_names import Arrays

OPSET, IR_VERSION = 17, 8
Value = str
Shape = tuple[int | str, ...]  # a text names a dynamic size
Input = str | float | Sequence[float] | np.ndarray[Any, Any]  # numbers become constants: integers int64, others float32


class Graph:
    """Graph whose calls add nodes: ``graph("Relu", x)`` adds one and returns its output; numbers among the inputs become constants."""

    def __init__(self, weights: Arrays) -> None:
        self.weights = weights
        self._nodes: list[onnx.NodeProto] = []
        self._tensors: dict[str, onnx.TensorProto] = {}

    def __call__(self, kind: str, *inputs: Input, **attributes: Any) -> Value:
        """Add a node with one output."""
        (output,) = self.several(1, kind, *inputs, **attributes)
        return output

    def several(self, count: int, kind: str, *inputs: Input, **attributes: Any) -> tuple[Value, ...]:
        """Add a node with `count` outputs."""
        names = [one if isinstance(one, str) else self._constant(one) for one in inputs]
        outputs = tuple(f"{kind}_{len(self._nodes)}_{number}" for number in range(count))
        self._nodes.append(helper.make_node(kind, names, outputs, name=f"{kind}_{len(self._nodes)}", **attributes))
        return outputs

    def weight(self, name: str) -> Value:
        """Return a tensor of the weights, by its name; it is stored once even if several nodes read it."""
        if name not in self._tensors:
            self._tensors[name] = numpy_helper.from_array(self.weights[name], name)
        return name

    def _constant(self, value: Any) -> Value:
        array, name = np.asarray(value), f"constant_{len(self._tensors)}"
        self._tensors[name] = numpy_helper.from_array(array.astype(np.int64 if array.dtype.kind == "i" else np.float32), name)
        return name

    def model(self, inputs: dict[str, Shape], outputs: dict[str, tuple[Value, str, Shape]]) -> bytes:
        """Finish, check and serialise the graph; `inputs`: shapes of float32 inputs, `outputs`: value, dtype and shape of each."""
        for name, (value, _, _) in outputs.items():
            self._nodes.append(helper.make_node("Identity", [value], [name], name=name))
        given = [helper.make_tensor_value_info(name, TensorProto.FLOAT, shape) for name, shape in inputs.items()]
        made = [
            helper.make_tensor_value_info(name, helper.np_dtype_to_tensor_dtype(np.dtype(dtype)), shape)
            for name, (_, dtype, shape) in outputs.items()
        ]
        graph = helper.make_graph(self._nodes, "detector", given, made, list(self._tensors.values()))
        opset = helper.make_opsetid("", OPSET)
        model = helper.make_model(graph, producer_name="spnas", ir_version=IR_VERSION, opset_imports=[opset])
        onnx.checker.check_model(model)
        return bytes(model.SerializeToString())
