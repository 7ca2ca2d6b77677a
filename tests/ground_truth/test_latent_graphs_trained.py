"""Graphs of really trained transcoders on the bundled model, beside what the model does.

Thresholds and seeds were fixed before the first run on these prompts; every prompt is reported in
the message of a failure.
"""

import numpy as np
import pytest

from lensbench import load_model, prompts

TOKENS, PROMPTS = 60_000, 4


@pytest.fixture(scope="module")
def model():
    return load_model("atlas-dense")


@pytest.fixture(scope="module")
def transcoders(model):
    """A transcoder of every MLP, TopK 16 of 512."""
    from lensbench import saes
    from lensbench.harvest import live_source
    from lensbench.worlds.atlas import Atlas

    layers = range(model.n_layers)
    entries = [{"architecture": "topk", "name": f"layer{i}", "k": 16, "d_sae": 512, "lr": 3e-3,
                "site": f"blocks.{i}.mlp.in", "target": f"blocks.{i}.mlp_out"}
               for i in layers]  # fmt: skip
    sites = [entry[end] for entry in entries for end in ("site", "target")]
    text = Atlas(0).sample(TOKENS // 9, "all", 0)
    source = live_source(model, text, sites, context=model.card.n_ctx, exclude_special=True,
                         layout="pad")  # fmt: skip
    train = {"tokens": TOKENS, "batch_size": 1024, "log_every": 10, "engine": "dense"}
    sweep = {"train": train, "sweep": entries}
    return saes.train(source, sweep, device="cpu", progress=False)


@pytest.mark.slow
def test_graphs_of_trained_transcoders_foretell_ablations_and_circuits(model, transcoders) -> None:
    from lensbench.interventions import attribution_graph

    pairs = prompts.agreement(model, PROMPTS, 7)
    rows: list[dict[str, float]] = []
    for ids in pairs.clean_ids:
        graph = attribution_graph(model, list(ids), transcoders)
        check = graph.verify(model, top=40, random=40)
        quarter = int(graph.are("latent").sum()) // 4
        curve = graph.faithfulness(model, [quarter], random=5)
        rows.append({
            "free": check.correlation(), "control": check.correlation("other"),
            "held": graph.verify(model, top=40, random=40, hold=True).correlation(),
            "circuit": float(curve.faithfulness[0]),
            "random": float(curve.random_faithfulness.mean()),
            "gap": graph.gap() / float(np.abs(graph.value).max()),
            "replacement": graph.replacement_score,
        })  # fmt: skip
    mean = {name: float(np.mean([row[name] for row in rows])) for name in rows[0]}
    assert max(row["gap"] for row in rows) < 1e-4, rows
    assert min(row["held"] for row in rows) > 0.99, rows
    assert mean["free"] > 0.4, rows
    assert abs(mean["control"]) < 0.3, rows
    assert mean["circuit"] > mean["random"] + 0.4, rows
    assert mean["circuit"] > 0.7, rows
    assert 0.2 < mean["replacement"] < 1, rows
