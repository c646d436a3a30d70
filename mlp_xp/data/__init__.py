"""Data sets: checked once on the host, then sent to the device.

Arrays pass through `checks` and then `feed`. The other files are used only where they are needed: `frames`,
`class_weights`, `sources` and `stream` (batches that are read again in every epoch), `shares` (several processes).
"""
