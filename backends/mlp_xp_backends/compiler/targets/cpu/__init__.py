"""The CPU: a list of calls of NumPy's functions and a BLAS on preallocated memory."""
