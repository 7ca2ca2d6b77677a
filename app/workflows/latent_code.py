"""Python that shows a latent as its page does, with nothing but the library's own calls."""

from collections.abc import Sequence
from pathlib import Path

import pandas as pd

from lensbench import belonging
from lensbench.app.workflows.latent_figures import MOST_NAMED
from lensbench.app.workflows.latent_page import BOARD, dictionary_of
from lensbench.app.workflows.latent_related import RANDOM
from lensbench.app.workflows.latent_steering import LatentSteer, direction_of, python_of
from lensbench.app.workflows.live import hold_store
from lensbench.app.workflows.sequences import model_name
from lensbench.app.workflows.steering_beside import LATENT, BesideAsk
from lensbench.app.workflows.steering_code import is_public, step_code

TITLE = "How often latents fire"


def opened_code(run: Path, name: str, used: str = "saes", first: Sequence[str] = ()) -> list[str]:
    """Lines that import what is used, and open a dictionary."""
    place = Path(dictionary_of(run, name).folder).parent  # that of its part, of an array of runs
    return [
        "import lensbench", *first, f"from lensbench import {used}", "",
        f"runs = saes.open_runs({str(place)!r})",
        f"run = next(run for run in runs if run.name == {name!r})",
    ]  # fmt: skip


def load_code(name: str, revision: str | None = None) -> str:
    """The line that loads a model."""
    told = f", revision={revision!r}" if revision else ""
    return f"model = lensbench.load_model({name!r}{told})"


def _board(run: Path, name: str, latent: int, store: Path, used: str, first: Sequence[str] = (),
           model: bool = True) -> list[str]:  # fmt: skip
    """Lines that make the dashboard of a latent; its logit effects and words need the model."""
    return [
        *opened_code(run, name, used, first),
        f"store = lensbench.open_store({str(store)!r})",
        *[load_code(*model_name(hold_store(str(store))))] * model,
        f"look = saes.DashboardConfig(max_tokens={BOARD.max_tokens}, per_band={BOARD.per_band})",
        f"board = saes.dashboards(run, store, [{latent}]{', model' * model}, config=look)",
    ]


def histogram_code(run: Path, name: str, latent: int, store: Path) -> str:
    """Python that draws the non-zero activations of a latent."""
    return "\n".join([
        *_board(run, name, latent, store, "plots, saes", model=False),
        "bins = board.histogram_frame()",
        'plots.histogram(bins, value="activation", weight="tokens", bins=len(bins), log_y=True,',
        '                title="Activations", subtitle=board.looked_at)\n',
    ])  # fmt: skip


def contexts_code(run: Path, name: str, latent: int, store: Path) -> str:
    """Python that gives the contexts of a latent with their text."""
    return "\n".join([
        *_board(run, name, latent, store, "saes"),
        'board.contexts_frame().drop(columns="context")\n',
    ])  # fmt: skip


def written_code(run: Path, name: str, latent: int, store: Path, *, control: bool) -> str:
    """Python that draws both ends of a latent's logit effects; ``control``: with what is random."""
    return "\n".join([
        *_board(run, name, latent, store, "saes", ["import plotly.graph_objects as go"]),
        'frame = board.effects_frame().drop_duplicates("token_id")',
        'frame = frame.sort_values("effect", ascending=False, ignore_index=True)\n',
        "figure = go.Figure()",
        'for name, up in (("promotes", True), ("suppresses", False)):',
        '    part = frame[(frame["effect"] >= 0) == up]',
        '    figure.add_bar(x=part["effect"], y=part.index, name=name, orientation="h")',
        *[
            'most = next(v for k, v in board.controls.values.items() if "random direction" in k)',
            "ends = [-0.5, len(frame) - 0.5]",
            "figure.add_scatter(x=[most, most, None, -most, -most], y=[*ends, None, *ends],",
            '                   mode="lines", name="random direction, its largest")',
        ] * control,
        'figure.update_yaxes(tickvals=frame.index, ticktext=frame["token"], '
        'autorange="reversed")',
        'figure.update_layout(xaxis_title="logit effect [logits, direction at rms 1]")\n',
    ])  # fmt: skip


def all_written_code(run: Path, name: str, latent: int) -> str:
    """Python that draws the logit effects of a latent on every token, beside random directions."""
    known = belonging.trained_on(dictionary_of(run, name).coder.metadata)
    load = load_code(str(known.get("source") or known.get("name")), known.get("revision"))
    return "\n".join([
        *opened_code(run, name, "plots, saes", ["import pandas as pd", "import torch"]),
        load,
        "rows = run.coder.W_dec.detach().float().cpu()",
        f"random = torch.randn({RANDOM}, rows.shape[1], "
        "generator=torch.Generator().manual_seed(0))",
        "with torch.no_grad():",
        f"    own = saes.logit_effects(model, rows[[{latent}]]).ravel().numpy()",
        "    chance = saes.logit_effects(model, random).ravel().numpy()",
        "frame = pd.concat([",
        f'    pd.DataFrame({{"of": "latent {latent}", "effect": own, "tokens": 1.0}}),',
        f'    pd.DataFrame({{"of": "{RANDOM} random directions, mean count", "effect": chance,',
        f'                  "tokens": 1 / {RANDOM}}})], ignore_index=True)',
        'frame.attrs["units"] = {"effect": "logits, direction at rms 1", "tokens": "tokens"}',
        'plots.histogram(frame, value="effect", color="of", weight="tokens", bins=60,',
        '                title="On every token", subtitle="direct path to the logits")\n',
    ])  # fmt: skip


def density_code(run: Path, name: str, rows: pd.DataFrame, of: int) -> str:
    """Python that draws how often some of the ``of`` latents of an evaluated dictionary fire."""
    few = len(rows) < of
    kept = [f"table = table.loc[{sorted(int(n) for n in rows['latent'])}]"] * few
    lines = [
        "import pandas as pd", "from lensbench import plots, saes\n",
        f"found = saes.open_evaluation({str(run)!r})",
        f'table = pd.DataFrame({{"density": found.density[{name!r}]}})  # a row per latent',
        *kept,
    ]  # fmt: skip
    if few and len(rows) > MOST_NAMED:  # too many to write down: the file that is offered has them
        lines = ["import pandas as pd", "from lensbench import plots\n",
                 'table = pd.read_csv("latent-density.csv")']  # fmt: skip
    return "\n".join([
        *lines,
        'table.attrs["units"] = {"density": "share of tokens"}',
        f'plots.histogram(table, value="density", log_x=True, title="{TITLE}")\n',
    ])  # fmt: skip


def text_code(run: Path, name: str, store: Path, text: str, then: str) -> str:
    """Python that runs the model once on a text; ``then`` is what is asked of all latents on it."""
    return "\n".join([
        *opened_code(run, name),
        load_code(*model_name(hold_store(str(store)))),
        f"found = saes.active_latents(run, model, {text!r})",
        f"found{then}\n",
    ])  # fmt: skip


def pointing_code(run: Path, name: str, latent: int, n: int) -> str:
    """Python that gives the ``n`` latents whose decoder rows point most nearly as one's does."""
    lines = [line for line in opened_code(run, name) if line != "import lensbench"]
    return "\n".join([
        *lines,
        "rows = run.coder.W_dec.detach().float().cpu().numpy()",
        f"found = saes.nearest_latents(rows[{latent}], run, n={n + 1}).to_frame()",
        f'found = found.loc[found["latent"] != {latent}, ["latent", "cosine"]].head({n})',
        'found = found.reset_index(drop=True)',
        'found.insert(0, "rank", found.index + 1)',
        "found\n",
    ])  # fmt: skip


def steer_code(ask: LatentSteer) -> str:
    """Python that steers a prompt with a latent, and draws KL beside random directions."""
    same = BesideAsk(
        "", ask.prompt, LATENT, run=ask.run, dictionary=ask.name, latent=ask.latent,
        strength=ask.strength, where=ask.where, new_tokens=ask.new_tokens,
        temperature=ask.temperature, seed=ask.seed,
    )  # fmt: skip
    if not is_public(same):
        return python_of(ask)
    unit = ask.largest * direction_of(Path(ask.run), ask.name, ask.latent).norm
    lines = step_code(same, unit).replace("this direction", "this latent")
    return lines.replace("length of the state at the steered tokens",
                         "what it adds where it fires most")  # fmt: skip
