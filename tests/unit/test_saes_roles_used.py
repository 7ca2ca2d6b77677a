"""What takes dictionaries, given a transcoder or a crosscoder: right, or one clear refusal."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from tests.store_builder import SITE, build

TARGET, D = "blocks.1.resid_post", 16


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Any:
    rng = np.random.default_rng(0)
    values = {site: rng.standard_normal((600, D)).astype(np.float32) for site in (SITE, TARGET)}
    return build(tmp_path_factory.mktemp("s") / "store", values, [600])


@pytest.fixture(scope="module")
def runs(store: Any, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    from lensbench import saes

    common = {"architecture": "topk", "d_sae": 32, "k": 4}
    sweep = {
        "train": {"tokens": 640, "batch_size": 64},
        "sweep": [
            common | {"site": SITE, "target": TARGET, "skip_connection": True},
            common | {"sites": [SITE, TARGET]},
            common | {"site": SITE},
        ],
    }
    out = tmp_path_factory.mktemp("r") / "run"
    found = saes.train(store, sweep, out=out, device="cpu", progress=False)
    return {run.role: run for run in found}


def _refused(what: Any, *, match: str) -> None:
    from lensbench.errors import MismatchError

    with pytest.raises(MismatchError, match=match):
        what()


def _given(run: Any, form: str) -> Any:
    from lensbench import saes

    coder = run.coder
    forms = {"run": run, "value": coder, "dictionary": saes.Dictionary("d", SITE, coder)}
    return forms[form]


@pytest.mark.parametrize("form", ["run", "value", "dictionary"])
def test_evaluate_refuses_a_crosscoder(store: Any, runs: dict[str, Any], form: str) -> None:
    from lensbench import saes

    given = _given(runs["crosscoder"], form)
    _refused(lambda: saes.evaluate([given], store), match=r"crosscoder.*compare_sites")
    saes.evaluate([runs["sae"]], store)  # control


@pytest.mark.parametrize("form", ["run", "value", "dictionary"])
def test_evaluate_holds_a_transcoder_against_its_target(
    store: Any, runs: dict[str, Any], form: str
) -> None:
    """Between equal widths it must not come out as a bad autoencoder of what it reads."""
    from lensbench import saes
    from lensbench.saes.evaluation.metrics import fvu

    coder = runs["transcoder"].coder
    every = np.arange(store.n_tokens)
    x, y = (torch.from_numpy(store.rows(site, every)) for site in (SITE, TARGET))
    found = saes.evaluate([_given(runs["transcoder"], form)], store)
    assert found.value("fvu") == pytest.approx(float(fvu(y, coder(x))), rel=1e-4)
    assert abs(found.value("fvu") - float(fvu(x, coder(x)))) > 0.01
    assert found.sites == (f"{SITE}>{TARGET}",)


def test_what_exchanges_coordinates_refuses_a_transcoder(runs: dict[str, Any]) -> None:
    from lensbench.saes.evaluation.passes import as_dictionary

    for form in ("run", "value", "dictionary"):
        given = _given(runs["transcoder"], form)
        _refused(
            lambda g=given: as_dictionary(g), match=rf"transcoder.*what it writes with {TARGET}"
        )


def test_latents_of_a_transcoder_are_stored_and_shown(
    store: Any, runs: dict[str, Any], tmp_path: Path
) -> None:
    from lensbench import saes

    run = runs["transcoder"]
    latents = saes.encode_store(run, store, out=tmp_path / "latents")
    wanted = run.coder.encode(torch.from_numpy(store.rows(SITE, [0, 5])))
    got = np.asarray(latents.rows([0, 5]).todense())
    np.testing.assert_allclose(got, wanted.numpy(), atol=1e-6)
    assert latents.site == SITE
    board = saes.dashboards(run, store, [int(wanted[0].argmax())])
    assert board.tokens.size
    for what in (saes.encode_store, lambda r, s: saes.dashboards(r, s, [0])):
        _refused(lambda w=what: w(runs["crosscoder"], store), match=r"crosscoder.*compare_sites")


@pytest.mark.parametrize("role", ["transcoder", "crosscoder", "sae"])
def test_notes_are_kept_on_every_role(runs: dict[str, Any], role: str, tmp_path: Path) -> None:
    from lensbench import saes

    found = saes.notes(runs[role], folder=tmp_path)
    assert found.d_sae == 32


@pytest.mark.illtyped
@pytest.mark.parametrize("role", ["transcoder", "crosscoder"])
def test_the_hub_is_told_which_dictionaries_it_takes(runs: dict[str, Any], role: str) -> None:
    from lensbench import saes

    run = runs[role]
    for given in (run, run.coder, [run, runs["sae"]]):
        _refused(
            lambda g=given: saes.push_to_hub(g, "me/it", token="x"),
            match=f"{role}.*saes.save",
        )


def test_an_autoencoder_is_asked_of_a_run_that_has_none(runs: dict[str, Any]) -> None:
    for role in ("transcoder", "crosscoder"):
        _refused(lambda r=role: runs[r].sae, match=rf"is a {role} .*run\.coder")


def test_a_transcoder_is_not_put_where_it_reads() -> None:
    import lensbench
    from lensbench import saes
    from tests.helpers import tiny

    model = lensbench.load_model(tiny("llama", seed=3), certify=False)
    d = model.card.d_model
    shapes: dict[str, Any] = {
        "W_enc": torch.randn(d, 8),
        "b_enc": torch.zeros(8),
        "W_dec": torch.randn(8, d),
        "b_dec": torch.zeros(d),
        "activation": "relu",
    }
    metadata = {"site": "blocks.0.mlp.in", "target": "blocks.0.mlp_out"}
    coder = saes.Transcoder(**shapes, metadata=metadata)
    for given in (coder, {"blocks.0.mlp.in": coder}, {"blocks.0.mlp_out": coder}):
        _refused(lambda g=given: model.with_saes(g), match="transcoder.*Replace")
    half = d // 2
    two = saes.Crosscoder(**shapes, sites=("a", "b"), widths=(half, d - half), scales=(1.0, 1.0))
    _refused(lambda: model.with_saes({"blocks.0.mlp.in": two}), match="crosscoder")
    assert model.with_saes(saes.SAE(**shapes, metadata={"site": SITE})) is not None  # control
