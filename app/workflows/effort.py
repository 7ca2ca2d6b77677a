"""How long work on a model will take, from passes of its own prompts that are timed now.

1. The prompts are run ``SOME`` at once, three times over, and the quickest counts; where even two
   of them take long, those two are all that is run.
2. What a request does is counted in such passes of one prompt. How many a step of a method is
   worth was measured on ``atlas-dense``: a patch 0.5 to 0.9 with all that is around it.
"""

import time
from dataclasses import dataclass
from typing import TYPE_CHECKING

from lensbench.app.workflows.live import Shelf

if TYPE_CHECKING:
    from lensbench.models import Model
    from lensbench.tokens import Tokens

AT_ONCE = 5.0
"""Seconds up to which a reader waits; longer work is a process of its own."""
FEW, SOME, TIMES = 2, 32, 3
"""Prompts of the first timing and of the second, and how often each is done."""
SLOW = 0.05
"""Seconds a prompt above which the first timing is enough."""
_SIZE = 8
"""Prompts whose lengths differ by fewer tokens take as long."""
_timed: "Shelf[float]" = Shelf(64)


@dataclass(frozen=True)
class Effort:
    """Passes of one prompt, and what each takes."""

    passes: int
    each: float
    """Seconds."""

    @property
    def seconds(self) -> float:
        """All of them."""
        return self.passes * self.each

    @property
    def short(self) -> bool:
        """Whether a reader can wait for it."""
        return self.seconds <= AT_ONCE

    @property
    def told(self) -> str:
        """The estimate, and how it was made."""
        return (f"about {_spent(self.seconds)}: as long as {self.passes:,} passes of a prompt, "
                f"{self.each * 1e3:.2g} ms each as timed here")  # fmt: skip


def effort(model: "Model", prompts: "Tokens", passes: float) -> Effort:
    """What ``passes`` passes of one of ``prompts`` take; the model is run a few times."""
    card = model.card
    key = (card.name, card.fingerprint, prompts.n_pos // _SIZE)
    return Effort(max(1, round(passes)), _timed.get(key, lambda: _time(model, prompts)))


def _time(model: "Model", prompts: "Tokens") -> float:
    """Seconds of one prompt in a batch."""
    few = _quickest(model, prompts, FEW)
    return few if few > SLOW else _quickest(model, prompts, SOME)


def _quickest(model: "Model", prompts: "Tokens", n: int) -> float:
    from lensbench.interventions.patching.engine import pick_rows

    some = pick_rows(prompts, [i % prompts.n_rows for i in range(n)])
    spent: list[float] = []
    for _ in range(TIMES):
        # Where a processor computes, our own thread's time: nothing else that goes on counts.
        began = time.perf_counter(), time.thread_time()
        logits = model.run(some, logits="last").logits
        assert logits is not None
        logits.cpu()  # a GPU is done when they are here
        ended = time.perf_counter(), time.thread_time()
        here = logits.device.type == "cpu"
        spent.append((ended[here] - began[here]) / n)
        if spent[-1] > SLOW:
            break
    return min(spent)


def _spent(seconds: float) -> str:
    if seconds < 100:
        return f"{max(seconds, 1):.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 6000 else f"{seconds / 3600:.1f} h"
