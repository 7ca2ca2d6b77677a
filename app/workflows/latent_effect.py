"""Does the model use a latent where it fires most? Take it out there and see the next-token loss.

1. Contexts: the strongest ones of its dashboard whose next token is known.
2. At each, the latent's contribution leaves the state, at that token alone: ``x <- x - a_i d_i``.
3. Control: the same of another latent that is active at the same token, drawn at random.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
import torch

from lensbench.app.workflows.directions import Rows, model_of
from lensbench.app.workflows.latent_page import dictionary_of
from lensbench.app.workflows.live import hold_store
from lensbench.app.workflows.sequences import words_of
from lensbench.errors import NotEnoughDataError
from lensbench.plan import Add, Edit, Plan
from lensbench.saes.evaluation.passes import as_dictionary, encode
from lensbench.sites import Site
from lensbench.stats import Interval, bootstrap_mean

if TYPE_CHECKING:
    from lensbench.saes.latents.result import LatentDashboard

CONTEXTS = 12
"""The strongest contexts that are looked at."""


@dataclass(frozen=True, eq=False)
class LatentEffect:
    """Change of the next token's loss without the latent, beside another active latent."""

    latent: int
    site: str
    own: Interval
    """Mean over contexts of loss without it less clean loss, nats; 95 %, over documents."""
    control: Interval
    difference: Interval
    """Of the two, context by context."""
    frame: pd.DataFrame
    """One row per context."""

    @property
    def verdict(self) -> str:
        """In words."""
        if self.difference.low > 0:
            return (f"Without latent {self.latent} the model predicts these next tokens worse, and "
                    "by more than without another active latent.")  # fmt: skip
        if self.difference.high < 0:
            return (f"Without latent {self.latent} these next tokens are predicted better, or less "
                    "badly than without another active latent.")  # fmt: skip
        return (f"No difference from taking another active latent out: no sign that the next token "
                f"depends on latent {self.latent} in these contexts.")  # fmt: skip


@torch.no_grad()
def latent_effect(
    run: Path, name: str, latent: int, store: Path, board: "LatentDashboard", seed: int = 0
) -> LatentEffect:
    """Take a latent out of its strongest contexts.

    Raises:
        NotEnoughDataError: fewer than two contexts with a next token and another active latent.
        MissingDataError, MismatchError: the model is not to be found, or is another.
    """
    held, rows = hold_store(str(store)), Rows.of(run, name)
    dictionary = as_dictionary(dictionary_of(run, name), encoded=True)
    site, w_dec = Site.parse(rows.site), rows.W_dec.detach().float().cpu()
    rng = np.random.default_rng([seed, latent])
    i = board.index(latent)
    order = np.argsort(-np.nan_to_num(board.activation[i], nan=-1), kind="stable")
    found: list[dict[str, Any]] = []
    with model_of(run, name) as model:
        held.check_model(model.card)
        for row in (int(board.rows[i, j]) for j in order if board.rows[i, j] >= 0):
            if len(found) == CONTEXTS:
                break
            sequence = held.sequence_of(row)
            at = int(np.flatnonzero(sequence.rows[0] == row)[0])
            acts = encode(dictionary.codec, torch.from_numpy(held.rows(dictionary.site, [row])))[0]
            others = [int(n) for n in acts.nonzero()[:, 0] if int(n) != latent]
            if at + 1 >= sequence.tokens.ids.shape[1] or not others:
                continue
            other = int(rng.choice(others))
            shape = (-1,)  # one vector per token, as sites of dictionaries are
            edits = [Edit(site, Add(-float(acts[n]) * w_dec[n].reshape(shape)), rows=(k,),
                          positions=(at,)) for k, n in enumerate((latent, other), 1)]  # fmt: skip
            out = model.run(sequence.tokens.ids.expand(3, -1), Plan(tuple(edits))).logits
            assert out is not None  # asked for
            target = int(sequence.tokens.ids[0, at + 1])
            loss = (-out[:, at].float().log_softmax(-1)[:, target]).cpu().numpy()
            token, following = words_of(held, np.array([int(sequence.tokens.ids[0, at]), target]))
            found.append({
                "row": row, "document": int(sequence.doc_ids[0, at]), "token": token,
                "next token": following, "activation": float(acts[latent]),
                "clean loss": float(loss[0]), "without it": float(loss[1] - loss[0]),
                "other latent": other, "without the other": float(loss[2] - loss[0]),
            })  # fmt: skip
    if len(found) < 2:
        raise NotEnoughDataError(
            f"latent {latent} has {len(found)} context(s) with a next token and another active "
            "latent, and at least 2 are needed; look at more tokens, or at another latent"
        )
    frame = pd.DataFrame(found)
    frame.attrs["units"] = dict.fromkeys(("clean loss", "without it", "without the other"), "nats")
    docs = np.unique(frame["document"], return_inverse=True)[1]
    own, control = (frame[c].to_numpy() for c in ("without it", "without the other"))
    means = [bootstrap_mean(v, docs, seed=seed) for v in (own, control, own - control)]
    return LatentEffect(latent, str(site), means[0], means[1], means[2], frame)
