"""The parts of `tiebreak demo`: simulated tickets, what is set up, the live stream, the summary."""
