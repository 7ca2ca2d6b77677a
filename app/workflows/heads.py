"""Attention heads by names: what they attend to, compose with, copy, and add to an answer."""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from lensbench import probes
from lensbench.app.workflows.answers import result_facts
from lensbench.app.workflows.live import running
from lensbench.app.workflows.patching import pairs_of
from lensbench.app.workflows.token_names import token_named
from lensbench.errors import UnknownNameError
from lensbench.tokens import token_texts

if TYPE_CHECKING:
    from lensbench.models import Model

CIRCUITS = ("ov", "qk")
_BLOCK = 512


def scores(
    model: str, *, rows: int = 16, length: int = 24, revision: str | None = None, seed: int = 0,
    top: int | None = 20, out: Path | None = None,
) -> dict[str, Any]:  # fmt: skip
    """Previous-token, duplicate-token and induction heads, on random tokens said twice.

    Raises:
        LensbenchError: see :func:`lensbench.probes.head_scores`.
    """
    with running(model, revision) as opened:
        found = probes.head_scores(opened, rows=rows, length=length, seed=seed)
    return result_facts(model, found, out, top=top, by="score")


def composition(
    model: str, *, n_random: int = 200, revision: str | None = None, seed: int = 0,
    top: int | None = 20, out: Path | None = None,
) -> dict[str, Any]:  # fmt: skip
    """Q-, K- and V-composition of every pair of heads, beside Gaussian heads.

    Raises:
        LensbenchError: see :func:`lensbench.probes.composition_scores`.
    """
    with running(model, revision) as opened:
        found = probes.composition_scores(opened, n_random=n_random, seed=seed)
    return result_facts(model, found, out, top=top, by="excess")


def logits(
    model: str, task: str, *, pairs: str = "", n: int = 32, position: int = -1,
    verify: bool = False, revision: str | None = None, seed: int = 0, top: int | None = 20,
    out: Path | None = None,
) -> dict[str, Any]:  # fmt: skip
    """What every head and MLP adds to the answer's logit over the foil's; ``verify`` takes it out.

    Raises:
        LensbenchError: see :func:`lensbench.probes.direct_logit_attribution`.
    """
    with running(model, revision) as opened:
        asked = pairs_of(opened, task, n, seed, pairs)
        found = probes.direct_logit_attribution(
            opened, asked.clean, asked.answer, asked.foil, position=position, seed=seed
        )
        facts = result_facts(model, found, out, top=top, by="share", task=asked.task)
        if verify:
            done = found.verify(opened, asked.clean, seed=seed)
            where = None if out is None else out / "verified"
            facts["verified"] = result_facts(model, done, where)
    return facts


@torch.no_grad()
def circuit(
    model: str, layer: int, head: int, *, kind: str = "ov", tokens: Sequence[str] = (),
    top: int = 5, revision: str | None = None, seed: int = 0,
) -> dict[str, Any]:  # fmt: skip
    """What one head says for a token it attends to (``ov``), or looks for from one (``qk``).

    Rows: each token with what it raises most. ``copying`` is the share of tokens of which the
    largest entry of their row is their own; its control, the same of rows dealt anew, is chance.

    Raises:
        UnknownNameError: another circuit.
        LensbenchError: see :func:`lensbench.probes.full_ov_circuit`.
    """
    if kind not in CIRCUITS:
        raise UnknownNameError("circuit", kind, known=CIRCUITS)
    read = probes.full_ov_circuit if kind == "ov" else probes.full_qk_circuit
    with running(model, revision) as opened:
        found = read(opened, layer, head)
        left, right = (m.detach().float().cpu() for m in (found.A, found.B))
        own = (left * right.T).sum(1)
        asked = [token_named(opened.tokenizer, word) for word in tokens]
        chosen = asked or own.argsort(descending=True)[:10].tolist()
        rows = _rows(opened, left, right, chosen, top)
    best = torch.cat([(part @ right).argmax(1) for part in left.split(_BLOCK)]).numpy()
    dealt = np.random.default_rng(seed).permutation(len(best))
    copied = float((best == np.arange(len(best))).mean())
    chance = float((best == dealt).mean())
    unit = "logits" if kind == "ov" else "scores"
    return {
        "model": model, "circuit": kind, "layer": layer, "head": head, "rows": rows,
        "of": len(rows), "units": dict.fromkeys(("own", "largest", "smallest"), unit),
        "summary": {"copying": copied, "mean own entry": float(own.mean()),
                    "mean entry": float(left.mean(0) @ right.mean(1)), "n": len(best)},
        "controls": {"copying, rows dealt anew": chance},
        "control": f"rows dealt to other tokens: copying {chance:.4f}; n {len(best)} tokens",
    }  # fmt: skip


def _rows(
    model: "Model", left: torch.Tensor, right: torch.Tensor, ids: Sequence[int], top: int
) -> list[dict[str, Any]]:
    told: list[dict[str, Any]] = []
    names = token_texts(model.tokenizer, list(ids))
    for i, name in zip(ids, names, strict=True):
        entries = left[i] @ right
        high, low = entries.topk(top), (-entries).topk(top)
        words = [token_texts(model.tokenizer, part.indices.tolist()) for part in (high, low)]
        told.append({"token": name, "own": float(entries[i]), "most": ", ".join(words[0]),
                     "least": ", ".join(words[1]), "largest": float(high.values[0]),
                     "smallest": -float(low.values[0])})  # fmt: skip
    return told
