"""Subspace patching, and the test that tells a used subspace from an interpretability illusion."""
