"""The pure decision engine: columns in, columns out; no I/O, clock, environment or randomness."""
