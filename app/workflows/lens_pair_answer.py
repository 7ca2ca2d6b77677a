"""Two texts and a state between them on the command line: the same request as a page's, as facts.

What is measured is :mod:`lensbench.app.workflows.lens_pair`; here it is asked for by options.
"""

import shlex
from dataclasses import replace
from pathlib import Path
from typing import Any

from lensbench.app.workflows import lens_pair as pairs
from lensbench.app.workflows.answers import rows_of_frame, saved_in
from lensbench.app.workflows.lens_pair import SITES, PairAsk, Put
from lensbench.app.workflows.lens_pair_figures import Change, ends_table
from lensbench.app.workflows.live import running
from lensbench.errors import ConfigError, UnknownNameError

METRICS = ("target_prob", "target_rank", "top_prob", "entropy", "kl_to_final")
RUNS = {"first": ("first", False, "patch"), "second": ("second", False, "patch"),
        "patched": ("second", True, "patch"), "control": ("second", True, "random")}  # fmt: skip
"""Lenses that are drawn and saved: of which text, with the state put, and which one."""


def command_of(ask: PairAsk, put: Put, metric: str = METRICS[0]) -> str:
    """``lensbench lens pair`` of a request, every place named."""
    words = ["lensbench", "lens", "pair", "--model", ask.model, "--prompt", ask.first,
             "--into", ask.second, "--from-token", put.source, "--from-block", put.source_layer,
             "--into-token", put.position, "--into-block", put.layer]  # fmt: skip
    usual = Put(0, 0, 0, 0)
    words += ["--state", put.site] if put.site != usual.site else []
    words += ["--strength", f"{put.strength:g}"] if put.strength != usual.strength else []
    words += ["--seed", put.seed] if put.seed else []
    words += ["--token", ask.token] if ask.token else []
    words += ["--tuned", ask.lens] if ask.lens else []
    words += ["--metric", metric] if metric != METRICS[0] else []
    return shlex.join(map(str, words))


def facts(
    ask: PairAsk, put: Put | None = None, *, metric: str = METRICS[0], out: Path | None = None,
    **places: Any,
) -> dict[str, Any]:  # fmt: skip
    """What every run says after its last token, the change of every cell, and the checks.

    ``places`` are fields of a :class:`Put`, where none is given: a token counts from the end where
    it is negative, and is the last one that differs where it is None; a block is the first one.

    Raises:
        ConfigError: a token, block or strength that is not there.
        UnknownNameError: another state or metric.
        LensbenchError: see :func:`lensbench.app.workflows.lens_pair.lens_of`.
    """
    from lensbench.app.workflows.reading import refuse_unknown

    with running(ask.model) as model:
        for text in (ask.first, ask.second):
            refuse_unknown(model, text)
    put = put or _put(ask, **places)
    for kind, given, known in (("state", put.site, tuple(SITES)), ("metric", metric, METRICS)):
        if given not in known:
            raise UnknownNameError(kind, given, known=known)
    if not 0 <= put.strength <= 1:
        raise ConfigError(f"--strength {put.strength:g}: 0 leaves the text's own state, 1 puts the "
                          "other one; give a number between them")  # fmt: skip
    change, checked = Change.of(ask, put, metric), pairs.unchanged(ask, put)
    table = ends_table(ask, put)
    told: dict[str, Any] = {}
    for name, (which, with_put, kind) in RUNS.items():
        lens = pairs.lens_of(ask, which, put if with_put else None, kind)
        told |= saved_in(lens, out and out / name, {"metric": metric})
    by_run: Any = table.set_index("run")
    kl = by_run["kl"]
    patched, control = "second text, patched", "control: random state"
    return {
        "model": ask.model, "scored": str(table["scored"].iloc[0]), "put": vars(put),
        "rows": rows_of_frame(table.drop(columns="scored")), "of": len(table),
        "units": {"probability": "of the scored token", "kl": "KL(second text ‖ this run) [nats]"},
        "metric": metric, "cells": rows_of_frame(change.frame),
        "alignment": rows_of_frame(pairs.alignment(ask).astype(object)),
        "summary": {
            "change of the probability": float(by_run.loc[patched, "probability"]
                                               - by_run.loc["second text", "probability"]),
            "kl": float(kl[patched]),
            "largest change out of reach": change.outside,
            "logits moved by its own state put back": checked,
            "pairs of texts": 1.0,
        },
        "controls": {"kl of a random state": float(kl[control])},
        "control": "a random state of the same length at the same cell",
        **({"saved": str(out)} if out and told else {}),
    }  # fmt: skip


def _put(ask: PairAsk, *, source: int | None, position: int | None, **rest: Any) -> Put:
    first, second = pairs.start(ask)
    put = Put(first if source is None else source, rest.pop("source_layer"),
              second if position is None else position, **rest)  # fmt: skip
    with running(ask.model) as model:
        counts = [model.tokens(text).n_pos for text in (ask.first, ask.second)]
    a, b = (i + n if i < 0 else i for i, n in zip((put.source, put.position), counts, strict=True))
    return replace(put, source=a, position=b)
