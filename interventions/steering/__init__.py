"""Steering: directions of activations, and plans that add, clamp or take them out."""
