"""What to do next in a folder, and what people do here first: each with a page and a command."""

from dataclasses import dataclass, field
from pathlib import Path
from shlex import quote

from lensbench.app.workflows.finding import find
from lensbench.app.workflows.overview import is_evaluated
from lensbench.app.workflows.run_parts import goes_on
from lensbench.app.workflows.run_show import how_to_go_on
from lensbench.app.workflows.sequences import name_of_model
from lensbench.app.workflows.stores import store_info
from lensbench.errors import LensbenchError

MODEL, TEXT = "atlas-dense", "The English word for coeur is heart ."
"""A bundled model, and a sentence of the world that it knows."""
TYPED = "My own text"
"""What the page Lens calls a typed text."""
FILED = "A file in this folder"
"""What the page Capture calls a text of the folder shown."""
MOST = 3


@dataclass(frozen=True)
class Step:
    """Something to do: what, why, the page that does it, and the command."""

    title: str
    why: str
    page: str
    query: dict[str, str] = field(default_factory=dict[str, str])
    command: str = ""


FIRST = Step(
    "See a first picture",
    "What every layer of a bundled model would predict, token by token. Nothing has to be made "
    "before.",
    "lens", {"from": TYPED, "model": MODEL, "text": TEXT},
    f'lensbench lens text --model {MODEL} --prompt "{TEXT}"',
)  # fmt: skip


def next_steps(root: Path, rows: list[dict[str, object]], stores: list[str]) -> list[Step]:
    """At most three, the first one being what is missing most; ``rows`` are runs, newest first."""
    runs = {str(row["run"]): str(row["state"]) for row in rows}
    steps = [] if stores or runs else [FIRST]
    if not stores:
        steps.append(Step(
            "Capture activations", "Everything else reads a store: the model is run once, on your "
            "text.", "capture", {"model": MODEL},
            f"lensbench capture --model {MODEL} --text atlas:2000 --out {quote(f'{root}/acts')}",
        ))  # fmt: skip
    live = [run for run, state in runs.items() if goes_on(state)]
    broken = [run for run, state in runs.items()
              if run not in live and state not in ("finished", "damaged")]  # fmt: skip
    done = [run for run, state in runs.items() if state == "finished"]
    bare = [run for run in done if not is_evaluated(root / run)]
    known = [run for run in done if is_evaluated(root / run)]
    if live:
        steps.append(Step(f"Follow {live[0]}", "It goes on; its curves grow on its page.", "runs",
                          {"run": live[0]},
                          f"lensbench runs show {quote(str(root / live[0]))}"))  # fmt: skip
    if bare and stores:
        steps.append(Step(
            f"Evaluate {bare[0]}", "Its numbers so far are those of training. An evaluation "
            "measures it beside controls.", "runs", {"run": bare[0]},
            f"lensbench eval sae {quote(str(root / bare[0]))} --store "
            f"{quote(str(root / stores[0]))} --model "
            + quote(name_of_model(str(root / stores[0])) or "M"),
        ))  # fmt: skip
    if stores and not runs:
        steps.append(_train(root, stores[0]))
    if known:
        steps.append(Step(
            f"See what {known[0]} reached", "Its dictionaries side by side: sparsity against "
            "fidelity, with intervals and controls.", "sweep", {"run": known[0]},
            f"lensbench report {quote(str(root / known[0]))}",
        ))  # fmt: skip
    if len(done) > 1:
        one, other = done[:2]
        steps.append(Step(
            "Compare two runs", f"{one} and {other}: the settings that differ, then what they "
            "reach.", "compare", {"one": one, "other": other},
            f"lensbench runs diff {quote(str(root / one))} {quote(str(root / other))}",
        ))  # fmt: skip
    if broken:
        whole = runs[broken[0]] in ("stopped", "failed", "lost")
        why = ("It ended before it was done; it goes on from its last checkpoint." if whole
               else f"It is not whole: {runs[broken[0]]}.")  # fmt: skip
        steps.append(Step(f"Go on with {broken[0]}", why, "runs", {"run": broken[0]},
                          how_to_go_on(root / broken[0])))  # fmt: skip
    if stores and runs:
        steps.append(_train(root, stores[0]))
    if stores:
        steps.append(Step(
            "Read a stored text with a lens", "What each layer would predict at every token.",
            "lens", {"store": stores[0]},
            f"lensbench lens layers --store {quote(str(root / stores[0]))}",
        ))  # fmt: skip
    return steps[:MOST]


def _train(root: Path, store: str) -> Step:
    return Step(
        "Train dictionaries", "Several sizes and sparsities on one store are trained as one job.",
        "train", {"store": store},
        f"lensbench train sae --store {quote(str(root / store))} --sites {_site_of(root / store)} "
        f"--d-sae 512 --k 8,16,32 --out {quote(f'{root}/runs/first')}",
    )  # fmt: skip


def _site_of(store: Path) -> str:
    """A site to begin with: the residual stream half way up, or the first one."""
    try:
        sites = [str(row["site"]) for row in store_info(store)["sites"]]
    except LensbenchError:
        sites = []
    residual = [site for site in sites if site.endswith("resid_post")]
    return residual[(len(residual) - 1) // 2] if residual else next(iter(sites), "SITE")


def tasks(root: Path, stores: list[str], run: str = "") -> list[Step]:
    """The eight things that people do here first; ``run`` is an evaluated run, if there is one."""
    own = {"model": MODEL}
    if models := find(root).models:
        own = {"model": models[0].relative_to(root).as_posix()}
        texts = find(root).texts
        own |= {"from": FILED, "file": texts[0].relative_to(root).as_posix()} if texts else {}
    store = {"store": stores[0]} if stores else {}
    of = {"run": run} if run else {}
    return [
        Step("First picture", "a lens on a sentence of a bundled model", FIRST.page, FIRST.query),
        Step("Own model and text", "capture from a folder in hub format and a text file",
             "capture", own),
        Step("A sweep compared", "several sizes and sparsities, beside controls",
             "sweep" if run else "train", of or store),
        Step("A latent found and steered with", "filter the table, open one, add its direction",
             "latent", of),
        Step("A head patched and verified", "put clean heads into corrupted prompts",
             "patching", {"model": MODEL}),
        Step("An expert suppressed", "who is routed where, and what happens without one",
             "experts", {"model": "atlas-moe"}),
        Step("An exit threshold chosen", "predicted speed-up against agreement, from a store",
             "acceleration", store),
        Step("A dictionary shared", "write it in SAELens' format: lensbench runs export RUN/NAME "
             "--out DIR", "runs", of),
    ]  # fmt: skip
