"""The command line: ``lensbench`` and ``python -m lensbench``.

One file per command group. Start-up imports no torch, transformers, pandas or plotly; commands do,
inside their functions. Everything they compute is in ``app.workflows``.
"""

from lensbench.app.cli.main import main

__all__ = ["main"]
