"""Models and checkpoints as safetensors files.

`models` and `checkpoints` define what is stored. Below them are `networks` (arrays of a network), `config`
(configurations as JSON), `generators` and `history` (fields of the header), `fields` (all others), `container`
(the safetensors file), `atomic` (writing) and `paths`.
"""
