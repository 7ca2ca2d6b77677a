"""Circuits: what attention heads read, write and attend to, with TransformerLens' tools.

Weight circuits and attributions are read off a folded TransformerLens twin of the model, made on a
copy and checked against it (``lensbench.models.transformer_lens``).
"""
