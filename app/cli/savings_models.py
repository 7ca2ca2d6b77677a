"""``lensbench savings`` of other models' drafts, drafts with labels, and texts with masks."""

from pathlib import Path
from typing import Annotated, Any

import typer

from lensbench.app.cli.console import Answer
from lensbench.app.cli.groups import ModelOption, RevisionOption
from lensbench.app.cli.numbers import floats
from lensbench.app.cli.results import result_answer
from lensbench.app.cli.saving_options import (
    MODEL,
    NewOption,
    OutOption,
    SeedOption,
    TestOption,
    TextsOption,
)


def add_to(app: Any) -> None:
    """Register the commands of this file."""
    for command in (drafts, judge, commit):
        app.command(command.__name__)(command)


def drafts(
    prompts: TextsOption,
    draft_model: Annotated[
        str, typer.Option("--draft-model", help="A second model with the same vocabulary.")
    ],
    model: ModelOption = MODEL,
    revision: RevisionOption = None,
    lengths: Annotated[
        str, typer.Option("--lengths", help="Tokens drafted per round, such as 1,2,4.")
    ] = "1,2,4,8",
    new_tokens: NewOption = 32,
    out: OutOption = None,
) -> Answer:
    """Decode with drafts of a second model (speculative decoding), and count what is kept."""
    from lensbench.app.workflows.draft_models import drafting
    from lensbench.app.workflows.patching import numbers
    from lensbench.app.workflows.savings import SavingAsk

    ask = SavingAsk(model, revision, "", prompts, new_tokens, "", out)
    return result_answer(drafting(ask, draft_model, numbers(lengths, "lengths") or []))


def judge(
    drafts: Annotated[
        Path,
        typer.Option(
            "--drafts",
            help='.jsonl with "prompt", "draft" and "right" per line: true or false, or a list of '
            "them, one for each token of the draft.",
        ),
    ],
    model: ModelOption = MODEL,
    revision: RevisionOption = None,
    threshold: Annotated[
        float,
        typer.Option(
            "--threshold", min=0.001, max=0.999, help="Chance of being right that is kept."
        ),
    ] = 0.5,
    penalty: Annotated[float, typer.Option("--penalty", min=0, help="Of the classifier.")] = 1e-2,
    test: TestOption = 0.5,
    out: OutOption = None,
    seed: SeedOption = 0,
) -> Answer:
    """Train a judge that keeps right drafts which the model words otherwise (lossy), and try it."""
    from lensbench.app.workflows.draft_models import judged
    from lensbench.app.workflows.savings import SavingAsk

    ask = SavingAsk(model, revision, out=out, seed=seed)
    return result_answer(judged(ask, drafts, threshold=threshold, penalty=penalty, test=test))


def commit(
    prompts: TextsOption,
    model: ModelOption,
    revision: RevisionOption = None,
    rule: Annotated[
        str, typer.Option("--rule", help="prophet (a gap in logits) or filter (a classifier).")
    ] = "prophet",
    masked: Annotated[
        int, typer.Option("--masked", min=1, help="Last tokens of each text that are filled in.")
    ] = 8,
    steps: Annotated[
        int, typer.Option("--steps", min=0, help="In so many steps; 0: a token each.")
    ] = 0,
    thresholds: Annotated[
        str,
        typer.Option("--thresholds", help="prophet: gaps in the three thirds of the steps."),
    ] = "7.5,5,2.5",
    threshold: Annotated[
        float, typer.Option("--threshold", min=0, max=1, help="filter: chance asked for.")
    ] = 0.9,
    test: TestOption = 0.5,
    out: OutOption = None,
    seed: SeedOption = 0,
) -> Answer:
    """Tell when a text that is filled in step by step could have been committed (prophet).

    For masked and diffusion language models, which write a text in any order.
    """
    from lensbench.app.workflows.draft_models import committed
    from lensbench.app.workflows.savings import SavingAsk

    ask = SavingAsk(model, revision, prompts=prompts, out=out, seed=seed)
    facts = committed(ask, rule, masked=masked, steps=steps, threshold=threshold, test=test,
                      thresholds=floats(thresholds, "--thresholds"))  # fmt: skip
    return result_answer(facts)
