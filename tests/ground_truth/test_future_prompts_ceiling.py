"""Learned prompts where the best possible prediction is known, and only the state can give it.

Text: two interleaved Markov chains, x_{t+2} ~ P[x_t]. A Llama by hand: block 1's first head copies
the token before (rotary positions: a cosine of the distance minus one), and the unembedding holds
ln P of that copy. So a state before block 1 holds x_t, of which x_{t+2} is told; behind it the
state holds x_{t-1} too, of which x_{t+1} is told, and a later token no longer reads it. The second
head averages a mark that no token carries but an untrained prompt does: it drowns the answer, so a
prompt has to be learned. Bounds and seeds were written before the first run.
"""

from typing import Any

import numpy as np
import pytest
import torch

from tests.transplant_worlds import LENGTH, V, captured, ceiling, chain, markov_ids

WITHIN, CHANCE, LEFT = 0.02, 0.12, 0.05
"""Of the Bayes ceiling; most that knowing nothing scores; KL of a prompt that has learned, nats."""
TOKEN, ROOM, ONE, MARK, SEEN = slice(0, V), slice(V, 2 * V), 2 * V, 2 * V + 1, 2 * V + 2
WIDTH, PAIRS, SHARP, DROWNS = 2 * V + 4, 8, 2.0, 8.0
"""Room for a token, the token before, a constant, the mark and its mean."""


def module_of(P: np.ndarray) -> Any:
    from transformers import LlamaConfig, LlamaForCausalLM

    config = LlamaConfig(
        vocab_size=V, hidden_size=WIDTH, intermediate_size=8, num_hidden_layers=3,
        num_attention_heads=2, num_key_value_heads=2, head_dim=WIDTH, max_position_embeddings=64,
        tie_word_embeddings=False, rms_norm_eps=1e-8, pad_token_id=None, bos_token_id=None,
        eos_token_id=None,
    )  # fmt: skip
    module = LlamaForCausalLM(config).eval()
    with torch.no_grad():
        for block in module.model.layers:
            for part in ("q_proj", "k_proj", "v_proj", "o_proj"):
                getattr(block.self_attn, part).weight.zero_()
            block.mlp.down_proj.weight.zero_()
        embed = module.model.embed_tokens.weight.zero_()
        embed[:, TOKEN], embed[:, ONE] = torch.eye(V), 1.0
        attn, half = module.model.layers[1].self_attn, WIDTH // 2
        speed = 10_000.0 ** (-2 * torch.arange(PAIRS) / WIDTH)
        attn.k_proj.weight[:PAIRS, ONE] = SHARP
        attn.q_proj.weight[:PAIRS, ONE] = SHARP * speed.cos()  # turned back by one position
        attn.q_proj.weight[half : half + PAIRS, ONE] = -SHARP * speed.sin()
        two = (WIDTH / 2) ** 0.5  # what the norm makes of each 1 of a token's state
        attn.v_proj.weight[:V, TOKEN] = torch.eye(V) / two
        attn.o_proj.weight[ROOM, :V] = torch.eye(V)
        attn.v_proj.weight[WIDTH, MARK] = 1.0  # the second head looks everywhere alike
        attn.o_proj.weight[SEEN, WIDTH] = 1.0
        three = (WIDTH / 3) ** 0.5
        module.lm_head.weight.zero_()
        module.lm_head.weight[:, ROOM] = torch.from_numpy(np.log(P)).float().T / three
        sign = 1.0 - 2 * (torch.arange(V) % 2)
        module.lm_head.weight[:, SEEN] = DROWNS * sign
    return module


def interleaved(P: np.ndarray, rows: int, seed: int) -> torch.Tensor:
    """x_1 ~ P[x_0] and x_{t+2} ~ P[x_t]."""
    even, odd = (markov_ids(P, rows, seed=s)[:, : LENGTH // 2] for s in (seed, seed + 1))
    rng = np.random.default_rng(seed + 2)
    total = P.cumsum(1)
    first = (rng.random(rows)[:, None] > total[even[:, 0]]).sum(1).clip(max=V - 1)
    odd[:, 0] = torch.from_numpy(first)
    for t in range(1, LENGTH // 2):
        draw = rng.random(rows)[:, None]
        odd[:, t] = torch.from_numpy((draw > total[odd[:, t - 1]]).sum(1).clip(max=V - 1))
    return torch.stack((even, odd), 2).flatten(1)


@pytest.fixture(scope="module")
def bench(tmp_path_factory: pytest.TempPathFactory) -> tuple[Any, Any, np.ndarray]:
    import lensbench

    P = chain()
    model = lensbench.load_model(module_of(P), certify=False)
    ids = interleaved(P, 700, seed=1)
    return model, captured(model, ids, tmp_path_factory.mktemp("two") / "s"), P


def scored(bench: tuple[Any, Any, np.ndarray], ahead: int, **changes: Any) -> Any:
    from lensbench.probes.lenses.future.scores import future_scores
    from lensbench.probes.lenses.future.soft import train_soft_prompts

    model, store, _ = bench
    settings: dict[str, Any] = {"contexts": 800, "batch_size": 16, "lr": 0.05, "length": 3}
    settings |= {"init_std": 0.5, "ahead": ahead} | changes
    prompts = train_soft_prompts(store, model, **settings)
    return prompts, future_scores(store, model, prompts, ahead=ahead, max_tokens=3000)


def test_the_hand_set_model_reads_the_token_before(
    bench: tuple[Any, Any, np.ndarray],
) -> None:
    model, _, P = bench
    ids = interleaved(P, 4, seed=7)
    p = model.run(ids).logits.softmax(-1).numpy()
    np.testing.assert_allclose(p[:, 1:], P[ids[:, :-1]], atol=2e-3)
    np.testing.assert_allclose(p[:, 0], P[ids[:, 0]], atol=2e-3)


def test_learned_prompts_reach_the_bayes_ceiling_where_the_state_tells_and_can_be_read(
    bench: tuple[Any, Any, np.ndarray],
) -> None:
    bayes = ceiling(bench[2], 1)
    assert bayes == pytest.approx(0.70, abs=0.005)
    next_one, one_beyond = scored(bench, 0, contexts=160), scored(bench, 1)
    for (prompts, found), far, tells in ((next_one, 0, (1, 2)), (one_beyond, 1, (0,))):
        for layer in range(3):
            got = found.score("text_accuracy", layer, far)
            own = found.score("precision@1", layer, far)
            if layer in tells:
                assert abs(got - bayes) < WITHIN
                assert own > 1 - WITHIN
                # What it was trained towards is what the model says at t + N.
                assert prompts.losses[layer, -5:].mean() < LEFT
            else:  # the state does not hold it, or is put in where nothing reads it any more
                assert got < CHANCE
                assert prompts.losses[layer, -5:].mean() > 1
            assert found.score("text_accuracy", layer, far, "no_transplant") < CHANCE


def test_a_prompt_that_learned_nothing_does_not_reach_it(
    bench: tuple[Any, Any, np.ndarray],
) -> None:
    _, found = scored(bench, 1, layers=[0], contexts=16, lr=1e-9)
    assert found.score("text_accuracy", 0, 1) < 0.5
