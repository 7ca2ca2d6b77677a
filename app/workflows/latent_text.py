"""What the latents of a dictionary do on a text of one's own: one run of the model serves all."""

from pathlib import Path

from lensbench.app.workflows.latent_page import dictionary_of
from lensbench.app.workflows.live import hold_store, running
from lensbench.app.workflows.runs import evaluation_of
from lensbench.app.workflows.sequences import model_name
from lensbench.errors import ConfigError
from lensbench.saes.latents.active import active_latents
from lensbench.saes.latents.active_result import ActiveLatents

LONGEST = 2_000
"""Characters of a text to test."""


def latents_of_text(run: Path, name: str, store: Path, text: str) -> ActiveLatents:
    """Every latent on ``text``: the model that the store is of is run on it once.

    Raises:
        ConfigError: no text, or one that is too long.
    """
    if not text.strip() or len(text) > LONGEST:
        raise ConfigError(f"give a text of 1 to {LONGEST:,} characters; this one has {len(text):,}")
    dictionary, held = dictionary_of(run, name), hold_store(str(store))
    with running(*model_name(held)) as model:
        held.check_model(model.card)
        return active_latents(dictionary, model, text, evaluation=evaluation_of(run))
