"""A run: the stream of batches, the loop, checkpoints, its folder, what it says, its forecast."""
