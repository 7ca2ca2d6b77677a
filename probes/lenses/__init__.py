"""Lenses: what each layer would predict if it were the last."""
