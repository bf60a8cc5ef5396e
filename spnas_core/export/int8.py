"""Static quantisation of an ONNX model by onnxruntime: convolutions and dense layers in INT8, the rest in float32.

Source: https://onnxruntime.ai/docs/performance/model-optimizations/quantization.html
"""

import tempfile
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

import onnx
from onnxruntime.quantization import CalibrationDataReader, QuantFormat, QuantType, quantize_static
from onnxruntime.quantization.shape_inference import quant_pre_process

from spnas_core.data.images import Floats

QUANTISED = ("Conv", "Gemm")


class _Reader(CalibrationDataReader):
    """Inputs of the network, one image after the other."""

    def __init__(self, inputs: Iterable[tuple[Floats, Floats]], names: Sequence[str]) -> None:
        self._names = names
        self._inputs: Iterator[tuple[Floats, Floats]] = iter(inputs)

    def get_next(self) -> dict[str, Floats] | None:
        """Give the next inputs by name, None at the end."""
        found = next(self._inputs, None)
        return found and {name: array for name, array in zip(("images", "image_hw"), found, strict=True) if name in self._names}


def quantise(model: bytes, inputs: Iterable[tuple[Floats, Floats]]) -> bytes:
    """Content of an ONNX file in INT8, its ranges those of `inputs`: images (1, 3, H, W) and their valid sizes (1, 2).

    Weights get a scale for each channel; values between layers are unsigned.
    """
    with tempfile.TemporaryDirectory(prefix="spnas-int8-") as folder:
        plain, folded, small = (Path(folder, f"{name}.onnx") for name in ("plain", "folded", "small"))
        plain.write_bytes(model)
        quant_pre_process(plain, folded, skip_symbolic_shape=True)  # puts norms into convolutions
        quantize_static(
            folded,
            small,
            _Reader(inputs, [one.name for one in onnx.load_from_string(model).graph.input]),
            quant_format=QuantFormat.QDQ,
            op_types_to_quantize=list(QUANTISED),
            per_channel=True,
            activation_type=QuantType.QUInt8,
            weight_type=QuantType.QInt8,
        )
        return small.read_bytes()
