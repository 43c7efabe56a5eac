"""Writes ONNX files: one file, or two where the weights would exceed what a protobuf may hold."""

from __future__ import annotations

from pathlib import Path

import onnx

INLINE_BYTES = 1 << 28  # a protobuf may not exceed 2 GB


def save(model: onnx.ModelProto, path: Path) -> None:
    """Save as one file, or with the weights in a second one when they exceed the size limit of a protobuf."""
    data = Path(f"{path}.data")
    data.unlink(missing_ok=True)
    large = sum(len(tensor.raw_data) for tensor in model.graph.initializer) > INLINE_BYTES
    onnx.save(model, str(path), save_as_external_data=large, location=data.name, size_threshold=1024)
