"""``lensbench lens pair``: a state of one text put into another, beside a random state."""

from pathlib import Path
from typing import Annotated

import typer

from lensbench.app.cli.console import Answer
from lensbench.app.cli.groups import ModelOption, OutOption, SeedOption
from lensbench.app.cli.results import result_answer

SHOWN = ("run", "probability", "rank", "kl", "most probable")
_BLOCK = "Block behind which it "


def pair(
    model: ModelOption,
    prompt: Annotated[str, typer.Option("--prompt", help="The text the state comes from.")],
    into: Annotated[str, typer.Option("--into", help="The text it is put into.")],
    source: Annotated[
        int | None,
        typer.Option(
            "--from-token",
            help="Token of --prompt (from 0; negative: from the end); default: the last one that "
            "differs.",
        ),
    ] = None,
    source_layer: Annotated[
        int, typer.Option("--from-block", min=0, help=f"{_BLOCK}is taken.")
    ] = 0,
    position: Annotated[
        int | None, typer.Option("--into-token", help="Token of --into, likewise.")
    ] = None,
    layer: Annotated[int, typer.Option("--into-block", min=0, help=f"{_BLOCK}is put.")] = 0,
    state: Annotated[
        str, typer.Option("--state", help="resid_post, attn_out or mlp_out.")
    ] = "resid_post",
    strength: Annotated[
        float, typer.Option("--strength", help="0 changes nothing, 1 puts the whole state.")
    ] = 1.0,
    token: Annotated[
        str, typer.Option("--token", help="Token to score; default: what is said after --prompt.")
    ] = "",
    tuned: Annotated[
        Path | None, typer.Option("--tuned", help="Folder of a tuned lens to read with.")
    ] = None,
    metric: Annotated[
        str,
        typer.Option(
            "--metric", help="Of cells: target_prob, target_rank, top_prob, entropy, kl_to_final."
        ),
    ] = "target_prob",
    seed: SeedOption = 0,
    out: OutOption = None,
) -> Answer:
    """Put a state of one text into another and read both runs, beside a random state."""
    from lensbench.app.workflows.lens_pair import PairAsk
    from lensbench.app.workflows.lens_pair_answer import facts as read

    ask = PairAsk(model, prompt, into, str(tuned or ""), token)
    facts = read(ask, metric=metric, out=out, source=source, source_layer=source_layer,
                 position=position, layer=layer, site=state, strength=strength,
                 seed=seed)  # fmt: skip
    put = facts["put"]
    head = (f"{put['site']} of token {put['source']} after block {put['source_layer']} into token "
            f"{put['position']} after block {put['layer']}; scored: {facts['scored']!r}"
            )  # fmt: skip
    return result_answer(facts, SHOWN, head)
