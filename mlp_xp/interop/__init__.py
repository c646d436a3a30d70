"""Export and import of models: ONNX, PyTorch, Keras. Each file imports its library only when it is used."""
