"""The latents that fire on a text, found from Python: what they are, what is told of them."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.docs.example_world import SITE, TEXT, ExampleWorld


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> ExampleWorld:
    return ExampleWorld(tmp_path_factory.mktemp("active"))


@pytest.fixture(scope="module")
def found(world: ExampleWorld) -> Any:
    return world["saes"].active_latents(world["run"], world["model"], TEXT, top=3)


def test_activations_are_those_of_the_dictionary_on_the_model(world: Any, found: Any) -> None:
    model, sae = world["model"], world["run"].sae
    tokens = model.tokens(TEXT)
    direct = sae.encode(model.run(tokens, capture=SITE).acts[SITE][0].float()).detach().numpy()
    np.testing.assert_allclose(found.acts.toarray(), direct, rtol=1e-4, atol=1e-5)
    latent = int(np.abs(direct[1:]).max(0).argmax())
    assert found.strongest(1)["latent"].tolist() == [latent]
    np.testing.assert_allclose(found.of(latent)["activation"], direct[:, latent], rtol=1e-4)
    frame = found.to_frame()
    at = frame.loc[frame["position"] == 2]
    assert len(at) <= 3
    assert at["activation"].iloc[0] == pytest.approx(direct[2].max(), rel=1e-4)
    assert list(at["activation"]) == sorted(at["activation"], reverse=True)


def test_another_text_has_other_latents(world: Any, found: Any) -> None:
    other = world["saes"].active_latents(world["run"], world["model"], "Every day the king sees")
    assert other != found
    assert other.strongest()["activation"].tolist() != found.strongest()["activation"].tolist()


def test_ids_do_as_well_as_text(world: Any, found: Any) -> None:
    ids = world["model"].tokens(TEXT).ids[0].tolist()
    same = world["saes"].active_latents(world["run"], world["model"], ids, top=3)
    np.testing.assert_array_equal(same.values, found.values)
    assert same.words == found.words


def test_bos_is_left_out_and_an_unknown_word_is_not(world: Any) -> None:
    found = world["saes"].active_latents(world["run"], world["model"], "Alice xylophone")
    assert found.special.tolist() == [True, False, False]
    assert 0 not in found.strongest()["position"].tolist()
    assert found.summary()["tokens"] == 2


def test_densities_and_labels_come_from_the_evaluation_of_the_run(world: Any, found: Any) -> None:
    saes, run = world["saes"], world["run"]
    assert not len(found.density)
    assert "density" not in found.strongest()
    assert "save=True" in found._repr_html_()
    kept = saes.evaluate([run], world["store"], config={"max_tokens": 2000})
    told = saes.active_latents(run, world["model"], TEXT, evaluation=kept)
    frame = told.strongest()
    np.testing.assert_array_equal(frame["density"], kept.density[run.name][frame["latent"]])
    labels = kept.labels_frame()
    best = labels.loc[labels["latent"] >= 0].sort_values("f1", ascending=False).iloc[0]
    assert told.labels[str(best["latent"])].startswith(f"{best['label']} (F1 {best['f1']:.2f}")
    assert told.n_density == kept.n_tokens


def test_it_is_kept_and_read_again(found: Any, tmp_path: Path) -> None:
    from lensbench import results

    assert results.load(found.save(tmp_path)) == found


def test_the_picture_has_a_row_per_latent_and_no_bos(found: Any) -> None:
    (trace,) = [t for t in found.plot(5).data if t.type == "heatmap"]
    cells = np.asarray(trace.z)
    assert cells.shape == (5, found.n_tokens)
    assert np.isnan(cells[:, 0]).all()
    assert cells[0].max(initial=0, where=np.isfinite(cells[0])) == pytest.approx(
        found.strongest(1)["activation"][0]
    )


def test_slips_are_named(world: Any) -> None:
    from lensbench.errors import ConfigError, MismatchError

    saes, run, model = world["saes"], world["run"], world["model"]
    with pytest.raises(ConfigError, match="at least one word"):
        saes.active_latents(run, model, "  ")
    with pytest.raises(ConfigError, match="model must be what"):
        saes.active_latents(run, None, TEXT)
    with pytest.raises(ConfigError, match="shorten it"):
        saes.active_latents(run, model, "the " * 1000)
    with pytest.raises(ConfigError, match="latents run from 0 to 63"):
        saes.active_latents(run, model, TEXT).of(64)
    with pytest.raises(MismatchError, match="another model"):
        saes.active_latents(run, world["moe"], TEXT)


def test_a_board_reads_in_words_and_text_in_it_stays_text(world: Any) -> None:
    saes, model = world["saes"], world["model"]
    latent = int(saes.active_latents(world["run"], model, TEXT).strongest()["latent"][0])
    other = 1 if latent != 1 else 2
    board = saes.dashboards(world["run"], world["store"], [latent, other], model)
    i = board.index(latent)
    assert board.largest(latent) == board.max_activation[i] > 0
    word = board.texts([int(board.tokens[i, 0, board.before])])[0]
    shown = board._repr_html_()
    assert word in shown
    assert f"Latent {latent}" in shown
    assert f"Latent {other}" in shown
    assert f"Latent {other}" not in board.one(latent)._repr_html_()
    bare = saes.dashboards(world["run"], world["store"], latent)
    assert "Tokens are shown as ids" in bare._repr_html_()
    assert bare.with_words(model.tokenizer)._repr_html_() != bare._repr_html_()
    frame = bare.with_words(model.tokenizer).contexts_frame()
    assert frame["token"].iloc[0] == word
    from dataclasses import replace

    nasty = replace(board, words=dict.fromkeys(board.words, "<script>x</script> \u202e"))
    assert "<script" not in nasty._repr_html_()
    assert "\u202e" not in nasty._repr_html_()
