"""One small compiler: a body is recorded as a program, rewritten by passes and run by a target."""
