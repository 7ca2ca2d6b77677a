"""``lensbench savings`` of drafts: lengths, acceptance, transfer, skips, kangaroo, samples."""

from pathlib import Path
from typing import Annotated, Any

import typer

from lensbench.app.cli.console import Answer, Progress
from lensbench.app.cli.groups import ModelOption, RevisionOption
from lensbench.app.cli.numbers import floats
from lensbench.app.cli.results import result_answer
from lensbench.app.cli.saving_options import (
    MODEL,
    DocumentsOption,
    ExitOption,
    KeepOption,
    MostOption,
    NewOption,
    OutOption,
    PromptsOption,
    SeedOption,
    StoreOption,
    TestOption,
    TextsOption,
    TopOption,
)


def add_to(app: Any) -> None:
    """Register the commands of this file."""
    for command in (lengths, acceptance, transfer, skips, kangaroo, samples):
        app.command(command.__name__)(command)


def lengths(
    exit_layer: Annotated[
        int,
        typer.Option("--exit", min=0, help="Layers of the draft, 1 to one less than there are."),
    ] = 0,
    draft_model: Annotated[
        str, typer.Option("--draft-model", help="Or a second model that drafts, instead of --exit.")
    ] = "",
    store: StoreOption = "",
    prompts: PromptsOption = "",
    model: ModelOption = MODEL,
    revision: RevisionOption = None,
    thresholds: Annotated[
        str, typer.Option("--thresholds", help="Chances below which a draft stops.")
    ] = "0.3,0.5,0.7,0.9",
    most: MostOption = 8,
    test: TestOption = 0.5,
    new_tokens: NewOption = 48,
    keep: KeepOption = "",
    out: OutOption = None,
    seed: SeedOption = 0,
) -> Answer:
    """Learn when a draft should stop, beside fixed lengths and moved labels."""
    from lensbench.app.workflows import draft_models, savings
    from lensbench.errors import ConfigError

    if bool(exit_layer) == bool(draft_model):
        raise ConfigError(
            "say who drafts: --exit LAYER (the model's first layers) or --draft-model"
        )
    ask = savings.SavingAsk(model, revision, store, prompts, new_tokens, keep, out, seed)
    how: dict[str, Any] = {"most": most, "test": test,
                           "thresholds": floats(thresholds, "--thresholds")}  # fmt: skip
    if draft_model:
        return result_answer(draft_models.lengths_of(ask, draft_model, **how))
    return result_answer(savings.of_store("lengths", ask, exit_layer, **how))


def acceptance(
    exit_layer: ExitOption,
    store: StoreOption = "",
    prompts: PromptsOption = "",
    model: ModelOption = MODEL,
    revision: RevisionOption = None,
    thresholds: Annotated[
        str, typer.Option("--thresholds", help="Chances of rejection at which a draft stops.")
    ] = "0.1,0.3,0.5,0.7,0.9",
    depth: Annotated[int, typer.Option("--depth", min=0, help="Residual blocks of the head.")] = 1,
    most: MostOption = 20,
    test: TestOption = 0.5,
    max_documents: DocumentsOption = 64,
    new_tokens: NewOption = 48,
    keep: KeepOption = "",
    out: OutOption = None,
    seed: SeedOption = 0,
) -> Answer:
    """Fit a head that foretells whether a drafted token is accepted, and judge it."""
    from lensbench.app.workflows import savings

    ask = savings.SavingAsk(model, revision, store, prompts, new_tokens, keep, out, seed)
    found = savings.of_store(
        "acceptance", ask, exit_layer, thresholds=floats(thresholds, "--thresholds"), depth=depth,
        most=most, test=test, max_documents=max_documents,
    )  # fmt: skip
    return result_answer(found)


def transfer(
    store: StoreOption = "",
    prompts: PromptsOption = "",
    model: ModelOption = MODEL,
    revision: RevisionOption = None,
    layers: Annotated[
        str, typer.Option("--layers", help="Layers run before the transfer, such as 2,4.")
    ] = "",
    ahead: Annotated[int, typer.Option("--ahead", min=1, help="Tokens drafted ahead.")] = 2,
    penalty: Annotated[float, typer.Option("--penalty", help="Of the ridge.")] = 1e-3,
    test: TestOption = 0.5,
    max_documents: DocumentsOption = 64,
    new_tokens: NewOption = 48,
    keep: KeepOption = "",
    out: OutOption = None,
    seed: SeedOption = 0,
) -> Answer:
    """Map a token's state to those of later tokens and draft with them (hidden transfer)."""
    from lensbench.app.workflows import savings
    from lensbench.app.workflows.patching import numbers

    ask = savings.SavingAsk(model, revision, store, prompts, new_tokens, keep, out, seed)
    found = savings.of_store("transfer", ask, numbers(layers, "layers"), ahead=ahead,
                             penalty=penalty, test=test, max_documents=max_documents)  # fmt: skip
    return result_answer(found)


def skips(
    prompts: TextsOption,
    model: ModelOption = MODEL,
    revision: RevisionOption = None,
    new_tokens: NewOption = 32,
    trials: Annotated[int, typer.Option("--trials", min=2, help="Candidates to score.")] = 100,
    objective: Annotated[
        str, typer.Option("--objective", help="passes (counted) or seconds (measured).")
    ] = "passes",
    threshold: Annotated[
        float, typer.Option("--threshold", help="Where the adaptive threshold begins.")
    ] = 0.6,
    most: MostOption = 12,
    top: TopOption = 10,
    out: OutOption = None,
    seed: SeedOption = 0,
) -> Answer:
    """Search the sublayers that a draft should leave out (Draft & Verify); 1 is plain decoding."""
    from lensbench.app.workflows import savings

    ask = savings.SavingAsk(model, revision, "", prompts, new_tokens, "", out, seed)
    facts = savings.skips(ask, trials=trials, objective=objective, threshold=threshold, most=most,
                          top=top)  # fmt: skip
    best = ", ".join(facts["left_out"]) or "nothing"
    return result_answer(facts, head=f"best: leave out {best}")


def kangaroo(
    exit_layer: ExitOption,
    store: StoreOption = "",
    prompts: PromptsOption = "",
    model: ModelOption = MODEL,
    revision: RevisionOption = None,
    settings: Annotated[
        list[str] | None,
        typer.Option(
            "--set",
            help="A setting of training: steps=300, batch_size=8, learning_rate=1e-3, warmup, "
            "clip_value, weight_decay, n_heads, holdout, checkpoint_every. Repeatable.",
        ),
    ] = None,
    new_tokens: NewOption = 48,
    keep: KeepOption = "",
    out: Annotated[
        Path | None,
        typer.Option(
            "--out",
            help="Folder of the adapter; its report goes in OUT/report. A run that was stopped "
            "goes on there.",
        ),
    ] = None,
    seed: SeedOption = 0,
) -> Answer:
    """Train the adapter that drafts from an early exit (Kangaroo) and judge it on held-out text."""
    from lensbench.app.workflows import savings
    from lensbench.app.workflows.settings import assignments

    ask = savings.SavingAsk(model, revision, store, prompts, new_tokens, keep, out, seed)
    progress = Progress("kangaroo")
    facts = savings.kangaroo(ask, exit_layer, assignments(settings or ()), progress)
    progress.end()
    return result_answer(facts)


def samples(
    site: Annotated[str, typer.Option("--site", help="Whose last state of a prompt is read.")],
    rewards: Annotated[
        Path,
        typer.Option(
            "--rewards", help="JSON: for each prompt a list of 0 and 1, one for each stored sample."
        ),
    ],
    store: StoreOption = "",
    prompts: PromptsOption = "",
    model: ModelOption = MODEL,
    revision: RevisionOption = None,
    budgets: Annotated[
        str, typer.Option("--budgets", help="Samples per prompt on average, such as 1,2,4.")
    ] = "1,2,4",
    test: TestOption = 0.5,
    new_tokens: NewOption = 48,
    keep: KeepOption = "",
    out: OutOption = None,
    seed: SeedOption = 0,
) -> Answer:
    """Share samples out by a probe of how hard a prompt is, beside equal shares."""
    from lensbench.app.workflows import savings
    from lensbench.app.workflows.patching import numbers

    ask = savings.SavingAsk(model, revision, store, prompts, new_tokens, keep, out, seed)
    found = savings.samples(ask, site, rewards, budgets=numbers(budgets, "budgets") or [1],
                            test=test)  # fmt: skip
    return result_answer(found)
