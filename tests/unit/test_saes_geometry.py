"""Decoder geometry, maps and directions against dictionaries whose answer is known."""

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch


def make(W_dec: np.ndarray, W_enc: np.ndarray | None = None) -> Any:
    from lensbench.saes import SAE

    rows = torch.as_tensor(W_dec, dtype=torch.float32)
    d_sae, d_model = rows.shape
    enc = rows.T.clone() if W_enc is None else torch.as_tensor(W_enc, dtype=torch.float32)
    return SAE(W_enc=enc, b_enc=torch.zeros(d_sae), W_dec=rows, b_dec=torch.zeros(d_model),
               activation="relu", metadata={"site": "blocks.0.resid_post"})  # fmt: skip


@pytest.fixture
def random_rows() -> np.ndarray:
    return np.random.default_rng(3).normal(size=(400, 64))


def test_planted_copies_are_found_and_random_rows_look_random(random_rows: np.ndarray) -> None:
    from lensbench import saes

    plain = saes.decoder_geometry(make(random_rows))
    # Control: a random dictionary has the neighbours of random directions.
    assert np.median(plain.nearest_cosine) == pytest.approx(
        np.median(plain.random_cosine), abs=0.02
    )
    assert plain.summary()["share above 0.9"] == 0
    planted = random_rows.copy()
    planted[50:60] = 3 * planted[:10]
    found = saes.decoder_geometry(make(planted))
    assert found.nearest[:10].tolist() == list(range(50, 60))
    assert found.nearest[50:60].tolist() == list(range(10))
    assert found.nearest_cosine[:10] == pytest.approx(1, abs=1e-5)
    assert found.summary()["share above 0.9"] == pytest.approx(20 / 400)


def test_the_nearest_row_is_never_the_row_itself_and_zeros_have_none() -> None:
    from lensbench import saes

    rows = np.vstack([np.eye(4), np.zeros((1, 4)), -np.eye(4)[:1]])
    found = saes.decoder_geometry(make(rows), density=np.array([0.1, 0.1, 0, 0, 0, 0.2]))
    assert (found.nearest != found.latents).all()
    assert np.isnan(found.nearest_cosine[4])
    assert found.nearest[4] == -1
    assert 4 not in found.nearest[:4]
    assert found.nearest_cosine[1] == pytest.approx(0)
    assert found.dead.tolist() == [False, False, True, True, True, False]
    frame = found.nearest_frame()
    assert set(frame["of"]) == {"latents", "dead latents", "random directions"}


def test_encoder_and_decoder_of_one_latent_are_told_from_those_of_two(
    random_rows: np.ndarray,
) -> None:
    from lensbench import saes

    tied = saes.decoder_geometry(make(random_rows))
    assert tied.encoder_cosine == pytest.approx(1, abs=1e-5)
    assert abs(np.median(tied.other_encoder_cosine)) < 0.1
    other = np.random.default_rng(9).normal(size=(64, 400))
    assert abs(np.median(saes.decoder_geometry(make(random_rows, other)).encoder_cosine)) < 0.1


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_the_encoder_cosine_is_that_of_saelens(random_rows: np.ndarray) -> None:
    from sae_lens.evals import get_featurewise_weight_based_metrics

    from lensbench import saes

    sae = make(random_rows, np.random.default_rng(9).normal(size=(64, 400)))
    theirs = get_featurewise_weight_based_metrics(
        SimpleNamespace(W_enc=sae.W_enc, W_dec=sae.W_dec, b_enc=sae.b_enc)
    )["encoder_decoder_cosine_sim"]
    np.testing.assert_allclose(saes.decoder_geometry(sae).encoder_cosine, theirs, atol=1e-5)


def test_a_sample_is_compared_with_every_latent(random_rows: np.ndarray) -> None:
    from lensbench import saes

    whole = saes.decoder_geometry(make(random_rows))
    part = saes.decoder_geometry(make(random_rows), max_latents=30)
    assert len(part.latents) == 30
    np.testing.assert_allclose(part.nearest_cosine, whole.nearest_cosine[part.latents], atol=1e-6)
    assert "30 of 400" in part.plot().layout.title.subtitle.text


def test_a_map_of_two_planted_axes_has_them_and_keeps_neighbours() -> None:
    from lensbench import saes

    angle = np.linspace(0, 2 * np.pi, 200, endpoint=False)
    circle = np.zeros((201, 16))
    circle[:200, 3], circle[:200, 9] = np.cos(angle), np.sin(angle)
    found = saes.decoder_map(make(circle * 7))
    assert found.variance.sum() == pytest.approx(1)
    assert np.linalg.norm(found.places[:200], axis=1) == pytest.approx(1)
    assert np.isnan(found.places[200]).all()
    assert found.neighbours_kept == pytest.approx(1)
    (chance,) = found.controls.values.values()
    assert chance < 0.15  # 10 / 199 is 0.05
    frame = saes.decoder_map(make(circle), facts={"density": np.arange(201.0)}).to_frame()
    assert frame["density"].tolist() == list(range(201))


def test_a_map_of_random_directions_admits_that_it_keeps_little(random_rows: np.ndarray) -> None:
    from lensbench import saes

    found = saes.decoder_map(make(random_rows))
    assert found.variance.sum() < 0.15
    assert found.neighbours_kept < 0.3
    again = saes.decoder_map(make(random_rows[::-1].copy()))
    np.testing.assert_allclose(again.places[::-1], found.places, atol=1e-8)


def test_results_come_back_from_disk(random_rows: np.ndarray, tmp_path: Path) -> None:
    from lensbench import saes
    from lensbench.results import load

    facts = {"dead": np.arange(400) < 5, "label": ["a"] * 400}
    for name, made in (
        ("map", saes.decoder_map(make(random_rows), facts=facts)),
        ("geometry", saes.decoder_geometry(make(random_rows), max_latents=50)),
    ):
        assert load(made.save(tmp_path / name)) == made


def test_umap_that_is_absent_says_how_to_install_it(
    random_rows: np.ndarray, monkeypatch: pytest.MonkeyPatch
) -> None:
    from lensbench import saes
    from lensbench.errors import BackendUnavailableError
    from lensbench.saes.latents import decoder_map as module

    folder = SimpleNamespace(origin=None)  # a folder called umap where the command was started
    for found in (None, folder):
        monkeypatch.setattr(module, "find_spec", lambda _, found=found: found)
        with pytest.raises(BackendUnavailableError, match="pip install"):
            saes.decoder_map(make(random_rows), method="umap")


@pytest.mark.slow  # its own compilation takes half a minute
def test_umap_tells_planted_clusters_apart() -> None:
    pytest.importorskip("umap", exc_type=ImportError)
    from lensbench import saes

    rng = np.random.default_rng(0)
    centres = rng.normal(size=(3, 32)) * 4
    rows = np.repeat(centres, 40, 0) + rng.normal(size=(120, 32)) * 0.3
    found = saes.decoder_map(make(rows), method="umap")
    group = np.repeat(np.arange(3), 40)
    middles = np.stack([found.places[group == g].mean(0) for g in range(3)])
    nearest = np.linalg.norm(found.places[:, None] - middles, axis=2).argmin(1)
    assert (nearest == group).mean() > 0.95
    again = saes.decoder_map(make(rows), method="umap")
    np.testing.assert_allclose(found.places, again.places)


def test_bad_input_is_refused(random_rows: np.ndarray) -> None:
    from lensbench import saes
    from lensbench.errors import ConfigError, NonFiniteError, UnknownNameError

    with pytest.raises(UnknownNameError, match="pca, umap"):
        saes.decoder_map(make(random_rows), method="tsne")  # type: ignore[arg-type]
    with pytest.raises(ConfigError, match="one value per latent"):
        saes.decoder_map(make(random_rows), facts={"density": [1.0]})
    with pytest.raises(ConfigError, match="called 'x' already"):
        saes.decoder_map(make(random_rows), facts={"x": np.zeros(400)})
    with pytest.raises(ConfigError, match="at least 3"):
        saes.decoder_map(make(np.vstack([np.eye(2), np.zeros((5, 2))])))
    with pytest.raises(ConfigError, match="at least two"):
        saes.decoder_geometry(np.ones((1, 4)))
    with pytest.raises(ConfigError, match="one number per latent"):
        saes.decoder_geometry(make(random_rows), density=np.zeros(3))
    with pytest.raises(ConfigError, match="must be numbers"):
        saes.decoder_geometry("run")
    with pytest.raises(NonFiniteError):
        saes.decoder_map(np.full((9, 4), np.nan))
    with pytest.raises(UnknownNameError, match="density"):
        saes.decoder_map(make(random_rows), facts={"density": np.zeros(400)}).plot("densty")


@pytest.fixture(scope="module")
def model() -> Any:
    from lensbench.app.workflows.models import open_model

    return open_model("atlas-dense", certify=False)


def test_the_unembedding_direction_is_the_row_with_the_gain_folded_in(model: Any) -> None:
    from lensbench import saes

    gain = model.module.model.norm.weight.detach()
    rows = model.module.get_output_embeddings().weight.detach() * gain
    for token in (40, 7):
        direct = rows[token] - rows.mean(0)
        found = saes.token_direction(model, token)
        assert torch.cosine_similarity(found, direct, dim=0) == pytest.approx(1, abs=1e-5)
        assert torch.cosine_similarity(found, rows[token + 1], dim=0) < 0.9, "control: another row"


def test_a_latent_that_writes_a_token_is_nearest_to_its_direction(model: Any) -> None:
    from lensbench import saes

    rng = np.random.default_rng(0)
    rows = rng.normal(size=(50, model.card.d_model))
    rows[17] = saes.token_direction(model, " baker").numpy() * 0.01
    rows[23] = saes.token_direction(model, " baker", kind="embedding").numpy()
    for kind, latent in (("unembedding", 17), ("embedding", 23)):
        direction = saes.token_direction(model, " baker", kind=kind)
        found = saes.nearest_latents(direction, make(rows), n=3)
        assert found.latents[0, 0] == latent
        assert found.cosines[0, 0] == pytest.approx(1, abs=1e-5)
        other = saes.nearest_latents(
            saes.token_direction(model, " Lima", kind=kind), make(rows), n=1
        )
        assert other.cosines[0, 0] < 0.9


def test_the_embedding_direction_is_the_row_of_the_table(model: Any) -> None:
    from lensbench import saes

    table = model.module.get_input_embeddings().weight.detach()
    torch.testing.assert_close(saes.token_direction(model, 9, kind="embedding"), table[9])


def test_two_texts_differ_by_the_difference_of_their_means(model: Any) -> None:
    from lensbench import saes
    from lensbench.errors import ConfigError, NotEnoughDataError

    site, one, other = "blocks.1.resid_post", "Alice the baker lives in Lima .", "Lucy sang ."
    means = []
    for text in (one, other):
        with torch.no_grad():
            ids = model.tokens(text).ids
            states = model.module(ids, output_hidden_states=True).hidden_states[2][0]
        means.append(states[1:].mean(0))
    found = saes.difference_direction(model, site, one, [other])
    torch.testing.assert_close(found, means[0] - means[1], atol=1e-4, rtol=1e-4)
    with pytest.raises(NotEnoughDataError):
        saes.difference_direction(model, site, one, one)
    with pytest.raises(ConfigError, match="not empty"):
        saes.difference_direction(model, site, one, " ")


def test_tokens_that_are_none_or_several_are_shown(model: Any) -> None:
    from lensbench import saes
    from lensbench.errors import ConfigError

    with pytest.raises(ConfigError, match=r"not in the vocabulary.*Did you mean 'baker'"):
        saes.token_direction(model, "bakerr")
    assert saes.token_direction(model, "[UNK]").isfinite().all(), "asked for by its name"
    with pytest.raises(ConfigError, match="give one token"):
        saes.token_direction(model, "Alice the baker")
    with pytest.raises(ConfigError, match="ids run from 0"):
        saes.token_direction(model, 10**9)
    with pytest.raises(ConfigError, match="unembedding or embedding"):
        saes.token_direction(model, 3, kind="row")  # type: ignore[arg-type]


def test_vectors_are_read_from_files_and_nothing_else_is(tmp_path: Path) -> None:
    from safetensors.numpy import save_file

    from lensbench import saes
    from lensbench.errors import ConfigError, DamagedDataError, MissingDataError

    vector = np.array([1.0, -2.5, 0.0])
    np.save(tmp_path / "v.npy", vector[None])
    (tmp_path / "v.json").write_text(json.dumps(vector.tolist()))
    (tmp_path / "v.txt").write_text("1, -2.5\n0")
    save_file({"w": vector}, tmp_path / "v.safetensors")
    for ending in ("npy", "json", "txt", "safetensors"):
        np.testing.assert_array_equal(saes.read_direction(tmp_path / f"v.{ending}"), vector)
    with pytest.raises(ConfigError, match="needs 4"):
        saes.read_direction(tmp_path / "v.npy", d_model=4)
    with pytest.raises(MissingDataError):
        saes.read_direction(tmp_path / "absent.npy")
    np.save(tmp_path / "bad.npy", np.array([{"a": 1}], dtype=object), allow_pickle=True)
    save_file({"a": vector, "b": vector}, tmp_path / "bad.safetensors")
    (tmp_path / "bad.json").write_text('{"w": [1]}')
    (tmp_path / "bad.txt").write_text("1 2 x")
    (tmp_path / "zeros.txt").write_text("0 0 0")
    (tmp_path / "nan.txt").write_text("0 nan 1")
    (tmp_path / "two.json").write_text("[[1, 2], [3, 4]]")
    for name in ("bad.npy", "bad.safetensors", "bad.json", "bad.txt", "zeros.txt", "nan.txt",
                 "two.json"):  # fmt: skip
        with pytest.raises(DamagedDataError):
            saes.read_direction(tmp_path / name)
