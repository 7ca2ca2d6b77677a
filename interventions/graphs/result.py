"""An attribution graph: nodes, direct effects, influence, what is kept, and two scores of it."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from jaxtyping import Bool, Float, Int

from lensbench.errors import ConfigError, MismatchError
from lensbench.interventions.graphs import influence
from lensbench.interventions.graphs.table import EMBEDDING, ERROR, KINDS, LATENT, LOGIT
from lensbench.results import Result
from lensbench.sites import Site

if TYPE_CHECKING:
    import pandas as pd
    import plotly.graph_objects as go

    from lensbench.interventions.graphs.check import GraphCheck
    from lensbench.interventions.graphs.coders import Coder
    from lensbench.interventions.graphs.faithful import LatentCircuitCurve
    from lensbench.models.base import Model


@dataclass(frozen=True, kw_only=True, eq=False)
class LatentGraph(Result):
    """Direct effects between the nodes of one prompt: ``value = adjacency.sum(1) + bias``.

    Nodes are active latents, errors, embeddings and logits, in this order. Effects are in the unit
    of their target: its pre-activation, or its logit less the mean logit.
    """

    prompt: tuple[str, ...]
    ids: Int[np.ndarray, " pos"]
    answers: tuple[str, ...]
    """Texts of the logits' tokens."""
    node_kind: tuple[str, ...]
    write: tuple[str, ...]
    """Site that a node writes; empty for logits."""
    read: tuple[str, ...]
    """Site that a latent reads; empty elsewhere."""
    position: Int[np.ndarray, " nodes"]
    latent: Int[np.ndarray, " nodes"]
    """Number of a latent, id of a logit's token, -1 elsewhere."""
    activation: Float[np.ndarray, " nodes"]
    """Of a latent; the norm of an error or embedding; the logit less the mean logit."""
    probability: Float[np.ndarray, " nodes"]
    """Of a logit's token; 0 elsewhere."""
    adjacency: Float[np.ndarray, "nodes nodes"]
    """``[target, source]``."""
    bias: Float[np.ndarray, " nodes"]
    value: Float[np.ndarray, " nodes"]
    """What the real model has at a target; 0 at sources."""
    written: Float[np.ndarray, "nodes d_model"]
    encoder: Float[np.ndarray, "nodes d_model"]
    offset: Float[np.ndarray, " nodes"]
    floor: Float[np.ndarray, " nodes"]

    @cached_property
    def coders(self) -> "Mapping[str, Coder]":
        """Its dictionaries by where they write; empty for a graph from disk."""
        return {}

    @property
    def n_nodes(self) -> int:
        """Number of nodes."""
        return len(self.node_kind)

    def are(self, *kinds: str) -> Bool[np.ndarray, " nodes"]:
        """Which nodes are of these kinds: ``latent``, ``error``, ``embedding``, ``logit``."""
        return np.isin(np.array(self.node_kind), kinds)

    @cached_property
    def names(self) -> tuple[str, ...]:
        """``L1 mlp_out @3 #17``: where a node writes, its token's position, its latent."""
        return tuple(self._name(i) for i in range(self.n_nodes))

    def _name(self, node: int) -> str:
        kind, position = self.node_kind[node], int(self.position[node])
        if kind == LOGIT:
            return f"logit {self.answers[node - self.n_nodes + len(self.answers)]!r}"
        if kind == EMBEDDING:
            return f"embedding @{position}"
        site = Site.parse(self.write[node])
        last = f"#{int(self.latent[node])}" if kind == LATENT else "error"
        return f"L{site.layer} {site.name} @{position} {last}"

    def node(self, kind: str, *, layer: int | None = None, position: int | None = None,
             latent: int | None = None) -> int:  # fmt: skip
        """Number of the one node of this kind, layer, position and latent.

        Raises:
            ConfigError: none, or several.
        """
        layers = [Site.parse(w).layer if w else None for w in self.write]
        found = [i for i in range(self.n_nodes) if self.node_kind[i] == kind
                 and layer in (None, layers[i]) and position in (None, int(self.position[i]))
                 and latent in (None, int(self.latent[i]))]  # fmt: skip
        if len(found) != 1:
            raise ConfigError(
                f"{len(found)} nodes are of kind {kind!r} (of {', '.join(KINDS)}), layer {layer}, "
                f"position {position}, latent {latent}; a latent that is not active is no node"
            )
        return found[0]

    def gap(self, *, without: str = "") -> float:
        """Largest ``|sum of effects + bias - value|`` of a target; ``without`` leaves a kind out.

        With all nodes it is rounding; without ``error`` it is what the dictionaries miss.
        """
        use = ~self.are(without) if without else np.ones(self.n_nodes, dtype=bool)
        total = self.adjacency[:, use].astype(np.float64).sum(1) + self.bias
        target = self.are(LATENT, LOGIT)
        return float(np.abs(total - self.value)[target].max())

    @cached_property
    def influence(self) -> Float[np.ndarray, " nodes"]:
        """Share of each node in what reaches the logits, weighted by their probabilities."""
        return influence.node_influence(self.adjacency, self.probability)

    @cached_property
    def edge_influence(self) -> Float[np.ndarray, "target source"]:
        """Share of each edge in what reaches the logits."""
        return influence.edge_influence(self.adjacency, self.probability)

    @property
    def replacement_score(self) -> float:
        """Of the influence that ends in embeddings or errors, the part in embeddings; 0 to 1."""
        return self._scores[0]

    @property
    def completeness_score(self) -> float:
        """The part of targets' inputs that is no error, averaged by their influence; 0 to 1.

        Targets are latents and logits; circuit-tracer averages over all nodes and gives more.
        """
        return self._scores[1]

    @cached_property
    def _scores(self) -> tuple[float, float]:
        kinds = (self.are(ERROR), self.are(EMBEDDING))
        return influence.scores(self.adjacency, self.probability, *kinds)

    def prune(
        self, nodes: float = 0.8, edges: float = 0.98
    ) -> tuple[Bool[np.ndarray, " nodes"], Bool[np.ndarray, "target source"]]:
        """Which nodes and edges carry these shares of the influence; embeddings and logits stay.

        Raises:
            ConfigError: a share that is not above 0 and at most 1.
        """
        nodes, edges = influence.a_share("nodes", nodes), influence.a_share("edges", edges)
        always = self.are(EMBEDDING, LOGIT)
        return influence.prune(self.adjacency, self.probability, always, self.are(LATENT),
                               nodes, edges)  # fmt: skip

    def to_frame(self, nodes: float = 0.8, edges: float = 0.98) -> "pd.DataFrame":
        """One row per kept edge, largest influence first."""
        import pandas as pd

        target, source = np.nonzero(self.prune(nodes, edges)[1])
        size = self.edge_influence[target, source]
        order = np.argsort(-size, kind="stable")
        target, source = target[order], source[order]
        frame = pd.DataFrame({
            "source": [self.names[i] for i in source], "target": [self.names[i] for i in target],
            "effect": self.adjacency[target, source].astype(np.float64), "influence": size[order],
            "source_node": source, "target_node": target,
        })  # fmt: skip
        frame.attrs["units"] = {"effect": "unit of the target", "influence": "share"}
        return frame

    def nodes_frame(self) -> "pd.DataFrame":
        """One row per node."""
        import pandas as pd

        text = [self.prompt[p] for p in self.position]
        return pd.DataFrame({
            "name": self.names, "kind": self.node_kind, "write": self.write, "token": text,
            "position": self.position, "latent": self.latent, "activation": self.activation,
            "influence": self.influence, "kept": self.prune()[0],
        })  # fmt: skip

    def summary(self) -> dict[str, float]:
        """Scores, how well the sums hold, and sizes."""
        node, edge = self.prune()
        return {
            "replacement_score": self.replacement_score,
            "completeness_score": self.completeness_score, "gap": self.gap(),
            "latents": float(self.are(LATENT).sum()), "kept_nodes": float(node.sum()),
            "kept_edges": float(edge.sum()), "left_out": float(self.config.get("left_out", 0)),
        }  # fmt: skip

    def to_json(self, nodes: float = 0.8, edges: float = 0.98) -> dict[str, Any]:
        """The pruned graph for other programs: see :mod:`lensbench.interventions.graphs.export`."""
        from lensbench.interventions.graphs.export import document

        return document(self, nodes, edges)

    def export(self, path: Path | str, nodes: float = 0.8, edges: float = 0.98) -> Path:
        """Write :meth:`to_json` to a file."""
        from lensbench import io

        io.write_json(Path(path), self.to_json(nodes, edges))
        return Path(path)

    def plot(self, nodes: float = 0.8, edges: float = 0.98) -> "go.Figure":
        """Tokens across, layers up; edges by size and sign."""
        from lensbench.interventions.graphs.export import picture

        return picture(self, nodes, edges)

    def with_codecs(self, model: "Model", codecs: Any) -> "LatentGraph":
        """This graph, read back from disk, beside its dictionaries; see :meth:`verify`.

        Raises:
            MismatchError: not the dictionaries of the graph.
        """
        from lensbench.interventions.graphs.coders import read_coders

        return beside(replace(self), read_coders(model, codecs))

    def verify(self, model: "Model", top: int = 20, random: int = 20, *, hold: bool = False,
               large: float = 0.1, seed: int = 0) -> "GraphCheck":  # fmt: skip
        """Take sources of edges out of the real model, and see what becomes of their targets.

        What a latent is by then is its dictionary's own code. A graph from disk has no dictionary:
        a latent is then on where its pre-activation is above its threshold. Where that is not the
        code (TopK), ``with_codecs`` is asked for; with ``hold`` no code is needed.
        """
        from lensbench.interventions.graphs.check import check_graph

        return check_graph(model, self, top, random, hold=hold, large=large, seed=seed)

    def faithfulness(self, model: "Model", sizes: Any = None, *, random: int = 20,
                     seed: int = 0) -> "LatentCircuitCurve":  # fmt: skip
        """Run the model with only the most influential latents, against as many random ones.

        For a graph from disk see :meth:`verify`.
        """
        from lensbench.interventions.graphs.faithful import faithfulness

        return faithfulness(model, self, sizes, random=random, seed=seed)


def beside(graph: LatentGraph, coders: "Sequence[Coder]") -> LatentGraph:
    """The graph with its dictionaries at hand; they are no part of it on disk.

    Raises:
        MismatchError: dictionaries that are not those of the graph.
    """
    by_write = {str(c.write): c for c in coders}
    for node in np.flatnonzero(graph.are(LATENT)):
        coder = by_write.get(graph.write[node])
        ours = None if coder is None else coder.encoder(int(graph.latent[node]))
        if ours is None or not np.allclose(ours, graph.encoder[node], rtol=1e-4, atol=1e-6):
            raise MismatchError(f"the graph's latents at {graph.write[node]} are of another "
                                "dictionary; give those that it was made with")  # fmt: skip
    graph.__dict__["coders"] = by_write  # as a cached property: no field, so not compared or saved
    return graph
