"""Reduced precision of an exported graph: half floats for GPUs, 8-bit products for CPUs."""

from __future__ import annotations

from pathlib import Path

import onnx


def convert(path: Path, precision: str) -> None:
    """Rewrite the graph at `path` in place; fp32 leaves it as it is. Inputs and outputs keep their types."""
    if precision == "fp32" or path.stem == "preprocess":
        return
    if precision == "fp16":
        _to_fp16(path)
    else:
        _to_int8(path)


def _save(model: onnx.ModelProto, path: Path) -> None:
    """One file, or weights beside it when they exceed what a protobuf may hold."""
    data = Path(f"{path}.data")
    data.unlink(missing_ok=True)
    large = sum(len(tensor.raw_data) for tensor in model.graph.initializer) > 1 << 28
    onnx.save(model, str(path), save_as_external_data=large, location=data.name, size_threshold=1024)


def _to_fp16(path: Path) -> None:
    from onnxruntime.transformers.float16 import convert_float_to_float16

    _save(convert_float_to_float16(onnx.load(str(path)), keep_io_types=True), path)


def _to_int8(path: Path) -> None:
    from onnxruntime.quantization import QuantType, quantize_dynamic

    model = onnx.load(str(path))
    del model.graph.value_info[:]  # stale shapes make the quantiser fail
    out = path.with_suffix(".int8")
    operators = ["MatMul", "Gemm"]
    quantize_dynamic(model, str(out), per_channel=True, weight_type=QuantType.QInt8, op_types_to_quantize=operators)
    quantised = onnx.load(str(out))
    out.unlink()
    _save(quantised, path)
