"""What only a decoder can be asked is refused by name for encoders and encoder-decoders."""

from pathlib import Path
from typing import Any

import pytest

import lensbench
from lensbench import probes, saes
from lensbench.errors import ConfigError
from tests.helpers import random_ids, tiny

IDS = random_ids(40, 12, seed=1)


@pytest.fixture(scope="module", params=["bert", "t5"])
def stored(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Any:
    model = lensbench.load_model(tiny(request.param), certify=False)
    out: Path = tmp_path_factory.mktemp(request.param) / "store"
    stack = "encoder." if request.param == "t5" else ""
    last = 1 if request.param == "t5" else 2
    site = f"{stack}blocks.{last}.resid_post"
    store = lensbench.capture(model, IDS, [site], out=out, context=12, layout="pad")
    return model, store, site


def test_kinds_are_told_apart(stored: Any) -> None:
    assert stored[0].kind == {"bert": "encoder", "t5": "encoder-decoder"}[stored[0].card.family]
    assert lensbench.load_model(tiny("mamba"), certify=False).kind == "decoder"


def test_ce_recovered_is_refused_and_the_rest_is_evaluated(stored: Any) -> None:
    model, store, site = stored
    sweep = {
        "train": {"tokens": 2000, "batch": 100},
        "sweep": [{"architecture": "topk", "d_sae": 64, "k": 4, "site": site}],
    }
    runs = saes.train(store, sweep, progress=False)
    with pytest.raises(ConfigError, match=r"CE recovered .* is about the prediction of the next"):
        saes.evaluate(runs, store, model)
    found = saes.evaluate(runs, store, model, config=saes.EvaluationConfig(ce_sequences=0))
    assert 0 < found.summary()["best explained_variance"] < 1


def test_the_lens_of_the_next_token_is_refused(stored: Any) -> None:
    with pytest.raises(ConfigError, match="the logit lens is about the prediction of the next"):
        probes.logit_lens(stored[1], stored[0])


def test_an_encoder_generates_nothing() -> None:
    bert = lensbench.load_model(tiny("bert"), certify=False)
    with pytest.raises(ConfigError, match="is an encoder and generates nothing"):
        bert.generate(IDS[:1])
    from lensbench import Past

    with pytest.raises(ConfigError, match="an encoder has no past"):
        bert.run(IDS[:1], past=Past())
