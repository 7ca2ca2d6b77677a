"""lensbench.interventions (see ARCHITECTURE.md)."""

if not __name__.startswith("lensbench."):
    raise ImportError(f"import this package as lensbench.interventions, not as {__name__}")
