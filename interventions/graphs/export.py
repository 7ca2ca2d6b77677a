"""A pruned graph as JSON for other programs, and as a picture.

The JSON document (schema 1)::

    {"format": "lensbench.latent_graph", "schema": 1,
     "model": {"name", "fingerprint"}, "dictionaries": [[name, read, write], ...],
     "prompt": [text of each token], "token_ids": [...],
     "scores": {"replacement", "completeness", "gap", "left_out"},
     "pruning": {"nodes", "edges"},                       # shares of the influence that were kept
     "nodes": [{"id", "name", "kind", "write", "read", "position", "token", "latent",
                "activation", "influence", "bias", "probability"}, ...],
     "edges": [{"source", "target", "effect", "influence"}, ...]}

``id``, ``source`` and ``target`` are numbers of nodes in the whole graph. ``kind`` is ``latent``,
``error``, ``embedding`` or ``logit``; ``latent`` is the id of a logit's token, -1 where there is
none; an absent site is "".
Effects of one target do not add up to it here: the edges that were pruned are missing.
"""

from typing import TYPE_CHECKING, Any

import numpy as np

from lensbench.interventions.graphs.table import EMBEDDING, LOGIT
from lensbench.sites import Site

if TYPE_CHECKING:
    import plotly.graph_objects as go

    from lensbench.interventions.graphs.result import LatentGraph

FORMAT, SCHEMA = "lensbench.latent_graph", 1


def document(graph: "LatentGraph", nodes: float, edges: float) -> dict[str, Any]:
    """See the module."""
    kept, lines = graph.prune(nodes, edges)
    model = graph.provenance.model
    return {
        "format": FORMAT, "schema": SCHEMA,
        "model": {"name": model.get("name", ""), "fingerprint": model.get("fingerprint", "")},
        "dictionaries": graph.config.get("dictionaries", []),
        "prompt": list(graph.prompt), "token_ids": graph.ids.tolist(),
        "scores": {"replacement": graph.replacement_score,
                   "completeness": graph.completeness_score, "gap": graph.gap(),
                   "left_out": int(graph.config.get("left_out", 0))},
        "pruning": {"nodes": nodes, "edges": edges},
        "nodes": [_node(graph, int(i)) for i in np.flatnonzero(kept)],
        "edges": [{"source": int(s), "target": int(t), "effect": float(graph.adjacency[t, s]),
                   "influence": float(graph.edge_influence[t, s])}
                  for t, s in np.argwhere(lines)],
    }  # fmt: skip


def _node(graph: "LatentGraph", i: int) -> dict[str, Any]:
    return {
        "id": i, "name": graph.names[i], "kind": graph.node_kind[i], "write": graph.write[i],
        "read": graph.read[i], "position": int(graph.position[i]), "token": _token(graph, i),
        "latent": int(graph.latent[i]), "activation": float(graph.activation[i]),
        "influence": float(graph.influence[i]), "bias": float(graph.bias[i]),
        "probability": float(graph.probability[i]),
    }  # fmt: skip


def _token(graph: "LatentGraph", i: int) -> str:
    if graph.node_kind[i] == LOGIT:
        return graph.answers[i - graph.n_nodes + len(graph.answers)]
    return graph.prompt[int(graph.position[i])]


def picture(graph: "LatentGraph", nodes: float, edges: float) -> "go.Figure":
    """The pruned graph, tokens across and layers up."""
    import pandas as pd

    from lensbench.plots import network

    kept, lines = graph.prune(nodes, edges)
    shown = kept & (lines.any(0) | lines.any(1))
    numbers = np.flatnonzero(shown)
    rows = _rows(graph)
    frame = pd.DataFrame({
        "node": numbers, "name": [graph.names[i] for i in numbers],
        "kind": [graph.node_kind[i] for i in numbers],
        "token": [_token(graph, int(i)) for i in numbers],
        "position": graph.position[numbers], "row": [rows[_row(graph, int(i))] for i in numbers],
        "activation": graph.activation[numbers], "influence": graph.influence[numbers],
        "share": (graph.influence + graph.probability)[numbers],
    })  # fmt: skip
    target, source = np.nonzero(lines)
    links = pd.DataFrame({"source": source, "target": target,
                          "weight": graph.adjacency[target, source].astype(np.float64),
                          "influence": graph.edge_influence[target, source]})  # fmt: skip
    scores = f"replacement {graph.replacement_score:.2f}, completeness "
    return network(
        frame, links, key="node", x="position", y="row", color="kind",
        hover_columns=("name", "token", "activation", "influence"), size="share",
        weight="weight", strength="influence", x_title="token", y_title="",
        x_labels=dict(enumerate(graph.prompt)), y_labels={v: k for k, v in rows.items()},
        title=f"Latents behind {graph.answers[0]!r}",
        subtitle=f"{len(numbers)} of {graph.n_nodes} nodes, {len(links)} edges; {scores}"
        f"{graph.completeness_score:.2f}; orange raises, blue lowers",
    )  # fmt: skip


def _row(graph: "LatentGraph", i: int) -> str:
    if graph.node_kind[i] in (EMBEDDING, LOGIT):
        return graph.node_kind[i]
    site = Site.parse(graph.write[i])
    return f"L{site.layer} {site.name}"


def _rows(graph: "LatentGraph") -> dict[str, int]:
    """Embeddings below, sites in the order of the pass, logits on top."""
    sites = sorted({Site.parse(w) for w, k in zip(graph.write, graph.node_kind, strict=True)
                    if k not in (EMBEDDING, LOGIT)})  # fmt: skip
    names = [EMBEDDING, *(f"L{s.layer} {s.name}" for s in sites), LOGIT]
    return {name: i for i, name in enumerate(names)}
