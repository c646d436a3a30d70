"""Models and checkpoints as safetensors files.

`models` and `checkpoints` define the content of files; a checkpoint contains a `snapshot`: a model and the state of its
run. They use `config` (configurations as JSON), `generators` and `history` (fields of the header), `fields` (all other
fields), `container` (the safetensors file) and `disk` (paths and atomic writing).
"""
