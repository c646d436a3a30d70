"""One small compiler: a target runs the program that a body was recorded as and passes rewrote."""
