"""The compiled loop of the NumPy backend.

A body runs once on stand-ins (`proxy`, `trace`) that record its operations on a `tape`; the recording is packed,
fused, ordered and laid out in memory (`pack`, `fuse`, `order`, `layout`), written out as straight Python
(`names`, `lines`, `emit`) and replayed for every step (`plan`). It knows arrays and their operations, nothing of
neural networks.
"""
