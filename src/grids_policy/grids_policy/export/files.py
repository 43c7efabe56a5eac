"""Writes ONNX files: one file, or two where the weights would exceed what a protobuf may hold."""

from __future__ import annotations

from pathlib import Path

import onnx

INLINE_BYTES = 1 << 28  # a protobuf may not exceed 2 GB


def save(model: onnx.ModelProto, path: Path, *, apart: bool = False) -> None:
    """Save as one file, or with the weights in a second one when they exceed the size limit of a protobuf, or `apart`.

    Nodes are put in order, each behind those it reads, as ONNX demands: passes add nodes at the end. ONNX Runtime takes
    any order, OpenVINO does not.
    """
    _sort(model.graph)
    data = Path(f"{path}.data")
    data.unlink(missing_ok=True)
    large = apart or sum(len(tensor.raw_data) for tensor in model.graph.initializer) > INLINE_BYTES
    onnx.save(model, str(path), save_as_external_data=large, location=data.name, size_threshold=1024)
    if data.exists():
        data.chmod(path.stat().st_mode)  # else only its owner could read it


def _sort(graph: onnx.GraphProto) -> None:
    made_by = {name: i for i, node in enumerate(graph.node) for name in node.output if name}
    done: set[int] = set()
    order: list[int] = []
    for first in range(len(graph.node)):
        waiting = [first]
        while waiting:
            at = waiting[-1]
            before = [i for name in graph.node[at].input if (i := made_by.get(name)) is not None and i not in done]
            if before:
                waiting += before
                continue
            waiting.pop()
            if at not in done:
                done.add(at)
                order.append(at)
    nodes = [onnx.NodeProto.FromString(graph.node[i].SerializeToString()) for i in order]
    del graph.node[:]
    graph.node.extend(nodes)
