"""Models and checkpoints as safetensors files."""
