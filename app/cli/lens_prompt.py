"""``lensbench lens language``, ``patchscope`` and ``decode``: lenses that are asked by a prompt."""

from pathlib import Path
from typing import Annotated

import typer

from lensbench.app.cli.console import Answer, fields, table
from lensbench.app.cli.groups import ModelOption, RevisionOption

OutOption = Annotated[Path | None, typer.Option("--out", help="Folder to save the result in.")]
SeedOption = Annotated[int, typer.Option("--seed", help="Seed of every draw.")]
PromptOption = Annotated[str, typer.Option("--prompt", help="The text.")]


def language(
    model: ModelOption,
    words: Annotated[
        str,
        typer.Option(
            "--words",
            help='JSON file: by language the same words in one order, {"en": ["dog"], "fr": '
            '["chien"], ..}; or atlas, the dictionary of the bundled world.',
        ),
    ],
    source: Annotated[str, typer.Option("--source", help="Language of the word that is given.")],
    target: Annotated[str, typer.Option("--target", help="Language that is asked for.")],
    pivot: Annotated[str, typer.Option("--pivot", help="Language that might stand in between.")],
    shots: Annotated[
        int | None, typer.Option("--shots", help="Translations shown first (default 4; atlas: 0).")
    ] = None,
    template: Annotated[
        str | None,
        typer.Option(
            "--template",
            help="A line of the prompt: {source_name}, {source}, {target_name}, {target}.",
        ),
    ] = None,
    seed: SeedOption = 0,
    out: OutOption = None,
    revision: RevisionOption = None,
) -> Answer:
    """Show which language each layer speaks while the model translates words."""
    from lensbench.app.workflows.prompting import read_language

    facts = read_language(
        model, words, source, target, pivot, shots=shots, template=template, seed=seed,
        revision=revision, out=out,
    )  # fmt: skip
    shows = ", ".join(map(str, facts["pivot_layers"])) or "at no layer"
    told = {f"{pivot} shows": shows, **facts["summary"], "control": facts["control"]}
    told |= {"saved": facts["saved"]} if "saved" in facts else {}
    head = f"{facts['items']} words, such as {facts['prompt']!r}\n\n"
    return Answer(facts, f"{head}{table(facts['layers'])}\n\n{fields(told)}")


def patchscope(
    model: ModelOption,
    prompt: PromptOption,
    at: Annotated[
        int, typer.Option("--at", help="Token whose state is read (negative: from the end).")
    ] = -1,
    target: Annotated[
        str | None,
        typer.Option(
            "--target", help="Text that gets the state; default: cat -> cat; ..; ? (Patchscopes)."
        ),
    ] = None,
    placeholder: Annotated[
        str | None,
        typer.Option(
            "--placeholder", help="Token of --target that gets it (SelfIE); default: the last one."
        ),
    ] = None,
    layer: Annotated[
        int | None,
        typer.Option("--layer", help="Block behind which it is put; default: where it was taken."),
    ] = None,
    new_tokens: Annotated[
        int, typer.Option("--new-tokens", min=0, help="Tokens to write at every layer.")
    ] = 0,
    k: Annotated[int, typer.Option("--top", help="Tokens per layer.")] = 5,
    out: OutOption = None,
    revision: RevisionOption = None,
) -> Answer:
    """Put one token's state of every layer into another text, and see what that text then says."""
    from lensbench.app.workflows.prompting import read_transplant

    facts = read_transplant(
        model, prompt, at=at, target=target, placeholder=placeholder, layer=layer,
        new_tokens=new_tokens, k=k, revision=revision, out=out,
    )  # fmt: skip
    told = {"without it": ", ".join(facts["plain"]), **facts["summary"], **facts["controls"]}
    told |= {"saved": facts["saved"]} if "saved" in facts else {}
    head = f"state of token {facts['position']}, {facts['token']!r}\n\n"
    return Answer(facts, f"{head}{table(facts['layers'])}\n\n{fields(told)}")


def decode(
    model: ModelOption,
    prompt: PromptOption,
    rule: Annotated[
        str, typer.Option("--rule", help="dola, deco, context, sh2 or contrastive.")
    ] = "dola",
    depths: Annotated[
        str | None,
        typer.Option("--depths", help="dola, deco: low, high, or layers such as 0,2,4."),
    ] = None,
    divergence: Annotated[
        str | None, typer.Option("--divergence", help="dola: paper_jsd or code_reverse.")
    ] = None,
    norm: Annotated[
        bool | None,
        typer.Option("--norm/--no-norm", help="dola, deco: final norm before the head."),
    ] = None,
    alpha: Annotated[
        float | None, typer.Option("--alpha", help="deco, context, sh2: strength.")
    ] = None,
    plausibility: Annotated[
        float | None, typer.Option("--plausibility", help="Least share of the likeliest token.")
    ] = None,
    without: Annotated[
        str | None, typer.Option("--without", help="context: the prompt without its context.")
    ] = None,
    amateur: Annotated[
        str | None, typer.Option("--amateur", help="contrastive: a weaker model.")
    ] = None,
    new_tokens: Annotated[int, typer.Option("--new-tokens", help="Tokens to write.")] = 16,
    temperature: Annotated[
        float, typer.Option("--temperature", help="Above 0: sample; 0: greedy.")
    ] = 0.0,
    seed: SeedOption = 0,
    out: OutOption = None,
    revision: RevisionOption = None,
) -> Answer:
    """Write a text under a contrastive rule, with the layer chosen at every token."""
    from lensbench.app.workflows.prompting import read_decoding

    options = {
        "depths": depths, "divergence": divergence, "norm": norm, "alpha": alpha,
        "plausibility": plausibility, "without": without, "amateur": amateur,
    }  # fmt: skip
    facts = read_decoding(
        model, prompt, rule, options=options, new_tokens=new_tokens, temperature=temperature,
        seed=seed, revision=revision, out=out,
    )  # fmt: skip
    shown = ["step", "token", "plain", "changed", "prob", "kept"]
    shown += ["depth", "site"] if facts["depths"] else []
    told = {rule: facts["text"], "model alone": facts["plain"], **facts["summary"]}
    told |= {"control": facts["control"]}
    told |= {"saved": facts["saved"]} if "saved" in facts else {}
    return Answer(facts, f"{table(facts['steps'], shown)}\n\n{fields(told)}")
