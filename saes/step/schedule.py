"""Learning rate over a run: linear warm-up, constant, linear decay to zero."""


def rate(step: int, steps: int, warmup: float, decay: float) -> float:
    """Factor of the peak learning rate at ``step`` (0-based) of ``steps``; in (0, 1].

    ``warmup`` and ``decay`` are shares of the run.
    """
    rise, fall = warmup * steps, decay * steps
    up = (step + 1) / rise if rise > 0 else 1.0
    down = (steps - step) / fall if fall > 0 else 1.0
    return min(1.0, up, down)
