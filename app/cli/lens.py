"""``lensbench lens``: what layers, encoders and neurons say through the vocabulary."""

from pathlib import Path
from typing import Annotated, Any

import typer

from lensbench.app.cli import lens_ask, lens_more, lens_pair, lens_prompt, lens_read
from lensbench.app.cli.console import Answer, fields, table
from lensbench.app.cli.groups import ModelOption, RevisionOption, new_group

OutOption = Annotated[Path | None, typer.Option("--out", help="Folder to save the result in.")]
SeedOption = Annotated[int, typer.Option("--seed", help="Seed of every draw.")]
NormOption = Annotated[
    bool, typer.Option("--norm/--no-norm", help="Apply the final norm (of neurons: its gain).")
]


def group() -> typer.Typer:
    """The commands of this file."""
    app = new_group("Lenses: what a layer, an encoder or a neuron says through the vocabulary.")
    app.command("layers")(layers)
    app.command("text")(text)
    app.command("tune")(tune)
    app.command("decoder")(decoder)
    app.command("language")(lens_prompt.language)
    app.command("patchscope")(lens_prompt.patchscope)
    app.command("ask")(lens_ask.ask)
    app.command("pair")(lens_pair.pair)
    app.command("decode")(lens_prompt.decode)
    app.command("neurons")(neurons)
    app.command("future")(lens_more.future)
    app.command("context")(lens_more.context)
    app.command("sites")(lens_read.sites)
    app.command("parts")(lens_read.parts)
    app.command("document")(lens_read.document)
    app.command("ahead")(lens_read.ahead)
    app.command("basis")(lens_read.basis)
    app.command("compare")(lens_read.compare)
    app.command("answers")(lens_read.answers)
    app.command("soft")(lens_read.soft)
    return app


def layers(
    store: Annotated[Path, typer.Option("--store", help="Activations with resid_post.")],
    model: Annotated[
        str | None, typer.Option("--model", help="Default: the model the store names.")
    ] = None,
    site: Annotated[
        str, typer.Option("--site", help="resid_post, resid_mid or resid_pre.")
    ] = "resid_post",
    max_tokens: Annotated[int, typer.Option("--max-tokens", help="Tokens to read.")] = 20_000,
    seed: SeedOption = 0,
    out: OutOption = None,
) -> Answer:
    """Read every stored layer through the logit lens, beside states shuffled over tokens."""
    from lensbench.app.workflows.reading import LAYERS, read_layers

    facts = read_layers(store, model, site=site, max_tokens=max_tokens, seed=seed, out=out)
    head = f"{facts['site']}, {facts['tokens']:,} tokens of {facts['documents']:,} documents\n\n"
    return _answer(facts, "layers", ("layer", *LAYERS, "agreement_shuffled"), head)


def text(
    model: ModelOption,
    prompt: Annotated[str, typer.Option("--prompt", help="The text.")],
    at: Annotated[
        int, typer.Option("--at", help="Token (from 0; negative ones from the end).")
    ] = -1,
    k: Annotated[int, typer.Option("--top", help="Tokens per layer.")] = 5,
    tuned: Annotated[
        Path | None,
        typer.Option("--tuned", help="Folder of a tuned lens to read with (see lens tune)."),
    ] = None,
    out: OutOption = None,
    revision: RevisionOption = None,
) -> Answer:
    """Show what every layer would say after one token of --prompt."""
    from lensbench.app.workflows.reading import read_text

    facts = read_text(model, prompt, at=at, k=k, tuned=tuned, revision=revision, out=out)
    head = f"after token {facts['position']}, {facts['token']!r}\n\n"
    shown = ("layer", "top", "probability", "entropy", "kl_to_final")
    units = ("\n\nprobability: of the first of them; entropy in nats; "
             "kl_to_final: KL(final ‖ this layer) [nats]")  # fmt: skip
    units += f"\n{facts['unknown']}" * bool(facts["unknown"])
    return _answer(facts, "layers", shown, head, after=units)


def tune(
    store: Annotated[Path, typer.Option("--store", help="Activations with every resid_post.")],
    out: Annotated[Path, typer.Option("--out", help="Folder of the lens; goes on if killed.")],
    model: Annotated[
        str | None, typer.Option("--model", help="Default: the model the store names.")
    ] = None,
    sets: Annotated[
        list[str] | None,
        typer.Option(
            "--set", help="Any setting: steps=250, tokens_per_step=262144, optimizer=adam. Repeat."
        ),
    ] = None,
    device: Annotated[str, typer.Option("--device", help="cpu, cuda, auto.")] = "cpu",
    max_tokens: Annotated[int, typer.Option("--max-tokens", help="Tokens to compare on.")] = 5_000,
) -> Answer:
    """Train a tuned lens from a store, and hold it beside the logit lens on held-out documents."""
    from lensbench.app.cli.console import Progress
    from lensbench.app.workflows.settings import assignments
    from lensbench.app.workflows.tuned import SHOWN, tune

    progress = Progress("tune")
    facts = tune(store, model, out, assignments(sets or ()), device=device, max_tokens=max_tokens,
                 progress=progress)  # fmt: skip
    progress.end()
    told = {**facts["summary"], "control": facts["control"], "lens": facts["lens"]}
    head = f"KL(final ‖ this layer) [nats], documents: {facts['documents']}\n\n"
    return Answer(facts, f"{head}{table(facts['layers'], SHOWN)}\n\n{fields(told)}")


def decoder(
    model: ModelOption,
    sentences: Annotated[
        Path, typer.Option("--text", help="One sentence per line: what the encoder reads.")
    ],
    targets: Annotated[
        Path | None, typer.Option("--targets", help="What is right, one line per sentence.")
    ] = None,
    norm: NormOption = True,
    seed: SeedOption = 0,
    out: OutOption = None,
    revision: RevisionOption = None,
) -> Answer:
    """Let the decoder of an encoder-decoder read every layer of its encoder."""
    from lensbench.app.workflows.reading import lines_of, paired_lines, read_encoder

    said, right = (
        (lines_of(sentences), None) if targets is None else paired_lines(sentences, targets)
    )
    facts = read_encoder(
        model, said, targets=right, norm=norm, seed=seed, revision=revision, out=out
    )
    return _answer(facts, "layers", ())


def neurons(
    model: ModelOption,
    side: Annotated[
        str, typer.Option("--side", help="down (what it writes), up or gate (what it reads).")
    ] = "down",
    against: Annotated[
        str | None, typer.Option("--against", help="Another model of the same shape.")
    ] = None,
    rows: Annotated[
        str, typer.Option("--table", help="raw, rows (of one length) or centred.")
    ] = "raw",
    norm: NormOption = True,
    top: Annotated[int, typer.Option("--top", min=0, help="Neurons to print.")] = 20,
    out: OutOption = None,
    revision: RevisionOption = None,
) -> Answer:
    """Decode MLP neurons by their weights, clearest first, beside random vectors."""
    from lensbench.app.workflows.reading import read_neurons

    facts = read_neurons(
        model, side, against=against, table=rows, norm=norm, top=top, revision=revision, out=out
    )
    after = ""
    if "agreement" in facts:
        after = f"\n\n{fields(facts['agreement'])}"
    shown = ("layer", "neuron", "top", "top_prob", "top2", "top3", "shared_by", "random_prob")
    return _answer(facts, "neurons", shown, after=after)


def _answer(
    facts: dict[str, Any], rows: str, columns: Any, before: str = "", after: str = ""
) -> Answer:
    """Rows as a table, then the summary and the controls."""
    told = {**facts["summary"], "control": facts["control"], **facts["controls"]}
    told |= {k: v for k, v in facts.items() if k.startswith("saved")}
    shown = [c for c in columns if facts[rows] and c in facts[rows][0]]
    return Answer(facts, f"{before}{table(facts[rows], shown)}{after}\n\n{fields(told)}")
