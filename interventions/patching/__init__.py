"""Patching: set a place to its state in another run, and see what the model then says."""
