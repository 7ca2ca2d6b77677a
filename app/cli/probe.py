"""``lensbench probe``: what can be read off activations, beside what reads off nothing."""

from pathlib import Path
from typing import Annotated

import typer

from lensbench.app.cli import probe_bits, probe_hd, probe_more, probe_shape
from lensbench.app.cli.console import Answer, fields, table
from lensbench.app.cli.groups import ModelOption, RevisionOption, new_group

OutOption = Annotated[Path | None, typer.Option("--out", help="Folder to save the result in.")]
SeedOption = Annotated[int, typer.Option("--seed", help="Seed of every draw.")]


def group() -> typer.Typer:
    """The commands of this file."""
    app = new_group("Probes: what activations tell, beside controls that must tell nothing.")
    app.command("linear")(linear)
    app.command("tokens")(tokens)
    app.command("hd")(hd)
    app.command("geometry")(geometry)
    app.command("erase")(probe_bits.erase)
    app.command("codelength")(probe_bits.codelength)
    app.command("boards")(probe_more.boards)
    app.command("numbers")(probe_more.numbers)
    app.command("trees")(probe_more.trees)
    app.command("spans")(probe_more.spans)
    app.command("flips")(probe_shape.flips)
    app.command("codes")(probe_shape.codes)
    app.command("angles")(probe_shape.angles)
    app.command("checkpoints")(probe_shape.checkpoints)
    app.command("lengths")(probe_shape.lengths)
    app.command("aligned")(probe_shape.aligned)
    app.command("capacity")(probe_hd.capacity)
    app.command("concepts")(probe_hd.concepts)
    app.command("decode")(probe_hd.decode)
    return app


def linear(
    store: Annotated[Path, typer.Option("--store", help="Activations of a text.")],
    labels: Annotated[
        list[str] | None,
        typer.Option("--labels", help="Label (may be repeated); default: all of the text."),
    ] = None,
    label_file: Annotated[
        Path | None,
        typer.Option(
            "--label-file",
            help="Your own labels as JSON: by name a list of true and false, one for each stored "
            "row or document.",
        ),
    ] = None,
    sites: Annotated[
        list[str] | None, typer.Option("--site", help="Site (may be repeated); default: all.")
    ] = None,
    methods: Annotated[
        list[str] | None,
        typer.Option("--method", help="logistic, mean_difference, ridge or pls (may be repeated)."),
    ] = None,
    positions: Annotated[
        list[str] | None,
        typer.Option(
            "--positions",
            help="all (the default), first, last, places such as 0,-1 (together), or a role; "
            "repeated, each is fitted by itself.",
        ),
    ] = None,
    seeds: Annotated[int, typer.Option("--seeds", help="Splits of the documents.")] = 1,
    max_rows: Annotated[int, typer.Option("--max-rows", help="Rows to read.")] = 20_000,
    twin: Annotated[
        Path | None,
        typer.Option(
            "--twin",
            help="Store of a re-initialised model on the same text: a control; default: captured "
            "for this sweep, where the model can be opened.",
        ),
    ] = None,
    no_twin: Annotated[
        bool, typer.Option("--no-twin", help="Without --twin: do not capture one.")
    ] = False,
    metric: Annotated[
        str, typer.Option("--metric", help="balanced_accuracy or accuracy (numbers: R^2).")
    ] = "balanced_accuracy",
    top: Annotated[int, typer.Option("--top", min=0, help="Probes to print, best first.")] = 20,
    out: OutOption = None,
) -> Answer:
    """Fit linear probes of every label at every site in one batch, beside their controls."""
    from lensbench.app.workflows.probing import SHOWN, ProbeAsk, facts, probe_and_why

    ask = ProbeAsk(
        str(store), tuple(labels or ()), str(label_file or ""), tuple(sites or ()),
        tuple(methods or ("logistic",)), tuple(positions or ("all",)), seeds, max_rows,
        str(twin or ""), metric, make_twin=twin is None and not no_twin,
    )  # fmt: skip
    result, why = probe_and_why(ask)
    found = facts(result, top, out, why)
    shown = [c for c in SHOWN if found["rows"] and c in found["rows"][0]]
    told = {**found["summary"], **({"saved": found["saved"]} if "saved" in found else {})}
    told |= {f"no {name}": how for name, how in found["missing"].items()}
    if found["unit"] != "documents":
        told["split and intervals by"] = found["unit"]
    if found["left_out"]:
        told["left out"] = f"{', '.join(found['left_out'])} (why: --json)"
    return Answer(found, f"{table(found['rows'], shown)}\n\n{fields(told)}")


def tokens(
    model: ModelOption,
    prompt: Annotated[str, typer.Option("--prompt", help="The context.")],
    targets: Annotated[
        str | None,
        typer.Option("--target", help="Text that follows; default: the model's own next token."),
    ] = None,
    new_tokens: Annotated[
        int, typer.Option("--new-tokens", help="Without --target: tokens to let the model add.")
    ] = 1,
    methods: Annotated[
        list[str] | None,
        typer.Option(
            "--method",
            help="gradient_x_input, integrated_gradients, leave_one_out, reagent or "
            "attention_rollout (may be repeated); default: all the model has.",
        ),
    ] = None,
    test: Annotated[
        bool, typer.Option("--test", help="Measure faithfulness beside shuffled scores.")
    ] = False,
    top: Annotated[int, typer.Option("--top", min=0, help="Tokens per method and target.")] = 5,
    seed: SeedOption = 0,
    out: OutOption = None,
    revision: RevisionOption = None,
) -> Answer:
    """Show which tokens of --prompt a prediction rests on, by several methods."""
    from lensbench.app.workflows.reading import read_tokens

    facts = read_tokens(
        model, prompt, targets=targets if targets is not None else new_tokens, methods=methods,
        test=test, top=top, seed=seed, revision=revision, out=out,
    )  # fmt: skip
    text = table(facts["tokens"], ("target", "method", "rank", "token", "pos", "score"))
    if test:
        shown = ("method", "metric", "value", "shuffled", "beats_shuffles")
        text += f"\n\n{table(facts['faithfulness'], shown)}"
    told = {**facts["summary"], **{k: v for k, v in facts.items() if k.startswith("saved")}}
    return Answer(facts, f"{text}\n\n{fields(told)}")


def hd(
    model: ModelOption = "atlas-dense",
    task: Annotated[
        str, typer.Option("--task", help="analogy, pattern, association or question.")
    ] = "analogy",
    split: Annotated[
        str,
        typer.Option(
            "--split",
            help="What is held out: pair (of facts), entity, relation, both, combination.",
        ),
    ] = "pair",
    dim: Annotated[int, typer.Option("--dim", help="Numbers of a hypervector.")] = 2048,
    n_train: Annotated[int, typer.Option("--n-train", help="Training prompts.")] = 6000,
    n_test: Annotated[int, typer.Option("--n-test", help="Test prompts.")] = 400,
    after: Annotated[
        bool, typer.Option("--after", help="Read at the word that the model has said.")
    ] = False,
    solver: Annotated[
        str, typer.Option("--solver", help="threshold (queries, as published), greedy, resonator.")
    ] = "threshold",
    augment: Annotated[
        str, typer.Option("--augment", help="none, or single_concepts, for the published encoder.")
    ] = "none",
    seed: SeedOption = 0,
    out: OutOption = None,
    revision: RevisionOption = None,
) -> Answer:
    """Read concepts off the stream with a hyperdimensional probe, beside its baselines."""
    from lensbench.app.workflows.hyper import SHOWN, HDAsk, facts

    found = facts(
        HDAsk(model, task, split, dim, n_train, n_test, after, seed, revision, solver, augment), out
    )
    flags = table(found["failures"]) if found["failures"] else found["no_failures"]
    told = {"concepts": found["concepts"], "model accuracy": found["summary"]["model accuracy"]}
    told |= {"saved": found["saved"]} if "saved" in found else {}
    return Answer(
        found,
        f"{table(found['rows'], SHOWN)}\n\nTelling the model's errors:\n{flags}\n\n{fields(told)}",
    )


def geometry(
    stores: Annotated[
        list[str],
        typer.Option("--store", help="Activations (repeat it for checkpoints or models)."),
    ],
    measure: Annotated[
        str, typer.Option("--measure", help="anisotropy, dimension or neighbours.")
    ] = "anisotropy",
    sites: Annotated[
        list[str] | None,
        typer.Option(
            "--site", help="Site (may be repeated); default: the stream after each block."
        ),
    ] = None,
    rows: Annotated[
        int, typer.Option("--rows", help="Most rows (0: 20,000 / 2,000 / 1,000 by measure).")
    ] = 0,
    controls: Annotated[
        list[str] | None,
        typer.Option("--control", help="Store of a control (may be repeated)."),
    ] = None,
    make_controls: Annotated[
        Path | None,
        typer.Option(
            "--make-controls",
            help="Folder: capture the first store's text shuffled, and through a re-initialised "
            "model, there, and use both as controls.",
        ),
    ] = None,
    top: Annotated[int, typer.Option("--top", min=0, help="Rows of the table to print.")] = 30,
    seed: SeedOption = 0,
    out: OutOption = None,
) -> Answer:
    """Measure the shape of stored activations: anisotropy, dimension, neighbours kept."""
    from lensbench.app.workflows import shapes

    beside = list(controls or ())
    if make_controls is not None:
        beside += shapes.make_controls(stores[0], make_controls)
    found = shapes.facts(
        shapes.ShapeAsk(tuple(stores), measure, tuple(sites or ()), rows, tuple(beside), seed), out
    )
    told = {**found["summary"], "control": found["control"]}
    told |= {"saved": found["saved"]} if "saved" in found else {}
    notes = "".join(f"{line}\n" for line in found["warnings"])
    shown = [c for c in shapes.COLUMNS[measure] if c in found["rows"][0]]
    return Answer(found, f"{table(found['rows'][:top], shown)}\n\n{notes}{fields(told)}")
