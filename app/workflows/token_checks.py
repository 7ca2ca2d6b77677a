"""The Token page's checks: each runs the model once, under its lock, and stands beside a control.

A read-out of a stored row says what a method sees; only a run says whether the model uses it. All
rows of a check (clean, edited, controls) are one batch of one forward pass.
"""

import time
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from lensbench.app.workflows.live import hold_store, running
from lensbench.app.workflows.sequences import model_name
from lensbench.app.workflows.token_experts import expert_cell
from lensbench.app.workflows.token_page import check_belongs, exit_cell, run_of
from lensbench.errors import ConfigError
from lensbench.plan import Add, Edit, Plan, Zero
from lensbench.sites import Site, canonical_name
from lensbench.tokens import token_texts

if TYPE_CHECKING:
    from torch import Tensor

    from lensbench.models import Model
    from lensbench.store import ActivationStore

CONTROLS = 8
"""Random directions, or other tokens, that a check is compared with."""


@dataclass(frozen=True, eq=False)
class Check:
    """Outcome of one run: the number, the control's, and what they mean."""

    what: str
    value: float
    control: float
    unit: str
    verdict: str
    table: pd.DataFrame
    seconds: float = 0.0
    details: dict[str, Any] = field(default_factory=dict[str, Any])


@dataclass(frozen=True, eq=False)
class _Place:
    """A stored token as the model is given it."""

    store: "ActivationStore"
    ids: "Tensor"
    rows: np.ndarray
    position: int


def check_lens(url: str, row: int) -> Check:
    """Run the model on the sequence and compare its lens, layer by layer, with the store's.

    Value: the largest ``KL(live p_l || stored p_l)`` over the stored layers, nats (rounding to the
    store's type moves it a little). Control: the same with the stored states of other tokens of
    the sequence, smallest of them. The last line compares with the model's own output.

    Raises:
        MissingDataError, MismatchError: as the lens itself.
    """
    import torch

    from lensbench.probes.lenses.states import lens_layers

    place, began = place_of(url, row), time.perf_counter()
    layers = lens_layers(place.store)
    sites = [Site("resid_post", layer) for layer in layers]
    with running_of(place.store) as model:
        out = model.run(place.ids, capture=sites)
        live = torch.stack([out.acts[s][0, place.position].float() for s in sites])
        others = [int(r) for r in place.rows if r >= 0 and r != row][:CONTROLS]
        stored = [_stored(place.store, sites, r).to(live) for r in (row, *others)]
        told = model.unembed(live).float()
        read = [model.unembed(s).float() for s in stored]
        own = _logits(out)[0, place.position].float()
    gaps = [kl(told, z).cpu().numpy() for z in read]
    final = float(kl(own[None], read[0][-1:])[0])
    control = float(min((g.max() for g in gaps[1:]), default=np.nan))
    table = pd.DataFrame({"layer": [*map(str, layers), "output"],
                          "kl_live_to_stored": [*gaps[0], final]})  # fmt: skip
    table.attrs["units"] = {"kl_live_to_stored": "KL(live ‖ stored) [nats]"}
    value = float(max(gaps[0].max(), final))
    good = value < 0.1 * control
    if not np.isfinite(control):
        verdict = "There is no other stored token to compare with."
    elif good:
        verdict = "The stored lens is what the model computes on this text."
    else:
        verdict = "The stored states are NOT what the model computes on this text."
    return Check("largest KL(live ‖ stored) over the layers and the output", value, control,
                 "nats", verdict, table, time.perf_counter() - began,
                 {"control": "the same with the stored states of another token (nearest of "
                             f"{len(others)})"})  # fmt: skip


def check_latent(url: str, row: int, folder: str, name: str, latent: int, seed: int = 0) -> Check:
    """Take the latent's contribution out at this token, and see the next-token logits move.

    Edit: ``x <- x - a_i d_i`` at the dictionary's site, this position only. Value: ``KL(clean ||
    edited)`` of the next token, nats. Control: directions of random other latents of the same
    dictionary, each as long as ``a_i d_i``; their mean. All in one batch of one run.

    Raises:
        MismatchError: a dictionary of another model.
        ConfigError: a latent that the dictionary has not, or that is silent at this token.
    """
    import torch

    place, began = place_of(url, row), time.perf_counter()
    run = run_of(folder, name)
    check_belongs(run, place.store)
    site, sae = Site.parse(canonical_name(run.site)), run.sae
    if not 0 <= latent < sae.d_sae:
        raise ConfigError(f"{name} has latents 0 to {sae.d_sae - 1}; got {latent}")
    act = float(sae.encode(torch.from_numpy(place.store.rows(site, [row])))[0, latent])
    if act <= 0:
        raise ConfigError(f"latent {latent} of {name} is silent at this token: nothing to take out")
    shift = act * sae.W_dec[latent]
    rng = np.random.default_rng([seed, latent])
    others = rng.choice(np.delete(np.arange(sae.d_sae), latent), min(CONTROLS, sae.d_sae - 1),
                        replace=False)  # fmt: skip
    random = sae.W_dec[torch.from_numpy(others)]
    random = random / random.norm(dim=-1, keepdim=True).clamp_min(1e-12) * shift.norm()
    shape = place.store.shape(site)
    with running_of(place.store) as model:
        logits = _run_edited(model, place, site, [-v.reshape(shape) for v in (shift, *random)])
        table = moves(model, logits[0], logits[1])
    gaps = kl(logits[:1].expand(len(logits) - 1, -1), logits[1:]).cpu().numpy()
    control = gaps[1:]
    higher = int((control >= gaps[0]).sum())
    verdict = (f"Taking latent {latent} out moves the next-token prediction more than each of "
               f"{len(control)} random latents of equal norm." if not higher else
               f"{higher} of {len(control)} random latents of equal norm move the prediction at "
               f"least as much: no sign that it depends on latent {latent} here.")  # fmt: skip
    return Check(f"KL(clean ‖ without latent {latent}) of the next token", float(gaps[0]),
                 float(control.mean()), "nats", verdict, table, time.perf_counter() - began,
                 {"control": f"mean of {len(control)} random latents of equal norm "
                             f"(largest {control.max():.3g} nats)",
                  "edit": f"{site} at position {place.position}: - {act:.3g} * decoder row "
                          f"(norm {float(shift.norm()):.3g})"})  # fmt: skip


def check_exit(url: str, row: int) -> Check:
    """Stop the model after the exit layer, on the text, and see whether it says the same.

    Value: 1 if the most probable next token of the stopped run is the final one. Control: the
    stored lens one block earlier, which by the definition of the exit depth disagrees.

    Raises:
        MissingDataError, MismatchError: as the lens itself.
    """
    found, place, began = exit_cell(url, row), place_of(url, row), time.perf_counter()
    with running_of(place.store) as model:
        early = found.layer + 1 < model.n_layers
        out = model.run(place.ids, Plan(stop=found.layer + 1) if early else Plan())
        said = int(_logits(out)[0, place.position].argmax())
        words = token_texts(model.tokenizer, [said])
        n_layers = model.n_layers
    final = str(found.best["token"].iloc[-1])
    value = float(said == int(found.best["id"].iloc[-1]))
    earlier = found.best.loc[found.best["layer"] < found.layer, "is_final"]
    control = float(earlier.iloc[-1]) if len(earlier) else float("nan")
    ending = "the same as in the end." if value else f"not {final!r}, as in the end."
    verdict = f"Stopped after block {found.layer}, the model says {words[0]!r}: {ending}"
    return Check("agreement of the stopped run with the final prediction", value, control,
                 "0 or 1", verdict, found.best, time.perf_counter() - began,
                 {"control": "the stored lens one block earlier" if len(earlier) else
                             "none: the first layer already agrees",
                  "blocks run": f"{found.layer + 1} of {n_layers}"})  # fmt: skip


def check_expert(url: str, row: int, layer: int) -> Check:
    """Give the strongest expert of this token the weight 0, and see the next-token logits move.

    Value: ``KL(clean || without it)``, nats. Control: the same for the weakest of its experts.

    Raises:
        MissingDataError: no routing in the store.
        ConfigError: no routing of that layer.
    """
    routed, place, began = expert_cell(url, row), place_of(url, row), time.perf_counter()
    here = routed.loc[routed["layer"] == layer]
    if here.empty:
        raise ConfigError(f"the store has no routing of layer {layer}; it has layers "
                          f"{sorted(set(routed['layer']))}")  # fmt: skip
    site = Site("router.weights", layer)
    with running_of(place.store) as model:
        weights = np.asarray(here["weight"], np.float64)
        order = np.argsort(np.nan_to_num(weights))
        slots = [int(order[-1]), int(order[0])]
        plan = [Edit(site, Zero(), rows=(i,), positions=(place.position,), dims=(slot,))
                for i, slot in enumerate(slots, 1)]  # fmt: skip
        logits = one_batch(model, place, plan, 3)
        table = moves(model, logits[0], logits[1])
    gaps = kl(logits[:1].expand(2, -1), logits[1:]).cpu().numpy()
    expert = [int(here["expert"].iloc[s]) for s in slots]
    verdict = (
        f"Without expert {expert[0]} (its strongest) the prediction moves by {gaps[0]:.3g} nats."
    )
    what = f"KL(clean ‖ without expert {expert[0]} in layer {layer})"
    against = {"control": f"without expert {expert[1]}, the weakest of its experts"}
    seconds = time.perf_counter() - began
    return Check(what, float(gaps[0]), float(gaps[1]), "nats", verdict, table, seconds, against)


def place_of(url: str, row: int) -> _Place:
    """The sequence of a row, and its position there."""
    store = hold_store(url)
    found = store.sequence_of(row)
    rows = found.rows[0]
    return _Place(store, found.tokens.ids, rows, int(np.flatnonzero(rows == row)[0]))


def running_of(store: "ActivationStore") -> Any:
    """The store's own model, for us alone."""
    from lensbench.app.workflows.sequences import model_of

    model_of(store)
    return running(*model_name(store))


def _stored(store: "ActivationStore", sites: list[Site], row: int) -> "Tensor":
    import torch

    return torch.stack([torch.from_numpy(store.rows(s, [row])[0]) for s in sites])


def _run_edited(model: "Model", place: _Place, site: Site, added: "list[Tensor]") -> "Tensor":
    """Next-token logits at the place: clean first, then one row per vector added there."""
    plan = [Edit(site, Add(v), rows=(i,), positions=(place.position,))
            for i, v in enumerate(added, 1)]  # fmt: skip
    return one_batch(model, place, plan, len(added) + 1)


def one_batch(model: "Model", place: _Place, edits: list[Edit], rows: int) -> "Tensor":
    """Next-token logits at a place, ``[rows, d_vocab]``, from one run."""
    out = model.run(place.ids.expand(rows, -1), Plan(tuple(edits)))
    return _logits(out)[:, place.position].float()


def _logits(out: Any) -> "Tensor":
    assert out.logits is not None  # asked for
    return out.logits


def kl(p: "Tensor", q: "Tensor") -> "Tensor":
    """KL(p || q) per row of logits, nats."""
    logp, logq = p.log_softmax(-1), q.log_softmax(-1)
    return (logp.exp() * (logp - logq)).sum(-1).clamp_min(0)


def moves(model: "Model", clean: "Tensor", edited: "Tensor", n: int = 8) -> pd.DataFrame:
    """The next tokens whose probability moved most."""
    p, q = clean.softmax(-1).cpu(), edited.softmax(-1).cpu()
    most = (q - p).abs().topk(min(n, len(p))).indices
    return pd.DataFrame({"token": token_texts(model.tokenizer, most.tolist()),
                         "clean": p[most].numpy(), "edited": q[most].numpy(),
                         "change": (q - p)[most].numpy(),
                         "logit_change": (edited - clean).cpu()[most].numpy()})  # fmt: skip
