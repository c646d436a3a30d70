"""Recorded programs on a CUDA device, as few generated kernels between the products of cuBLAS.

`fuse` gathers operations into nests of loops, `schedule` puts nests that do not wait for each other into one launch,
`kernels` writes the source, `products` multiplies, `launch` runs, and `graph` records the launches as a CUDA graph.
"""
