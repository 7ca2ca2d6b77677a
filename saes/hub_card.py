"""The card of dictionaries on the hub: what they are, measured how, and how to load them."""

import re
from collections.abc import Mapping
from typing import Any

from lensbench.saes.runs import SAERun, note_on_means
from lensbench.saes.sae import SAE

_HUB_ID = re.compile(r"[\w.-]+/[\w.-]+")


def card(named: Mapping[str, SAERun | SAE], repo: str, format: str) -> str:
    """``README.md`` of a repository: front matter, a table with a row per dictionary, usage."""
    rows = [_row(sub, one) for sub, one in named.items()]
    columns = list(rows[0])
    table = [columns, ["---"] * len(columns), *([str(row[c]) for c in columns] for row in rows)]
    runs = [one for one in named.values() if isinstance(one, SAERun)]
    note = note_on_means(run.window for run in runs)
    first = next(iter(named))
    name = f"hf://{repo}/{first}" if first else f"hf://{repo}"
    usage = f"from lensbench import saes\n\nsae = saes.load({name!r}"
    usage += f", format={format!r})" if format in ("dictionary_learning", "openai") else ")"
    lines = [
        _front([_model(one) for one in named.values()]),
        f"# {repo.split('/')[1]}",
        "",
        "Sparse dictionaries of activations, written by lensbench"
        f" (format `{format}`). Nothing here is a pickle that has to be run.",
        "",
        *(f"| {' | '.join(cells)} |" for cells in table),
        "",
        "L0: latents that fire per token. FVU: share of the variance that is not reconstructed."
        + (f" Here {note}." if note else ""),
        "",
        f"```python\n{usage}\n```",
        "",
    ]
    return "\n".join(lines)


def _row(sub: str, one: SAERun | SAE) -> dict[str, Any]:
    sae = one.sae if isinstance(one, SAERun) else one
    numbers = one.summary() if isinstance(one, SAERun) else {}
    told = {n: f"{numbers[n]:.4g}" if n in numbers else "not measured" for n in ("l0", "fvu")}
    return {
        "dictionary": f"`{sub or '.'}`",
        "site": f"`{sae.site or 'unknown'}`",
        "model": _model(one) or "unknown",
        "architecture": sae.config.get("architecture", sae.activation),
        "d_model": sae.d_model,
        "d_sae": sae.d_sae,
        "tokens": sae.metadata.get("tokens_trained", "unknown"),
        "L0": told["l0"],
        "FVU": told["fvu"],
        "status": one.status if isinstance(one, SAERun) else "",
    }


def _model(one: SAERun | SAE) -> str:
    """Name of the model; the last part of a path, which says nothing elsewhere."""
    name = str(one.metadata.get("model_name") or "")
    return name.rstrip("/").split("/")[-1] if name.startswith((".", "/", "~")) else name


def _front(models: list[str]) -> str:
    known = sorted({m for m in models if _HUB_ID.fullmatch(m)})
    base = ["base_model:", *(f"- {m}" for m in known)] if known else []
    tags = ["tags:", "- sparse-autoencoder", "- mechanistic-interpretability", "- saelens"]
    return "\n".join(["---", "library_name: lensbench", *tags, *base, "---", ""])
