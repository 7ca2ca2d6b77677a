"""Circuits of models whose weights were set by hand: every head's job is known.

Two layers of GPT-2's architecture, vocabulary 8, context 16. The stream holds token (8 dims),
position (16 dims) and room for the token before (8 dims). L0H0 attends to the position before and
copies the token there into the room; L1H1 looks for its own token in the room and writes the token
it finds, which completes a repetition. The other heads have no weights.
"""

import numpy as np
import pytest
import torch

VOCAB, CTX, D, WIDE = 8, 16, 32, 16
TOKEN, PLACE, ROOM = slice(0, 8), slice(8, 24), slice(24, 32)
SHARP = 40.0


def planted(*, broken: bool = False):
    """The model; ``broken`` lets L1H1 look for its token among tokens instead of in the room."""
    import transformers

    import lensbench

    config = transformers.GPT2Config(
        vocab_size=VOCAB, n_positions=CTX, n_embd=D, n_layer=2, n_head=2, n_inner=4,
        bos_token_id=None, eos_token_id=None,
    )  # fmt: skip
    torch.manual_seed(0)
    module = transformers.GPT2LMHeadModel(config)
    with torch.no_grad():
        for name, parameter in module.named_parameters():
            if "ln_" not in name:
                parameter.zero_()
        module.transformer.wte.weight[:, TOKEN] = torch.eye(VOCAB)
        module.transformer.wpe.weight[:, PLACE] = torch.eye(CTX)
        first, second = (block.attn for block in module.transformer.h)
        before = torch.zeros(CTX, WIDE)
        before[1:, :CTX] = torch.eye(CTX)[:-1]  # query at i, as the key of i - 1
        q, k, v = (slice(D * part, D * part + WIDE) for part in range(3))
        first.c_attn.weight[PLACE, q] = SHARP * before
        first.c_attn.weight[PLACE, k] = torch.eye(CTX)
        first.c_attn.weight[TOKEN, v][:, :VOCAB] = torch.eye(VOCAB)
        first.c_attn.weight[TOKEN, 2 * D : 2 * D + VOCAB] = torch.eye(VOCAB)
        first.c_proj.weight[:VOCAB, ROOM] = torch.eye(VOCAB)
        q, k, v = (D * part + WIDE for part in range(3))
        second.c_attn.weight[TOKEN, q : q + VOCAB] = SHARP * torch.eye(VOCAB)
        second.c_attn.weight[TOKEN if broken else ROOM, k : k + VOCAB] = torch.eye(VOCAB)
        second.c_attn.weight[TOKEN, v : v + VOCAB] = torch.eye(VOCAB)
        second.c_proj.weight[WIDE : WIDE + VOCAB, TOKEN] = 3 * torch.eye(VOCAB)
    return lensbench.load_model(module, certify=False)


@pytest.fixture(scope="module")
def model():
    return planted()


def repeated(rows: int = 6) -> torch.Tensor:
    rng = torch.Generator().manual_seed(0)
    half = torch.stack([torch.randperm(VOCAB, generator=rng) for _ in range(rows)])
    return torch.cat((half, half), 1)


def test_the_planted_previous_token_and_induction_heads_are_found_and_no_others(model) -> None:
    from lensbench.probes import head_scores

    found = head_scores(model, repeated())
    assert found.strongest("previous_token")[:2] == (0, 0)
    assert found.strongest("induction")[:2] == (1, 1)
    assert found.strongest("previous_token")[2] > 0.95
    # The first of eight queries also matches position 0, which had nothing to copy but itself.
    assert found.strongest("induction")[2] == pytest.approx(15 / 16, abs=1e-3)
    assert np.sort(found.scores[2].ravel())[-2] < 0.3  # no other head
    assert found.shuffled[2].max() < 0.4  # control: another order of the tokens
    assert found.twin[:, :].max() < 0.4  # control: random weights
    assert np.abs(found.scores[:, 1, 0] - found.even).max() < 0.02  # a head without weights
    assert found.n == 6
    broken = head_scores(planted(broken=True), repeated())
    assert broken.scores[2].max() < 0.4
    assert broken.strongest("duplicate_token")[:2] == (1, 1)  # what it then is


def test_the_circuits_are_the_planted_matrices(model) -> None:
    from lensbench.probes import full_ov_circuit, full_qk_circuit, ov_circuit, qk_circuit

    qk = qk_circuit(model, 0, 0, fold=False)
    assert type(qk).__name__ == "FactoredMatrix"
    wanted = torch.zeros(D, D)
    wanted[PLACE, PLACE] = SHARP * torch.diag(torch.ones(CTX - 1), -1)
    torch.testing.assert_close(qk.AB, wanted)
    ov = ov_circuit(model, 0, 0, fold=False)
    wanted = torch.zeros(D, D)
    wanted[TOKEN, ROOM] = torch.eye(VOCAB)
    torch.testing.assert_close(ov.AB, wanted)
    copying = full_ov_circuit(model, 1, 1).AB  # [source, out]
    assert copying.argmax(1).tolist() == list(range(VOCAB))
    nothing = full_ov_circuit(model, 1, 0).AB
    assert float(nothing.abs().max()) < 1e-6  # control: a head without weights
    # Its key side reads the room, which the embedding leaves empty: no token looks for another.
    looked = full_qk_circuit(model, 1, 1).AB
    assert float((looked - looked.mean(1, keepdim=True)).abs().max()) < 1e-5 * SHARP
    own = full_qk_circuit(planted(broken=True), 1, 1).AB
    assert own.argmax(1).tolist() == list(range(VOCAB))  # control: broken, it looks for itself


def test_full_circuits_of_a_model_whose_first_id_is_padding() -> None:
    """Written out for the bundled model, whose padding token has id 0."""
    import lensbench
    from lensbench.probes import full_ov_circuit, full_qk_circuit

    model = lensbench.load_model("atlas-dense")
    assert model.tokenizer.pad_token_id == 0
    trunk, layer, head, wide = model.module.model, 1, 2, model.card.d_head
    attn, table = trunk.layers[layer].self_attn, trunk.embed_tokens.weight.detach()
    rows = slice(head * wide, (head + 1) * wide)
    normed = table * trunk.layers[layer].input_layernorm.weight.detach()
    values = normed @ attn.v_proj.weight[rows].detach().T @ attn.o_proj.weight[:, rows].detach().T
    wanted = (values * trunk.norm.weight.detach()) @ model.module.lm_head.weight.detach().T
    got = full_ov_circuit(model, layer, head).AB
    assert float((got - wanted).abs().max()) < 1e-4 * float(wanted.abs().max())
    q, k = (normed @ w.weight[rows].detach().T for w in (attn.q_proj, attn.k_proj))
    looked = full_qk_circuit(model, layer, head).AB
    assert float((looked - q @ k.T).abs().max()) < 1e-4 * float((q @ k.T).abs().max())
    other = full_qk_circuit(model, layer, head - 1).AB
    assert float((other - q @ k.T).abs().max()) > 1e-1 * float((q @ k.T).abs().max())  # control


def test_k_composition_singles_out_the_planted_pair(model) -> None:
    from lensbench.probes import composition_scores

    found = composition_scores(model)
    assert found.strongest("K") == ((0, 0), (1, 1))
    assert found.scores[1, 0, 0, 1, 1] > 1.5 * found.random_high[1]
    assert found.scores[0, 0, 0, 1, 1] < found.random_high[0]  # it is not read by queries
    frame = found.to_frame()
    assert set(frame["layer"]) == {0}
    assert set(frame["to_layer"]) == {1}  # ordered pairs only
    broken = composition_scores(planted(broken=True))
    assert broken.scores[1, 0, 0, 1, 1] < broken.random_high[1]  # control
    assert found.controls


def test_the_induction_head_writes_the_answer(model) -> None:
    from lensbench.probes import direct_logit_attribution

    tokens = repeated()[:, : VOCAB + 3]
    answer, foil = tokens[:, 3], tokens[:, 6]
    found = direct_logit_attribution(model, tokens, answer.tolist(), foil.tolist())
    assert found.strongest() == "L1H1"
    frame = found.to_frame().set_index("component")
    assert frame.loc["L1H1", "share"] > 0.9 * found.logit_diff.mean() > 1.0
    assert abs(frame.loc["L1H0", "share"]) < 1e-4
    assert np.allclose(found.shares.sum(1), found.logit_diff, atol=1e-4)
    swapped = direct_logit_attribution(model, tokens, foil.tolist(), answer.tolist())
    assert np.allclose(swapped.shares, -found.shares, atol=1e-5)
    broken = direct_logit_attribution(planted(broken=True), tokens, answer.tolist(), foil.tolist())
    assert broken.to_frame().set_index("component").loc["L1H1", "share"] < 0.5  # control


def test_the_bundled_models_induction_head_is_that_of_its_card() -> None:
    import lensbench
    from lensbench.probes import direct_logit_attribution, head_scores
    from lensbench.worlds.atlas import Atlas

    model = lensbench.load_model("atlas-dense")
    world = Atlas(seed=0)
    names = np.array([world.index[w] for w in world.people.firsts])
    rng = np.random.default_rng(0)
    once = np.stack([rng.permutation(names)[:8] for _ in range(16)])
    bos = np.full((16, 1), world.index["[BOS]"])
    tokens = np.concatenate([bos, once, once], 1)
    found = head_scores(model, tokens)
    layer, head, score = found.strongest("induction")
    assert (layer, head) == (1, 2)
    assert score > 0.95
    assert found.shuffled[2].max() < 0.5
    assert found.twin[2].max() < 0.3
    share = direct_logit_attribution(
        model, tokens[:, :12], once[:, 3].tolist(), once[:, 6].tolist()
    )
    assert np.abs(share.shares.sum(1) - share.logit_diff).max() < 1e-3
    assert share.logit_diff.mean() > 3


@pytest.mark.parametrize("which", ["head_scores", "composition_scores", "attribution"])
def test_the_results_save_load_draw_and_name_their_controls(model, which, tmp_path) -> None:
    from lensbench import results
    from lensbench.probes import composition_scores, direct_logit_attribution, head_scores

    made = {
        "head_scores": lambda: head_scores(model, repeated()),
        "composition_scores": lambda: composition_scores(model, n_random=20),
        "attribution": lambda: direct_logit_attribution(model, repeated(), 1, 2, position=-3),
    }[which]()
    assert results.load(made.save(tmp_path)) == made
    assert len(made.to_frame())
    assert made.plot().data
    assert made.summary()
    assert "uncontrolled" not in str(made.controls)
    assert made.provenance.versions["transformer-lens"].startswith("3.")


def test_bad_questions_are_refused(model) -> None:
    import lensbench
    from lensbench.errors import ConfigError
    from lensbench.probes import (
        composition_scores,
        direct_logit_attribution,
        head_scores,
        ov_circuit,
    )
    from tests.helpers import tiny

    with pytest.raises(ConfigError, match="heads 0..1, got 2".replace(".", r"\.")):
        ov_circuit(model, 0, 2)
    with pytest.raises(ConfigError, match=r"layers 0\.\.1, got 5"):
        ov_circuit(model, 5, 0)
    with pytest.raises(ConfigError, match="no token of this text"):
        head_scores(model, [[0, 1, 2, 3]])
    with pytest.raises(ConfigError, match="the context has 16"):
        head_scores(model, length=20)
    with pytest.raises(ConfigError, match="one id in 0"):
        direct_logit_attribution(model, repeated(), 99, 1)
    with pytest.raises(ConfigError, match="position 40"):
        direct_logit_attribution(model, repeated(), 1, 2, position=40)
    with pytest.raises(ConfigError, match="per head"):
        ov_circuit(lensbench.load_model(tiny("deepseek_v3"), certify=False), 0, 0)
    with pytest.raises(ConfigError, match="two layers"):
        composition_scores(lensbench.load_model(tiny("llama", num_hidden_layers=1), certify=False))
    with pytest.raises(ConfigError, match="no attention patterns"):
        head_scores(lensbench.load_model(tiny("mamba"), certify=False), repeated())
    with pytest.raises(ConfigError, match="induction_head"):
        head_scores(model, repeated()).plot("induction_head")


def test_every_score_of_heads_has_a_panel_with_whole_numbers(model) -> None:
    from lensbench.probes import head_scores

    found = head_scores(model, repeated())
    drawn = found.plot()
    assert [a.text for a in drawn.layout.annotations] == [
        "previous token", "duplicate token", "induction",
    ]  # fmt: skip
    for i, trace in enumerate(drawn.data):
        assert np.allclose(trace.z, found.scores[i], atol=1e-6)
        assert (trace.zmin, trace.zmax) == (0.0, 1.0)
        number = "" if i == 0 else str(i + 1)
        for axis in (drawn.layout[f"xaxis{number}"], drawn.layout[f"yaxis{number}"]):
            assert list(axis.tickvals) == [0, 1]
    assert sum(trace.showscale is not False for trace in drawn.data) == 1
    alone = found.plot("induction")
    assert len(alone.data) == 1
    assert list(alone.layout.xaxis.tickvals) == [0, 1]


def test_composition_is_drawn_for_queries_keys_and_values_by_layer_and_head() -> None:
    import lensbench
    from lensbench.probes import composition_scores
    from tests.helpers import tiny

    model = lensbench.load_model(tiny("gpt2", n_layer=2), certify=False)
    found = composition_scores(model, n_random=20)
    drawn = found.plot()
    assert [a.text for a in drawn.layout.annotations] == [f"{m}-composition" for m in "QKV"]
    excess = found.to_frame()["excess"]
    top = float(excess.abs().max())
    for trace, mode in zip(drawn.data, "QKV", strict=True):
        assert trace.zmin == -trace.zmax
        assert trace.zmax == pytest.approx(top)
        part = found.to_frame().loc[lambda f, mode=mode: f["mode"] == mode]
        assert np.allclose(np.sort(np.ravel(trace.z)), np.sort(part["excess"]), atol=1e-6)
    assert list(drawn.layout.xaxis.ticktext) == ["1.0", "1.1", "1.2", "1.3"]  # they read
    assert list(drawn.layout.yaxis.ticktext) == ["0.0", "0.1", "0.2", "0.3"]  # they write
    label = drawn.data[-1].colorbar.title.text
    assert label == f"excess [{-top:.2g} to {top:.2g}]"
    assert len(found.plot("K").data) == 1
    assert found.to_frame().attrs["units"]["excess"] == "-1 to 1"
