"""Interventions during training: activations clamped at every step, and what then is learned."""
