"""The CPU: NumPy's functions and a BLAS, called one after the other on memory that is planned beforehand."""
