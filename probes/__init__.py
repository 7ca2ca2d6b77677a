"""lensbench.probes (see ARCHITECTURE.md)."""

if not __name__.startswith("lensbench."):
    raise ImportError(f"import this package as lensbench.probes, not as {__name__}")
