"""A dictionary belongs to the model it was trained on: resume, evaluation and dashboards see it."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from lensbench import capture, load_model, saes
from lensbench.errors import MismatchError, MissingDataError, StoppedError
from lensbench.saes.evaluation.evaluate import EvaluationConfig
from lensbench.worlds.atlas import Atlas
from tests.saes_evaluation_helpers import tiny_llama

SITE = "blocks.1.resid_post"
SWEEP: dict[str, Any] = {
    "train": {"tokens": 2048, "batch_size": 128, "checkpoint_every": 4, "engine": "dense"},
    "sweep": [{"architecture": "topk", "d_sae": 32, "k": 3, "site": SITE, "lr": 1e-3}],
}


@pytest.fixture(scope="module")
def stores(tmp_path_factory: pytest.TempPathFactory) -> list[Any]:
    """The same text through two models of one shape."""
    corpus, folder = Atlas(0).sample(120), tmp_path_factory.mktemp("acts")
    models = [load_model(tiny_llama(len(corpus.vocab), seed=s), certify=False) for s in (0, 1)]
    return [capture(m, corpus, [SITE], out=folder / str(i)) for i, m in enumerate(models)]


@pytest.mark.parametrize("as_source", [False, True], ids=["store", "source"])
def test_a_run_knows_its_model_without_being_told(stores: list[Any], as_source: bool) -> None:
    source = stores[0].source([SITE]) if as_source else stores[0]
    (run,) = saes.train(source, SWEEP, device="cpu", progress=False)
    assert run.metadata["model"]["fingerprint"] == stores[0].model["fingerprint"]


def test_another_models_activations_are_refused(stores: list[Any]) -> None:
    (run,) = saes.train(stores[0], SWEEP, device="cpu", progress=False)
    config = EvaluationConfig(controls=False)
    assert np.isfinite(saes.evaluate([run], stores[0], config=config).value("fvu", run.name))
    with pytest.raises(MismatchError, match="trained on activations of another model"):
        saes.evaluate([run], stores[1], config=config)
    with pytest.raises(MismatchError, match="trained on activations of another model"):
        saes.dashboards(run, stores[1], [0])
    on_purpose = saes.Dictionary("transfer", SITE, run.sae)
    assert saes.evaluate([on_purpose], stores[1], config=config).value("fvu", "transfer") > 0


def test_a_run_is_not_resumed_on_another_model(
    stores: list[Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from lensbench.saes.training import checkpoint

    def stop(folder: Path, keep: int) -> None:
        raise StoppedError(f"cut in {folder}, {keep}")

    monkeypatch.setattr(checkpoint, "prune", stop)
    with pytest.raises(StoppedError):
        saes.train(stores[0], SWEEP, out=tmp_path / "run", device="cpu", progress=False)
    monkeypatch.undo()
    again = {"out": tmp_path / "run", "resume": True, "device": "cpu", "progress": False}
    with pytest.raises(MismatchError, match="was started on activations of"):
        saes.train(stores[1], SWEEP, **again)
    assert saes.train(stores[0], SWEEP, **again)[0].status == "finished"


@pytest.fixture(scope="module")
def captures(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """One text three times: as it should be, without BOS, in longer sequences."""
    from tests.helpers import tiny
    from tests.store_builder import word_tokenizer

    model = load_model(tiny("llama"), tokenizer=word_tokenizer(list("abcdefgh")), certify=False)
    texts, folder = ["a b c d e f g h " * 6] * 4, tmp_path_factory.mktemp("captures")
    options = {"right": {}, "no bos": {"bos": False}, "longer": {"context": 32}}
    return {
        name: capture(model, texts, [SITE], out=folder / name, **({"context": 16} | changes))
        for name, changes in options.items()
    }


def test_a_capture_that_contradicts_the_dictionarys_metadata_is_refused(
    captures: dict[str, Any],
) -> None:
    from tests.splice_helpers import random_sae

    told = {"site": SITE, "prepend_bos": True, "context_size": 16, "name": "theirs"}
    sae, config = random_sae(SITE, metadata=told), EvaluationConfig(controls=False)
    right = captures["right"]
    assert saes.evaluate([sae], right, config=config).names == ("theirs",)
    with pytest.raises(MismatchError, match=r"trained on sequences with BOS.*captured without it"):
        saes.evaluate([sae], captures["no bos"], config=config)
    with pytest.raises(MismatchError, match=r"at most 16 tokens, .* holds 32; .*context=16"):
        saes.dashboards(sae, captures["longer"], [0])
    bare = random_sae(SITE, metadata=told | {"prepend_bos": False})
    with pytest.raises(MismatchError, match="trained on sequences without BOS"):
        saes.evaluate([bare], right, config=config)
    named = random_sae(SITE, metadata=told | {"model_name": "gpt2-small"})
    with pytest.raises(MismatchError, match=r"another model \(gpt2-small\)"):
        saes.evaluate([named], right, config=config)
    elsewhere = random_sae("blocks.0.resid_post", metadata=told | {"site": "blocks.0.resid_post"})
    with pytest.raises(MissingDataError, match=r"lacks blocks\.0\.resid_post"):
        saes.evaluate([elsewhere], right, config=config)
    for name in ("no bos", "longer"):
        on_purpose = saes.Dictionary("transfer", SITE, sae)
        assert saes.evaluate([on_purpose], captures[name], config=config).names == ("transfer",)
