"""Models in and out: ONNX, PyTorch, Keras. Each file imports its library only when it is used."""
