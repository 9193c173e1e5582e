"""Weights and activations of an ONNX model in 8 bits, by onnxruntime's static quantization."""

import tempfile
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np

from sacjax.errors import UserError
from sacjax.parts import part_of

KINDS = ("Conv", "MatMul")  # where nearly all weights and the time are
# Parts that stay as they are: the front end; the convolutions before a Transformer.
FLOAT = ("views", "convolutions")


def quantize(model: Any, batches: Iterable[dict[str, np.ndarray]]) -> Any:
    """Returns a model whose convolutions and matrix products are of int8.

    Each output channel of a weight has a scale of its own; activations go from the least to the
    greatest value that was seen (Jacob et al. 2018, section 3). In float32 stay the front end and
    the convolutions before the Transformer of wav2vec 2.0 and Whisper, as the range of sound is no
    8 bits; the encoder's first layer and the head, which are small and make half of the error;
    matrix products of two activations (attention); and what is in a loop.

    Args:
      model: an `onnx.ModelProto` of `translate.to_onnx`.
      batches: {input: array} of typical sound, from which the ranges are taken.

    Raises:
      UserError: onnxruntime is not installed, or the model has nothing to quantize.
    """
    try:
        import onnx
        from onnxruntime import quantization
        from onnxruntime.quantization.shape_inference import quant_pre_process
    except ImportError:
        raise UserError("--int8 needs onnx and onnxruntime: pip install 'sacjax[onnx]'") from None

    class Reader(quantization.CalibrationDataReader):
        rest = iter(batches)

        def get_next(self) -> dict[str, np.ndarray] | None:
            return next(self.rest, None)

    with tempfile.TemporaryDirectory() as folder:
        given, simple, path = (str(Path(folder) / f"{k}.onnx") for k in range(3))
        onnx.save(model, given)
        quant_pre_process(given, simple, skip_symbolic_shape=True)
        products = [node for node in onnx.load(simple).graph.node if node.op_type in KINDS]
        kept = [node.name for node in products if part_of(node.name) in FLOAT]
        learned = [node.name for node in products if part_of(node.name) not in FLOAT]
        if len(learned) < 3:
            raise UserError("--int8: the model has no layer between its first and its last")
        quantization.quantize_static(
            simple,
            path,
            Reader(),
            quant_format=quantization.QuantFormat.QDQ,
            op_types_to_quantize=list(KINDS),
            per_channel=True,
            activation_type=quantization.QuantType.QUInt8,
            weight_type=quantization.QuantType.QInt8,
            nodes_to_exclude=[*kept, learned[0], learned[-1]],
            extra_options={"WeightSymmetric": True, "MatMulConstBOnly": True},
        )
        return onnx.load(path)
