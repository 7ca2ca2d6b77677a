"""The token lens: its parts, and what it refuses."""

import numpy as np
import pytest
import torch

from tests.helpers import random_ids, tiny


@pytest.fixture(scope="module")
def model():
    from lensbench import load_model

    return load_model(tiny("llama"))


def test_the_last_layer_is_the_model_and_nothing_follows_the_last_token(model) -> None:
    from lensbench.probes import states_of_text

    ids = random_ids(1, 7)
    lens = states_of_text(model, ids).lens(model, k=3)
    logits = model.run(ids).logits
    assert logits is not None
    best = logits[0].softmax(-1).topk(3, -1).values
    np.testing.assert_allclose(lens.top_prob[-1], best, atol=1e-5)
    frame = lens.to_frame()
    assert frame.loc[frame["pos"] == 6, "target_prob"].isna().all()
    assert frame.loc[frame["pos"] == 6, "target"].eq("").all()
    ranks = frame.loc[frame["pos"] < 6, "target_rank"]
    assert ((ranks >= 1) & (ranks <= model.card.d_vocab)).all()
    by_hand = 1 + int((logits[0, 2] > logits[0, 2, ids[0, 3]]).sum())
    here = (frame["layer"] == 2) & (frame["pos"] == 2)
    assert frame.loc[here, "target_rank"].item() == by_hand


def test_a_saved_lens_comes_back_equal(model, tmp_path) -> None:
    from lensbench.probes import states_of_text
    from lensbench.results import load

    lens = states_of_text(model, random_ids(1, 5)).lens(model, k=2)
    assert load(lens.save(tmp_path)) == lens
    assert lens.summary()["kl_to_final_last"] == pytest.approx(0, abs=1e-6)


def test_what_does_not_fit_is_refused(model) -> None:
    from lensbench.errors import ConfigError, UnknownNameError
    from lensbench.probes import states_of_text
    from lensbench.probes.lenses.tokens import token_lens

    with pytest.raises(ConfigError, match="one text at a time"):
        states_of_text(model, random_ids(2, 5))
    found = states_of_text(model, random_ids(1, 5))
    with pytest.raises(ConfigError, match="k must be in"):
        found.lens(model, k=0)
    with pytest.raises(UnknownNameError, match="entropy"):
        found.lens(model).plot("entropi")
    with pytest.raises(ConfigError, match="do not fit"):
        token_lens(found.states, found.layers, model, ["a"], [1])


def test_a_model_with_an_encoder_and_a_decoder_is_refused() -> None:
    from lensbench import load_model
    from lensbench.errors import ConfigError
    from lensbench.probes import states_of_text

    with pytest.raises(ConfigError, match="one stack"):
        states_of_text(load_model(tiny("t5")), random_ids(1, 5))


@pytest.mark.parametrize("layout", ["pad", "pack"])
def test_a_sequence_is_found_by_any_of_its_rows(model, tmp_path, layout: str) -> None:
    from lensbench import capture
    from lensbench.errors import ConfigError

    texts = [random_ids(1, n, seed=n)[0].tolist() for n in (5, 9, 3, 12, 7)]
    store = capture(model, texts, ["blocks.2.resid_post"], out=tmp_path, layout=layout, context=8,
                    batch_size=2, exclude_special=[texts[1][2]])  # fmt: skip
    seen = 0
    for batch in store.sequences(3):
        for line in range(batch.tokens.n_rows):
            real = batch.tokens.real[line].numpy()
            rows = batch.rows[line][real]
            for row in rows[rows >= 0]:
                found = store.sequence_of(int(row))
                assert torch.equal(found.tokens.ids[0], batch.tokens.ids[line][real])
                assert found.rows[0].tolist() == rows.tolist()
                assert found.doc_ids[0].tolist() == batch.doc_ids[line][real].tolist()
                seen += 1
    assert seen == store.n_tokens
    for row in (-1, store.n_tokens):
        with pytest.raises(ConfigError, match="rows run from 0"):
            store.sequence_of(row)
