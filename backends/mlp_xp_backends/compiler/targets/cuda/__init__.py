"""Recorded programs on a CUDA device, as few generated kernels between the products of cuBLAS.

`lower` leaves out views and adds the copies that store results, `fuse` gathers operations into nests of loops (with
`access`: who reads what at which indices), `schedule` puts nests that do not wait for each other into one launch, and
`emit` has `kernels` and `elements` write the source of each (with the `prelude` and the `functions` of NumPy). All that
needs no device. `launch` runs it, with `products` by cuBLAS or by `lt`, and `graph` records it as a CUDA graph.
"""
