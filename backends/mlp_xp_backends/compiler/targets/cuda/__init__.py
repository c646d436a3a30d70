"""Recorded programs on a CUDA device: a few generated kernels between the matrix products of cuBLAS.

`lower` removes views and adds the copies that store results. `fuse` gathers operations into nests of loops; `access`
determines which operation reads what at which indices. `schedule` puts independent nests into one launch. `emit` calls
`kernels` and `elements` to write the source of each kernel, with the common `prelude` and NumPy's `functions`. None of
these needs a device. `launch` runs the result, with `products` by cuBLAS or by cuBLASLt (`lt`), and `graph` records it
as a CUDA graph.
"""
