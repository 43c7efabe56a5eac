"""Runtimes behind one interface; `onnx.build_runtime` picks the best engine present and says why."""
