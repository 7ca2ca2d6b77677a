"""Othello: rules, games by the thousand, boards as labels, and the model trained on them."""
