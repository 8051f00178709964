"""The parts of the simulator: the world, its tickets and what became of them."""
