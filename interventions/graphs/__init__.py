"""Circuits of latents: attribution graphs of a local replacement model, checked by doing."""
