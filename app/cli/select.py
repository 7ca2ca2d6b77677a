"""``lensbench select``: latents that tell two classes of entities apart, and what they do."""

from pathlib import Path
from typing import Annotated

import typer

from lensbench.app.cli.console import Answer
from lensbench.app.cli.groups import ModelOption, RevisionOption, new_group
from lensbench.app.cli.numbers import floats
from lensbench.app.cli.results import result_answer
from lensbench.app.cli.task_options import SeedOption

EntitiesOption = Annotated[
    str,
    typer.Option(
        "--entities",
        help='.jsonl with "text", "entity", "first" (of the first class?) and if wanted "group", '
        '"answer", "foil"; or people:train, people:heldout (of the atlas, known or not); or '
        "TASK:ROLE such as first_letter:word.",
    ),
]
SiteOption = Annotated[str, typer.Option("--site", help="Such as blocks.3.resid_post.")]
DictionaryOption = Annotated[
    str,
    typer.Option("--dictionary", help="RUN/NAME; left out, the site's own numbers (neurons)."),
]
TokenOption = Annotated[
    int, typer.Option("--token", help="Which of the entity's tokens is read; -1 the last.")
]
CountOption = Annotated[int, typer.Option("--n", min=2, help="Pairs, of TASK:ROLE.")]
PermutationsOption = Annotated[
    int, typer.Option("--permutations", min=1, help="Relabellings of entities, the null.")
]
BatchOption = Annotated[int, typer.Option("--batch-size", help="Prompts in one pass.")]
TopOption = Annotated[int, typer.Option("--top", min=1, help="Rows to print.")]
ChosenOption = Annotated[
    int, typer.Option("--select", min=1, help="Latents selected for each class.")
]
MetricOption = Annotated[
    str,
    typer.Option(
        "--metric",
        help="entropy (of the next token), logit_diff, probability, rank, loss or kl; see --says.",
    ),
]
SaysOption = Annotated[
    list[str] | None,
    typer.Option("--says", help="Measure instead the probability of this token. Repeatable."),
]
StrengthsOption = Annotated[
    str, typer.Option("--strengths", help="Lengths of the step, in lengths of the state.")
]
WithinOption = Annotated[
    float,
    typer.Option("--within", help="Controls fire equally often in both classes, up to this."),
]
OutOption = Annotated[Path | None, typer.Option("--out", help="Folder to save the result in.")]
_STUDY = ("latent", "kind", "condition", "prompts", "change", "low", "high", "p", "n")


def group() -> typer.Typer:
    """The commands of this file."""
    app = new_group("Latents that tell classes of entities apart, such as known and unknown ones.")
    app.command("latents")(latents)
    app.command("confounds")(confounds)
    app.command("heads")(heads)
    app.command("study")(study)
    app.command("sibling")(sibling)
    return app


def latents(
    entities: EntitiesOption,
    site: SiteOption,
    model: ModelOption = "atlas-dense",
    revision: RevisionOption = None,
    dictionary: DictionaryOption = "",
    token: TokenOption = -1,
    permutations: PermutationsOption = 200,
    n: CountOption = 64,
    batch_size: BatchOption = 64,
    top: TopOption = 10,
    out: OutOption = None,
    seed: SeedOption = 0,
) -> Answer:
    """Rank latents by how their firing tells two classes apart, with p of the whole search."""
    from lensbench.app.workflows import selecting
    from lensbench.app.workflows.entities import EntityAsk

    facts = selecting.separating(
        model, EntityAsk(entities, n=n, seed=seed), site, dictionary=dictionary, token=token,
        permutations=permutations, batch_size=batch_size, revision=revision, top=top, out=out,
    )  # fmt: skip
    return result_answer(facts)


def confounds(
    entities: EntitiesOption,
    model: ModelOption = "atlas-dense",
    revision: RevisionOption = None,
    folds: Annotated[int, typer.Option("--folds", min=2, help="Of the cross-validation.")] = 5,
    n: CountOption = 64,
    out: OutOption = None,
    seed: SeedOption = 0,
) -> Answer:
    """Test whether names alone (length, frequency, embeddings) tell the classes apart."""
    from lensbench.app.workflows import selecting
    from lensbench.app.workflows.entities import EntityAsk

    facts = selecting.confounding(model, EntityAsk(entities, n=n, seed=seed), folds=folds,
                                  revision=revision, out=out)  # fmt: skip
    return result_answer(facts)


def heads(
    entities: EntitiesOption,
    model: ModelOption = "atlas-dense",
    revision: RevisionOption = None,
    after: Annotated[
        str, typer.Option("--after", help="Only heads behind this site; default: all.")
    ] = "",
    n: CountOption = 64,
    batch_size: BatchOption = 64,
    top: TopOption = 10,
    seed: SeedOption = 0,
) -> Answer:
    """Find the heads that bring the answer from the entity to the last token."""
    from lensbench.app.workflows import selecting
    from lensbench.app.workflows.entities import EntityAsk

    asked = EntityAsk(entities, n=n, seed=seed)
    facts = selecting.attribute_heads(model, asked, after=after, batch_size=batch_size,
                                      revision=revision, top=top)  # fmt: skip
    return result_answer(facts)


def study(
    entities: EntitiesOption,
    site: SiteOption,
    model: ModelOption = "atlas-dense",
    revision: RevisionOption = None,
    dictionary: DictionaryOption = "",
    metric: MetricOption = "entropy",
    says: SaysOption = None,
    strengths: StrengthsOption = "0.5,1,2",
    ablate_sites: Annotated[
        list[str] | None,
        typer.Option("--ablate-sites", help="Where directions are taken out; default: --site."),
    ] = None,
    select: ChosenOption = 1,
    random: Annotated[int, typer.Option("--random", min=1, help="Control latents.")] = 10,
    within: WithinOption = 0.05,
    heads: Annotated[
        str, typer.Option("--heads", help="LAYER.HEAD whose attention to the entity is told.")
    ] = "",
    token: TokenOption = -1,
    permutations: PermutationsOption = 200,
    n: CountOption = 64,
    batch_size: BatchOption = 64,
    out: OutOption = None,
    seed: SeedOption = 0,
) -> Answer:
    """Select latents on half of the entities and steer prompts about the others with them.

    Beside them are random latents that fire equally often in both classes.
    """
    from lensbench.app.workflows import selecting
    from lensbench.app.workflows.entities import EntityAsk

    facts = selecting.steered(
        model, EntityAsk(entities, n=n, seed=seed), site, dictionary=dictionary, metric=metric,
        says=says or (), strengths=floats(strengths, "--strengths"),
        ablate_sites=ablate_sites or (), top=select, random=random, within=within,
        heads=[heads] if heads else [], token=token, permutations=permutations,
        batch_size=batch_size, revision=revision, out=out,
    )  # fmt: skip
    return result_answer(facts, _STUDY)


def sibling(
    entities: EntitiesOption,
    on: Annotated[
        str, typer.Option("--on", help="Other entities, that the sibling is asked about.")
    ],
    site: SiteOption,
    sibling: Annotated[str, typer.Option("--sibling", help="The fine-tuned copy.")],
    model: ModelOption = "atlas-dense",
    dictionary: DictionaryOption = "",
    metric: MetricOption = "entropy",
    says: SaysOption = None,
    strengths: StrengthsOption = "0.5,1,2",
    select: ChosenOption = 1,
    random: Annotated[int, typer.Option("--random", min=1, help="Control latents.")] = 40,
    within: WithinOption = 0.05,
    heads: Annotated[
        str, typer.Option("--heads", help="How many heads to choose on --model, or LAYER.HEAD,..")
    ] = "3",
    token: TokenOption = -1,
    permutations: PermutationsOption = 200,
    n: CountOption = 64,
    batch_size: BatchOption = 64,
    out: OutOption = None,
    seed: SeedOption = 0,
) -> Answer:
    """Select latents and heads on one model and try them on its fine-tuned sibling."""
    from lensbench.app.workflows import selecting
    from lensbench.app.workflows.entities import EntityAsk

    facts = selecting.sibling(
        model, sibling, EntityAsk(entities, n=n, seed=seed), EntityAsk(on, n=n, seed=seed + 1),
        site, dictionary=dictionary, metric=metric, says=says or (),
        strengths=floats(strengths, "--strengths"), top=select, random=random, within=within,
        heads=heads, token=token, permutations=permutations, batch_size=batch_size, out=out,
    )  # fmt: skip
    return result_answer(facts)
