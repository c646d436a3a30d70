"""Data sets: checked once on the host, then fed to the device.

Arrays pass `checks` and then `feed`. The other files are entered only where they are needed: `frames`, `class_weights`,
`sources` and `stream` (batches that are read anew in every epoch), and for groups of processes `shares`.
"""
