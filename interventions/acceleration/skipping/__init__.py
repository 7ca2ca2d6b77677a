"""Running fewer layers than there are: which, for which tokens, and what it costs."""
