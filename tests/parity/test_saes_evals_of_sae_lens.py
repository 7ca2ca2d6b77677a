"""Our numbers equal those of ``sae_lens.evals`` on the same dictionary, model and tokens.

Tolerance 1e-4 relative (both in float32, sums in another order), fixed before the first run; the
control changes one bias by 0.05 and must be seen.
"""

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch

SITE, D, F = "blocks.3.resid_post", 128, 256
TOLERANCE = 1e-4

pytestmark = pytest.mark.filterwarnings("ignore")  # what sae_lens and its imports warn about


@pytest.fixture(scope="module")
def made(tmp_path_factory) -> Any:
    from lensbench import capture, load_model
    from lensbench.worlds.atlas import Atlas

    corpus = Atlas(0).sample(60)
    model = load_model("atlas-dense", certify=False)  # trained: its ablations cost something
    folder = tmp_path_factory.mktemp("peer")
    whole = capture(model, corpus, [SITE], out=folder / "whole")
    bos = int(corpus.tokens[0])
    without = capture(model, corpus, [SITE], out=folder / "without", exclude_special=(bos,))
    return model, {"whole": whole, "without": without}


def sae(activation: Any) -> Any:
    from lensbench.saes.sae import SAE

    gen = torch.Generator().manual_seed(0)
    w = torch.nn.functional.normalize(torch.randn(F, D, generator=gen), dim=1)
    extra: dict[str, Any] = {"k": 6} if activation == "topk" else {}
    if activation == "threshold":
        extra["threshold"] = torch.full((F,), 0.5)
    return SAE(
        W_enc=w.T.clone(), b_enc=0.1 * torch.randn(F, generator=gen), W_dec=0.6 * w,
        b_dec=0.1 * torch.randn(D, generator=gen), activation=activation,
        metadata={"site": SITE}, **extra,
    )  # fmt: skip


@pytest.mark.parametrize("store", ["whole", "without"])
@pytest.mark.parametrize("activation", ["topk", "relu", "threshold"])
def test_every_comparable_number_is_that_of_sae_lens(made, store: str, activation: str) -> None:
    from lensbench.saes import against_sae_lens

    model, stores = made
    found = against_sae_lens(sae(activation), stores[store], model, sequences=8)
    assert len(found.metrics) == 14
    assert np.isfinite(found.ours).all()
    assert found.largest < TOLERANCE, found.to_frame().to_string()
    assert found.n_tokens > 30
    assert abs(found.ours[found.metrics.index("ce_recovered_zero")]) > 1e-3


def test_another_dictionary_on_their_side_is_seen(made, monkeypatch) -> None:
    from lensbench.saes import against_sae_lens
    from lensbench.saes.evaluation import against_sae_lens as module

    model, stores = made
    honest = module.exported

    def other(one: Any) -> Any:
        return honest(replace(one, b_dec=one.b_dec + 0.05))

    monkeypatch.setattr(module, "exported", other)
    found = against_sae_lens(sae("topk"), stores["whole"], model, sequences=8)
    assert found.largest > 10 * TOLERANCE


def test_without_sae_lens_the_error_says_what_to_install(made, monkeypatch) -> None:
    import sys

    from lensbench.errors import BackendUnavailableError
    from lensbench.saes import against_sae_lens

    model, stores = made
    monkeypatch.setitem(sys.modules, "sae_lens", None)
    with pytest.raises(BackendUnavailableError, match=r"pip install 'sae-lens"):
        against_sae_lens(sae("topk"), stores["whole"], model)


def test_a_store_without_some_places_cannot_be_compared(made, tmp_path) -> None:
    from lensbench import capture
    from lensbench.errors import ConfigError
    from lensbench.saes import against_sae_lens
    from lensbench.worlds.atlas import Atlas

    model, _ = made
    store = capture(model, Atlas(0).sample(20), [SITE], out=tmp_path / "s", positions=slice(0, 5))
    with pytest.raises(ConfigError, match="by their place"):
        against_sae_lens(sae("topk"), store, model)
