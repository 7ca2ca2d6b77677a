"""``lensbench savings``: what could be left out, told from stored states or tried on texts."""

from typing import Annotated

import typer

from lensbench.app.cli import savings_drafts, savings_models
from lensbench.app.cli.console import Answer, table
from lensbench.app.cli.groups import ModelOption, RevisionOption, new_group
from lensbench.app.cli.numbers import floats
from lensbench.app.cli.results import result_answer
from lensbench.app.cli.saving_options import (
    MODEL,
    DocumentsOption,
    KeepOption,
    NewOption,
    OutOption,
    PromptsOption,
    SeedOption,
    StoreOption,
    TextsOption,
)


def group() -> typer.Typer:
    """The commands of this file, and those of drafts."""
    app = new_group("What could be left out: layers, neurons, keys, drafts. Nothing is timed here.")
    for command in (stages, robustness, routes, similarity, exits, depth, sparsity, keys):
        app.command(command.__name__)(command)
    savings_drafts.add_to(app)
    savings_models.add_to(app)
    return app


def stages(
    prompts: TextsOption,
    model: ModelOption = MODEL,
    revision: RevisionOption = None,
    out: OutOption = None,
) -> Answer:
    """Measure every layer on texts: what tells the stages of inference apart."""
    from lensbench.app.workflows import savings

    ask = savings.SavingAsk(model, revision, prompts=prompts, out=out)
    return result_answer(savings.of_text("stages", ask))


def robustness(
    prompts: TextsOption,
    model: ModelOption = MODEL,
    revision: RevisionOption = None,
    out: OutOption = None,
) -> Answer:
    """Delete every layer and swap every pair of neighbours: what changes in the predictions."""
    from lensbench.app.workflows import savings

    ask = savings.SavingAsk(model, revision, prompts=prompts, out=out)
    return result_answer(savings.of_text("robustness", ask), _ROUTE)


_ROUTE = ("route", "layers", "agreement", "agreement_low", "agreement_high", "kl", "perplexity",
          "n_tokens", "n_documents")  # fmt: skip


def routes(
    prompts: TextsOption,
    skip: Annotated[
        list[str] | None,
        typer.Option("--skip", help="Layers that do not run, such as 2,3. Repeatable."),
    ] = None,
    swap: Annotated[
        list[int] | None, typer.Option("--swap", help="This layer and the next, exchanged.")
    ] = None,
    last: Annotated[
        list[int] | None, typer.Option("--last", help="So many last layers do not run.")
    ] = None,
    model: ModelOption = MODEL,
    revision: RevisionOption = None,
    out: OutOption = None,
) -> Answer:
    """Run chosen routes past layers, and compare their predictions with the full model's."""
    from lensbench.app.workflows import savings

    ask = savings.SavingAsk(model, revision, prompts=prompts, out=out)
    return result_answer(
        savings.routes(ask, skips=skip or (), swaps=swap or (), last=last or ()), _ROUTE
    )


def similarity(
    store: StoreOption = "",
    prompts: PromptsOption = "",
    model: ModelOption = MODEL,
    revision: RevisionOption = None,
    new_tokens: NewOption = 48,
    keep: KeepOption = "",
    out: OutOption = None,
    seed: SeedOption = 0,
) -> Answer:
    """Tell how much each layer, attention and MLP turns the stream (block influence)."""
    from lensbench.app.workflows import savings

    ask = savings.SavingAsk(model, revision, store, prompts, new_tokens, keep, out, seed)
    return result_answer(savings.of_store("similarity", ask))


def exits(
    store: StoreOption = "",
    prompts: PromptsOption = "",
    model: ModelOption = MODEL,
    revision: RevisionOption = None,
    measures: Annotated[
        str,
        typer.Option(
            "--measures",
            help="softmax_max, softmax_diff, entropy, state; several with commas; default: all.",
        ),
    ] = "",
    bins: Annotated[int, typer.Option("--bins", min=1, help="Of confidence.")] = 10,
    new_tokens: NewOption = 48,
    keep: KeepOption = "",
    out: OutOption = None,
    seed: SeedOption = 0,
) -> Answer:
    """Sweep thresholds of early exit: layers saved, agreement kept, confidence against truth."""
    from lensbench.app.workflows import savings

    ask = savings.SavingAsk(model, revision, store, prompts, new_tokens, keep, out, seed)
    chosen = [savings.known_measure(m) for m in measures.replace(",", " ").split()]
    facts = savings.exits(ask, measures=chosen, bins=bins)
    shown = ("measure", "threshold", "layers", "agreement", "agreement_low", "agreement_high",
             "kl", "n")  # fmt: skip
    found = result_answer(facts, shown)
    told = facts["calibration"]
    return Answer(facts, f"{found.text}\n\nis confidence right?\n{table(told['rows'])}")


def depth(
    store: StoreOption = "",
    prompts: PromptsOption = "",
    model: ModelOption = MODEL,
    revision: RevisionOption = None,
    capacities: Annotated[
        str, typer.Option("--capacities", help="Shares of tokens that a routed block keeps.")
    ] = "0.25,0.5,0.75",
    keys: Annotated[
        str, typer.Option("--keys", help="Tokens that pass by leave keys: kept (none) or all.")
    ] = "kept",
    max_documents: DocumentsOption = 16,
    new_tokens: NewOption = 48,
    keep: KeepOption = "",
    out: OutOption = None,
    seed: SeedOption = 0,
) -> Answer:
    """Route tokens past blocks by an oracle and at random (mixture of depths)."""
    from lensbench.app.workflows import savings

    ask = savings.SavingAsk(model, revision, store, prompts, new_tokens, keep, out, seed)
    found = savings.of_store("depth", ask, floats(capacities, "--capacities"),
                             keys=savings.known_keys(keys),
                             max_documents=max_documents)  # fmt: skip
    return result_answer(found)


def sparsity(
    store: StoreOption = "",
    prompts: PromptsOption = "",
    model: ModelOption = MODEL,
    revision: RevisionOption = None,
    thresholds: Annotated[
        str, typer.Option("--thresholds", help="Neurons below are silenced; at least 0.")
    ] = "0,0.01,0.05,0.1",
    max_documents: DocumentsOption = 16,
    new_tokens: NewOption = 48,
    keep: KeepOption = "",
    out: OutOption = None,
    seed: SeedOption = 0,
) -> Answer:
    """Count silent neurons, and silence the weak ones: what it saves and what it costs."""
    from lensbench.app.workflows import savings

    ask = savings.SavingAsk(model, revision, store, prompts, new_tokens, keep, out, seed)
    found = savings.of_store("sparsity", ask, floats(thresholds, "--thresholds"),
                             max_documents=max_documents)  # fmt: skip
    return result_answer(found)


def keys(
    prompts: TextsOption,
    model: ModelOption = MODEL,
    revision: RevisionOption = None,
    budgets: Annotated[
        str, typer.Option("--budgets", help="Shares of a text's keys that are kept, up to 1.")
    ] = "0.2,0.5,1",
    recent: Annotated[
        float, typer.Option("--recent", min=0, max=1, help="Share of them for the last keys.")
    ] = 0.5,
    out: OutOption = None,
    seed: SeedOption = 0,
) -> Answer:
    """Keep only the keys that are looked at most (heavy hitters), beside random ones."""
    from lensbench.app.workflows import savings

    ask = savings.SavingAsk(model, revision, prompts=prompts, out=out)
    found = savings.of_text("keys", ask, floats(budgets, "--budgets"), recent=recent, seed=seed)
    return result_answer(found)
