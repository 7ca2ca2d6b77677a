"""``lensbench experts``: mixtures of experts, mapped, ranked, suppressed and scanned."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any

import typer

from lensbench.app.cli.console import Answer, fields, table
from lensbench.app.cli.groups import ModelOption, RevisionOption, new_group

PromptsOption = Annotated[
    str,
    typer.Option(
        "--prompts",
        help='.jsonl with "text" (and "label", "group") per line, .txt with one prompt per line, '
        "or desk:N (desk:N:SPLIT:SEED) for questions of the desk.",
    ),
]
SaysOption = Annotated[
    list[str] | None,
    typer.Option(
        "--says",
        help="The behaviour: the answer holds this phrase (may be repeated; desk:N knows its own).",
    ),
]
NewOption = Annotated[
    int, typer.Option("--new-tokens", help="Tokens of the answer that are decoded.")
]
TopOption = Annotated[int, typer.Option("--top", min=1, help="Experts to show or to take.")]
ActivationOption = Annotated[
    str, typer.Option("--activation", help="weight (gate weights) or count (selections).")
]
NormaliseOption = Annotated[
    str, typer.Option("--normalise", help="none (sums over tokens) or per_token.")
]
FreeOption = Annotated[
    bool,
    typer.Option(
        "--permute-freely", help="Permute labels between prompts of unequal length as well."
    ),
]
BatchOption = Annotated[int, typer.Option("--batch-size", help="Prompts per forward.")]
SeedOption = Annotated[int, typer.Option("--seed", help="Seed of every choice.")]
OutOption = Annotated[Path | None, typer.Option("--out", help="Folder to save the result in.")]


def group() -> typer.Typer:
    """The commands of this file."""
    app = new_group("Mixtures of experts: who is routed where, and what single experts do.")
    app.command("map")(map_)
    app.command("rank")(rank)
    app.command("suppress")(suppress)
    app.command("rates")(rates)
    app.command("scan")(scan)
    return app


def map_(
    model: ModelOption,
    prompts: PromptsOption = "",
    store: Annotated[
        str,
        typer.Option(
            "--store",
            help="Read it off a store instead; the model is not run. Made by `lensbench capture "
            "--sites blocks.*.router.weights blocks.*.router.indices`.",
        ),
    ] = "",
    top: TopOption = 10,
    batch_size: BatchOption = 32,
    out: OutOption = None,
    revision: RevisionOption = None,
) -> Answer:
    """Show which experts the tokens of --prompts, or of a store, are routed to."""
    from lensbench.app.workflows.experts import map_experts

    facts = map_experts(model, prompts, store=store, top=top, batch_size=batch_size, out=out,
                        revision=revision)  # fmt: skip
    return _answer(facts, ("layer", "expert", "load", "weight", "prompts"))


def rank(
    model: ModelOption,
    prompts: PromptsOption,
    says: SaysOption = None,
    new_tokens: NewOption = 16,
    target: Annotated[
        str | None, typer.Option("--target", help="Class whose experts are ranked.")
    ] = None,
    activation: ActivationOption = "weight",
    normalise: NormaliseOption = "none",
    permutations: Annotated[
        int, typer.Option("--permutations", help="Permutations of the labels.")
    ] = 1000,
    permute_freely: FreeOption = False,
    top: TopOption = 10,
    batch_size: BatchOption = 32,
    seed: SeedOption = 0,
    out: OutOption = None,
    revision: RevisionOption = None,
) -> Answer:
    """Rank experts by how differently two classes of --prompts use them.

    Classes are the labels of the file or, with --says, what the model answers. A high rank is no
    proof that an expert makes the behaviour: test it with `lensbench experts suppress`.
    """
    from lensbench.app.workflows.experts import rank_experts

    facts = rank_experts(
        model, prompts, says=says or (), new_tokens=new_tokens, target=target,
        activation=activation, normalise=normalise, permutations=permutations,
        free=permute_freely, top=top, batch_size=batch_size, seed=seed, out=out,
        revision=revision,
    )  # fmt: skip
    return _answer(facts, ("rank", "layer", "expert", "differential", "mean", "p", "n"))


def suppress(
    model: ModelOption,
    prompts: PromptsOption,
    says: SaysOption = None,
    new_tokens: NewOption = 16,
    experts: Annotated[
        str,
        typer.Option(
            "--experts",
            help="LAYER:EXPERT,...: suppress these; default: the --top found on one half of the "
            "prompts, tested on the other.",
        ),
    ] = "",
    top: TopOption = 10,
    neutral: Annotated[
        str,
        typer.Option(
            "--neutral",
            help="Prompts that should not change, as --prompts (desk:N: plain sentences); default: "
            "test prompts without the behaviour.",
        ),
    ] = "",
    activation: ActivationOption = "weight",
    normalise: NormaliseOption = "none",
    permute_freely: FreeOption = False,
    draws: Annotated[
        int,
        typer.Option(
            "--draws",
            min=0,
            help="Sets of matched random experts, the control; 19 are the fewest that give a p of "
            ".05.",
        ),
    ] = 20,
    batch_size: BatchOption = 32,
    seed: SeedOption = 0,
    out: OutOption = None,
    revision: RevisionOption = None,
) -> Answer:
    """Suppress and force experts, and count how often the answer then holds --says.

    The verdict ranks each rate among those of --draws sets of random experts. They are matched on
    layer, number and load.
    """
    from lensbench.app.workflows.experts import suppress_experts

    facts = suppress_experts(
        model, prompts, says=says or (), new_tokens=new_tokens, chosen=experts, top=top,
        neutral=neutral, activation=activation, normalise=normalise, free=permute_freely,
        draws=draws, batch_size=batch_size, seed=seed, out=out, revision=revision,
    )  # fmt: skip
    shown = ("condition", "rate", "low", "high", "n", "newly", "no_longer", "kl", "perplexity",
             "neutral_changed")  # fmt: skip
    told = "".join(f"\n{how}: {one['verdict']}" for how, one in facts["verdicts"].items())
    said = " or ".join(repr(phrase) for phrase in facts["says"])
    text = f"{table(_few(facts['conditions']), shown)}\n\nrate: share of answers that hold {said}; "
    text += "newly, no_longer: answers that do and the clean ones did not, and the reverse; "
    text += "kl: KL(clean ‖ steered) [nats], per token of neutral prompts"
    text += f"; random: mean, lowest and highest rate of the sets (all: --json)\n{told}" * bool(
        told
    )
    sets = min((one["random_sets"] for one in facts["verdicts"].values()), default=draws)
    if sets < draws:
        text += (
            f"\nThere are only {sets} sets of experts like these; suppress more at once for more."
        )
    more = f"{len(facts['changed'])} answers changed under suppression; neutral: {facts['neutral']}"
    columns = ("rank", "layer", "expert", "load", "differential", "p", "partner", "shared")
    known = [c for c in columns if c in facts["experts"][0]]
    return _answer(facts, known, f"{text}\n\n", f"\n{more}")


def rates(
    model: ModelOption,
    prompts: PromptsOption,
    weight: Annotated[
        list[str],
        typer.Option(
            "--weight",
            help="LAYER:EXPERT=WEIGHT (may be repeated): -1 takes it out, 0 changes nothing, 1 "
            "forces it into every token.",
        ),
    ],
    says: SaysOption = None,
    new_tokens: NewOption = 16,
    draws: Annotated[
        int, typer.Option("--draws", min=1, help="Sets of matched random experts, the control.")
    ] = 20,
    out: OutOption = None,
    revision: RevisionOption = None,
) -> Answer:
    """Count how often the answer holds --says, clean, with experts moved, and with random ones.

    Give prompts on which the experts were not found.
    """
    from lensbench.app.workflows.expert_rates import rates_of

    weights = {name: value for name, _, value in (one.partition("=") for one in weight)}
    facts = rates_of(model, prompts, weights, says=says or (), new_tokens=new_tokens, draws=draws,
                     out=out, revision=revision)  # fmt: skip
    told = {**facts["summary"], "control": facts["control"]}
    told |= {"saved": facts["saved"]} if "saved" in facts else {}
    text = f"{table(facts['rates'])}\n\n{facts['verdict']}\n\n{fields(told)}"
    return Answer(facts, text)


def scan(
    model: ModelOption,
    prompts: PromptsOption,
    says: SaysOption = None,
    new_tokens: NewOption = 16,
    how: Annotated[str, typer.Option("--how", help="suppress, reroute or force.")] = "suppress",
    layers: Annotated[
        str, typer.Option("--layers", help="Only these, such as 1,2; default: every router.")
    ] = "",
    top: TopOption = 10,
    batch_size: BatchOption = 64,
    out: OutOption = None,
    revision: RevisionOption = None,
) -> Answer:
    """Take out every single expert in turn, and count how often the answer holds --says."""
    from lensbench.app.workflows.experts import scan_experts

    facts = scan_experts(
        model, prompts, says=says or (), new_tokens=new_tokens, how=how, layers=layers, top=top,
        batch_size=batch_size, out=out, revision=revision,
    )  # fmt: skip
    return _answer(facts, ("rank", "layer", "expert", "rate", "low", "high", "effect", "load"))


def _few(conditions: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """The random sets as one row of means; low and high are then the lowest and highest rate."""
    rows = [dict(row) for row in conditions if "random" not in row["condition"]]
    for how in ("suppressed", "forced"):
        drawn = [r for r in conditions if r["condition"].startswith(f"{how} random")]
        if drawn:
            mean = {k: sum(r[k] for r in drawn) / len(drawn) for k in drawn[0] if k != "condition"}
            rates = [r["rate"] for r in drawn]
            rows.append({**mean, "condition": f"random {how}", "low": min(rates),
                         "high": max(rates), "n": drawn[0]["n"]})  # fmt: skip
    return rows


def _answer(facts: Mapping[str, Any], columns: Any, before: str = "", after: str = "") -> Answer:
    """The experts as a table, then the summary and the controls."""
    told = {**facts["summary"], "control": facts["control"], **facts["controls"]}
    told |= {"saved": facts["saved"]} if "saved" in facts else {}
    text = f"{before}{table(facts['experts'], columns)}{after}\n\n{fields(told)}"
    return Answer(dict(facts), text)
