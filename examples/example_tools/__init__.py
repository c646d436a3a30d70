"""Code that the examples share: command-line options, the run with its report, repeated seeds, and figures."""
