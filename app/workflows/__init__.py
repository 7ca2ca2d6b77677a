"""The composition root: builds objects from names and configs, runs them, gives plain facts back.

The command line and the dashboard call these functions and nothing below them, so the two cannot
disagree. Every function here returns JSON-able facts (or a figure, or a result).
"""
