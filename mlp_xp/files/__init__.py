"""Models and checkpoints as safetensors files.

`models` and `checkpoints` define what is stored; a checkpoint, whose content is a `snapshot`, is a model with the rest
of its run. Below them are `config` (configurations as JSON), `generators` and `history` (fields of the header),
`fields` (all others), `container` (the safetensors file) and `disk` (paths and atomic writing).
"""
