"""``lensbench lens sites | parts | document | ahead | basis | compare | answers | soft``."""

from pathlib import Path
from typing import Annotated

import typer

from lensbench.app.cli.console import Answer, fields, table
from lensbench.app.cli.groups import ModelOption, OutOption, RevisionOption, SeedOption
from lensbench.app.cli.results import result_answer

PromptOption = Annotated[str, typer.Option("--prompt", help="The text.")]
AtOption = Annotated[
    int, typer.Option("--at", help="Token whose rows are printed (from 0, or -1).")
]
TunedOption = Annotated[
    Path | None,
    typer.Option("--tuned", help="Folder of a tuned lens to read with (see lens tune)."),
]
StoreOption = Annotated[Path, typer.Option("--store", help="Activations with every resid_post.")]
StoreModelOption = Annotated[
    str | None, typer.Option("--model", help="Default: the model the store names.")
]
LayersOption = Annotated[str, typer.Option("--layers", help="Such as 0,3-5; default: all.")]
_READ = ("place", "top", "top_prob", "top2", "top2_prob", "target_rank", "entropy", "kl_to_final")


def sites(
    model: ModelOption,
    prompt: PromptOption,
    named: Annotated[
        list[str] | None,
        typer.Option("--site", help="attn_out, mlp_out, resid_mid, stream, or one. Repeatable."),
    ] = None,
    norm: Annotated[
        str, typer.Option("--norm", help="Of what is added: own, or held (its share of the whole).")
    ] = "own",
    tuned: TunedOption = None,
    at: AtOption = -1,
    top: Annotated[int, typer.Option("--top", min=1, help="Tokens per place.")] = 5,
    out: OutOption = None,
    revision: RevisionOption = None,
) -> Answer:
    """Read one text at any site: the stream between blocks, or what attention and MLPs add."""
    from lensbench.app.workflows.lens_read import at_sites

    facts = at_sites(model, prompt, named or ["stream"], norm=norm, tuned=tuned, at=at, k=top,
                     revision=revision, out=out)  # fmt: skip
    return result_answer(facts, _READ, f"after token {facts['position']}, {facts['token']!r}")


def parts(
    model: ModelOption,
    prompt: PromptOption,
    at: AtOption = -1,
    k: Annotated[int, typer.Option("--tokens", min=1, help="Tokens per component.")] = 5,
    top: Annotated[int, typer.Option("--top", min=1, help="Components to print.")] = 15,
    out: OutOption = None,
    revision: RevisionOption = None,
) -> Answer:
    """Show what every head and MLP says by itself, surest first; together they are the model."""
    from lensbench.app.workflows.lens_read import parts as read

    facts = read(model, prompt, at=at, k=k, top=top, revision=revision, out=out)
    return result_answer(facts, _READ, f"after token {facts['position']}, {facts['token']!r}")


def document(
    store: StoreOption,
    number: Annotated[int, typer.Option("--document", min=0, help="Number of the document.")] = 0,
    model: StoreModelOption = None,
    most: Annotated[int, typer.Option("--max-tokens", min=1, help="First tokens.")] = 40,
    tuned: TunedOption = None,
    out: OutOption = None,
) -> Answer:
    """Read a stored document layer by layer, with no run of the model (draw it with --html)."""
    from lensbench.app.workflows.lens_read import document as read

    facts = read(store, number, model=model, most=most, tuned=tuned, out=out)
    return result_answer(facts, ("layer", "pos", "token", "target", "top", "top_prob",
                                 "target_prob", "target_rank", "kl_to_final"))  # fmt: skip


def ahead(
    store: StoreOption,
    prompt: PromptOption,
    distances: Annotated[
        str, typer.Option("--ahead", help="Distances from 0 on, such as 0,1,2.")
    ] = "0,1",
    layers: LayersOption = "",
    model: StoreModelOption = None,
    out: OutOption = None,
) -> Answer:
    """Show the next tokens that every state of a text foretells, beside a bare context."""
    from lensbench.app.workflows.lens_read import ahead as read

    facts = read(store, prompt, model=model, distances=distances, layers=layers, out=out)
    return result_answer(facts, ("layer", "pos", "token", "predicted", "mean_prob",
                                 "mean_prob_without"))  # fmt: skip


def basis(
    store: StoreOption,
    layer: Annotated[int, typer.Option("--layer", min=0, help="Block of the states.")],
    k: Annotated[int, typer.Option("--k", min=1, help="Directions.")] = 4,
    tuned: TunedOption = None,
    model: StoreModelOption = None,
    max_tokens: Annotated[int, typer.Option("--max-tokens", min=2, help="States.")] = 500,
    check: Annotated[
        bool, typer.Option("--check", help="Ablate them in the model, beside random ones.")
    ] = False,
    seed: SeedOption = 0,
    out: OutOption = None,
) -> Answer:
    """Find the directions that a lens rests on most (causal basis), beside random ones."""
    from lensbench.app.workflows.lens_read import basis as found

    facts = found(store, layer, k=k, tuned=tuned, model=model, max_tokens=max_tokens, check=check,
                  seed=seed, out=out)  # fmt: skip
    told = result_answer(facts)
    if not check:
        return told
    done = facts["checked"]
    after = f"\n\nablated in the model\n{table(done['rows'])}\n\n{fields(done['summary'])}"
    return Answer(told.document, told.text + after)


def compare(
    store: StoreOption,
    tuned: Annotated[Path, typer.Option("--tuned", help="Folder of a tuned lens.")],
    model: StoreModelOption = None,
    max_tokens: Annotated[int, typer.Option("--max-tokens", min=1, help="Tokens to read.")] = 5000,
    seed: SeedOption = 0,
    out: OutOption = None,
) -> Answer:
    """Hold a tuned lens beside the logit lens on a store's text, and beside shuffled states."""
    from lensbench.app.workflows.lens_read import compare as held

    return result_answer(held(store, tuned, model=model, max_tokens=max_tokens, seed=seed, out=out))


def answers(
    model: ModelOption,
    file: Annotated[
        Path,
        typer.Option(
            "--questions",
            help='JSON lines: {"prompt": "..", "answers": [".."], "correct": [true, false]}.',
        ),
    ],
    rule: Annotated[
        str, typer.Option("--rule", help="dola, deco, context, sh2 or contrastive.")
    ] = "dola",
    depths: Annotated[
        str | None, typer.Option("--depths", help="dola, deco: low, high, or layers such as 0,2.")
    ] = None,
    alpha: Annotated[
        float | None, typer.Option("--alpha", help="deco, context, sh2: strength.")
    ] = None,
    amateur: Annotated[
        str | None, typer.Option("--amateur", help="contrastive: a weaker model.")
    ] = None,
    without: Annotated[
        str | None, typer.Option("--without", help="context: the prompt without its context.")
    ] = None,
    batch_size: Annotated[int, typer.Option("--batch-size", min=1, help="Answers at once.")] = 16,
    seed: SeedOption = 0,
    out: OutOption = None,
    revision: RevisionOption = None,
) -> Answer:
    """Score given answers to questions (MC1, MC2, MC3) under a contrastive rule and without."""
    from lensbench.app.workflows.lens_read import answers as scored

    options = {"depths": depths, "alpha": alpha, "amateur": amateur, "without": without}
    facts = scored(model, file, rule, options=options, batch_size=batch_size, revision=revision,
                   seed=seed, out=out)  # fmt: skip
    return result_answer(facts)


def soft(
    store: StoreOption,
    layers: LayersOption = "",
    ahead: Annotated[int, typer.Option("--ahead", min=0, help="Distance; 0: next token.")] = 1,
    length: Annotated[int, typer.Option("--length", min=1, help="Embeddings of a prompt.")] = 10,
    contexts: Annotated[int, typer.Option("--contexts", min=1, help="Training tokens.")] = 10_000,
    model: StoreModelOption = None,
    seed: SeedOption = 0,
    out: OutOption = None,
) -> Answer:
    """Learn a prompt per layer that makes the model say what a state foretells, beside bigrams."""
    from lensbench.app.workflows.lens_read import soft_prompts

    facts = soft_prompts(store, model=model, layers=layers, ahead=ahead, length=length,
                         contexts=contexts, seed=seed, out=out)  # fmt: skip
    return result_answer(facts, ("metric", "states", "layer", "ahead", "value", "low", "high"))
