"""Python that patches as the page does, with nothing but the library's own calls."""

from lensbench.app.workflows.patch_cell import OTHERS, STEPS
from lensbench.app.workflows.patching import PatchAsk, positions_of, python_of


def baselines_code(ask: PatchAsk, index: int) -> str:
    """Python that draws a place beside the runs it lies between."""
    sweep = python_of(ask).rstrip().removesuffix("result.plot()")
    return (
        f"from lensbench import plots\n{sweep}"
        f"frame = result.beside({index})\n"
        'plots.bars(frame, x="run", y="value", title="Beside its baselines")\n'
    )


def checked_code(ask: PatchAsk, method: str, top: int = 10, random: int = 20) -> str:
    """Python that estimates every patch, and draws the estimates beside patches."""
    first = python_of(ask).partition("result = ")[0]
    at = f", positions={positions_of(ask.positions)!r}" if ask.positions else ""
    return (
        f"{first}"
        f"result = interventions.attribute(model, pairs, {list(ask.sites)!r}, method={method!r}, "
        f"direction={ask.how!r},\n    metric={ask.metric!r}{at}, seed={ask.seed})\n"
        f"check = result.verify(model, pairs, top={top}, random={random}, seed={ask.seed})\n"
        "check.plot()\n"
    )


def held_out_code(ask: PatchAsk, index: int, seed: int = 1) -> str:
    """Python that patches a place, and its controls, on pairs that the map has not seen."""
    sweep = python_of(ask).rstrip().removesuffix("result.plot()")
    return (
        f"{sweep}"
        f"more = prompts.{ask.task}(model, n={2 * ask.n}, seed={ask.seed + seed})\n"
        "seen = set(pairs.clean_ids)\n"
        f"new = [i for i, ids in enumerate(more.clean_ids) if ids not in seen][:{ask.n}]\n"
        f"check = result.verify(model, more.select(new), {index}, others={OTHERS}, "
        f"steps={STEPS}, seed={seed})\n"
        "check.frame\n"
    )
