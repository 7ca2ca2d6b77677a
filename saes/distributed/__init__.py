"""One run in several processes: who they are, what each does, and how one that is lost is noticed.

``ranks`` is the interface that the loop of training sees; ``members``, ``data`` and ``width`` are
three ways to divide the work behind it; ``job`` is all that they know of ``torch.distributed``.
"""
