"""Generators of text with known ground truth."""
