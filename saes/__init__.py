"""lensbench.saes (see ARCHITECTURE.md)."""

if not __name__.startswith("lensbench."):
    raise ImportError(f"import this package as lensbench.saes, not as {__name__}")
