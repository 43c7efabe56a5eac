"""`./grids export`: a checkpoint as ONNX graphs in a bundle, checked against the torch model."""
