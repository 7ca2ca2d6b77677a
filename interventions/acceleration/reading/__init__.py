"""Whether a probe, a lens or a dictionary can still be read on an accelerated model."""
