"""Whether TensorRT takes the graphs of a bundle: rules that need no NVIDIA package, and its own parser and builder."""
