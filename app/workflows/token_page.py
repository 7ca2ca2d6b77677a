"""The Token page: all that is known of one stored token, read from the store without a run.

Every cell of the page is one function here and answers from one row: the lens asks the model for
its unembedding only, the dictionaries encode that row, routed experts are read where they were
stored. What cannot be known yet says what to do.
"""

from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from lensbench.app.workflows.finding import read_json
from lensbench.app.workflows.lenses import Cell, LensAsk, cell_for
from lensbench.app.workflows.live import hold_runs, hold_store
from lensbench.app.workflows.run_compare import dictionaries
from lensbench.app.workflows.runs import list_runs
from lensbench.app.workflows.sequences import StoredSequence, sequence_at
from lensbench.errors import ConfigError, LensbenchError, MismatchError, MissingDataError
from lensbench.sites import canonical_name

if TYPE_CHECKING:
    from lensbench.saes.runs import SAERun
    from lensbench.store import ActivationStore

MOST_RUNS = 8
"""Runs whose dictionaries encode a token on its page; they are read whole."""


@dataclass(frozen=True, eq=False)
class TokenFacts:
    """Which token it is, and what the store says of model and text."""

    row: int
    position: int
    document: int
    token: str
    target: str
    sequence: StoredSequence
    facts: dict[str, Any] = field(default_factory=dict[str, Any])


def token_facts(url: str, row: int) -> TokenFacts:
    """The token of a row.

    Raises:
        MissingDataError: no such store (any more).
        ConfigError: no such row.
    """
    store, sequence = hold_store(url), sequence_at(url, row)
    here = sequence.position_of(row)
    after = sequence.words[here + 1] if here + 1 < len(sequence.words) else ""
    facts = {
        "model": f"{store.model['name']} {store.model.get('fingerprint', '')}",
        "text": store.text.get("name") or store.text.get("path") or store.text.get("kind"),
        "dtype": store.dtype,
        "token id": int(sequence.ids[here]),
    }
    return TokenFacts(row, here, int(sequence.docs[here]), sequence.words[here], after, sequence,
                      facts)  # fmt: skip


def lens_code(url: str, row: int, lens: str = "") -> str:
    """Python that draws the lens trajectory of a token."""
    more = f", {lens!r}" if lens else ""
    return (
        "from lensbench.app.workflows.token_page import lens_cell\n\n"
        f"lens_cell({url!r}, {row}{more}).plot(height=340)\n"
    )


def lens_cell(url: str, row: int, lens: str = "") -> Cell:
    """What every stored layer would predict at this token, by the logit lens or a tuned one.

    Raises:
        MissingDataError: the store lacks the last block's output, or its model is not to be found.
        MismatchError: what now has the model's name has other weights.
    """
    from lensbench.probes.lenses.states import lens_layers

    layers = lens_layers(hold_store(url))
    ask = LensAsk(store=url, row=row, max_tokens=1, lens=lens)
    return cell_for(ask, sequence_at(url, row).position_of(row), layers[-1])


@dataclass(frozen=True, eq=False)
class ExitDepth:
    """First layer from which on the lens predicts what the model says in the end."""

    layer: int
    last: int
    best: pd.DataFrame
    """One row per layer: most probable token, its id, probability, and if it is the final one."""


def exit_cell(url: str, row: int) -> ExitDepth:
    """Exit depth: the smallest l with ``argmax p_m = argmax p_L`` for every stored m >= l.

    Raises:
        MissingDataError, MismatchError: as :func:`lens_cell`.
    """
    from lensbench.app.workflows.sequences import model_of
    from lensbench.probes.lenses.states import states_of_store
    from lensbench.tokens import token_texts

    store = hold_store(url)
    found = states_of_store(store, row, max_tokens=1)
    model = model_of(store).model
    best = model.unembed(found.states[:, 0]).float().cpu().softmax(-1).max(-1)
    same = (best.indices == best.indices[-1]).numpy()
    first = int(len(same) - np.argmin(same[::-1])) if not same.all() else 0
    words = token_texts(model.tokenizer, best.indices.tolist())
    frame = pd.DataFrame({"layer": found.layers, "token": words, "id": best.indices.numpy(),
                          "probability": best.values.numpy(), "is_final": same})  # fmt: skip
    return ExitDepth(found.layers[first], found.layers[-1], frame)


@dataclass(frozen=True, eq=False)
class Latents:
    """Active latents of one dictionary at one token, strongest first."""

    run: str
    name: str
    site: str
    d_sae: int
    active: pd.DataFrame
    """One row per active latent: latent, activation, norm of what it adds to the reconstruction."""
    unexplained: float
    """``|x - x_hat|^2 / |x - b_dec|^2`` at this token (FVU is the same over many tokens)."""

    @property
    def title(self) -> str:
        """Run, dictionary and site."""
        return f"{Path(self.run).name} / {self.name} at {self.site}"


def latent_cells(root: Path, url: str, row: int) -> tuple[list[Latents], list[str]]:
    """The dictionaries under ``root`` that belong to the store, and why others do not.

    The row is encoded now, with the dictionary's own encoder. Of many runs that fit the newest
    :data:`MOST_RUNS` are looked at; those of another model are not opened at all.
    """
    store = hold_store(url)
    found: list[Latents] = []
    refused: list[str] = []
    looked: set[Path] = set()
    fitting, others = _by_model(runs_under(root), store)
    refused += [f"{n}: trained on another model" for run in others for n in dictionaries(run)]
    for folder in fitting:
        if len(looked) == MOST_RUNS:
            refused.append(f"only the {MOST_RUNS} newest of {len(fitting)} runs of this model are "
                           "looked at; the page Latents opens any of them")  # fmt: skip
            break
        try:
            runs = hold_runs(folder)
        except LensbenchError as error:
            refused.append(f"{folder.name}: {error}")
            continue
        for run in runs:
            try:
                found.append(encode_row(run, store, row, folder))
                looked.add(folder)
            except (MismatchError, MissingDataError) as error:
                refused.append(str(error))
    return found, refused


def summary_of(found: list[Latents]) -> pd.DataFrame:
    """One row per dictionary: how many latents fire, what is left unexplained, the strongest."""
    return pd.DataFrame([
        {"dictionary": one.title, "active": len(one.active), "latents": one.d_sae,
         "unexplained": one.unexplained,
         "strongest": None if one.active.empty else int(one.active["latent"].iloc[0])}
        for one in found
    ])  # fmt: skip


def _by_model(runs: list[Path], store: "ActivationStore") -> tuple[list[Path], list[Path]]:
    """Runs that may belong to a store, and those that say they are of another model."""
    ours = store.model.get("fingerprint")
    fitting: list[Path] = []
    others: list[Path] = []
    for run in runs:
        path = run / "provenance.json"
        try:
            told = read_json(path)["model"] if path.is_file() else {}
        except LensbenchError:
            told = {}
        theirs = told.get("fingerprint")
        (fitting if not (ours and theirs) or ours == theirs else others).append(run)
    return fitting, others


def runs_under(root: Path) -> list[Path]:
    """Runs below ``root`` (controls left out)."""
    return [Path(str(line["run"])) for line in list_runs(root)["runs"]]


def encode_row(run: "SAERun", store: "ActivationStore", row: int, folder: Path) -> Latents:
    """One row through one dictionary.

    Raises:
        MismatchError: a dictionary of another model.
        MissingDataError: the store has not the dictionary's site.
    """
    import torch

    check_belongs(run, store)
    site, sae = canonical_name(run.site), run.sae
    x = torch.from_numpy(store.rows(site, [row]))
    acts = sae.encode(x)
    active = acts[0].nonzero()[:, 0]
    order = active[acts[0, active].argsort(descending=True)]
    lengths = acts[0, order] * sae.W_dec[order].norm(dim=-1)
    left = x - sae.decode(acts)
    spread = (x - sae.b_dec).pow(2).sum().clamp_min(1e-12)
    frame = pd.DataFrame({"latent": order.numpy(), "activation": acts[0, order].numpy(),
                          "norm": lengths.numpy()})  # fmt: skip
    frame.attrs["units"] = {"activation": "units of the site", "norm": "|activation * decoder row|"}
    unexplained = float(left.pow(2).sum() / spread)
    return Latents(str(folder), run.name, site, sae.d_sae, frame, unexplained)


def check_belongs(run: "SAERun", store: "ActivationStore") -> None:
    """Refuse a dictionary of another model, or of a site that the store has not.

    Raises:
        MismatchError, MissingDataError: see above.
    """
    from lensbench.saes.evaluation.passes import as_dictionary, check_trained_on

    dictionary = as_dictionary(run)
    check_trained_on(dictionary, store)
    if dictionary.site not in store.sites:
        raise MissingDataError(f"{run.name} reads {dictionary.site}, which {store.url} lacks")
    if run.sae.d_model != store.width(dictionary.site):
        raise MismatchError(f"{run.name} reads vectors of {run.sae.d_model} numbers, "
                            f"{dictionary.site} has {store.width(dictionary.site)}")  # fmt: skip


def run_of(folder: str, name: str) -> "SAERun":
    """One dictionary of a run.

    Raises:
        ConfigError: the run has none of that name.
    """
    for run in hold_runs(Path(folder)):
        if run.name == name:
            return run
    raise ConfigError(f"{folder} has no dictionary named {name!r} (any more)")
