"""Drafting with part of a model and checking with all of it: the text is the full model's own."""
