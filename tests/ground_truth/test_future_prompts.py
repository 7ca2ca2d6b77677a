"""Prompts as future lenses: learned ones follow their gradient, and every way of reading is one.

Seeds and bounds were written before the first run.
"""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from tests.helpers import random_ids, tiny
from tests.transplant_worlds import captured, chain, markov_ids, markov_module


@pytest.fixture(scope="module")
def bench(tmp_path_factory: pytest.TempPathFactory) -> tuple[Any, Any]:
    import lensbench

    model = lensbench.load_model(tiny("llama"), certify=False)
    store = captured(model, random_ids(40, 12, seed=2), tmp_path_factory.mktemp("tiny") / "s")
    return model, store


def trained(bench: tuple[Any, Any], **changes: Any) -> Any:
    from lensbench.probes.lenses.future.soft import train_soft_prompts

    model, store = bench
    settings: dict[str, Any] = {"layers": [0, 1], "ahead": 1, "length": 4, "batch_size": 16}
    settings |= {"epochs": 4, "lr": 0.05, "init_std": 0.5}
    return train_soft_prompts(store, model, **(settings | changes))


def one_prompt(soft: torch.Tensor) -> Any:
    """Learned prompts of layer 1 alone."""
    from lensbench.probes.lenses.future.soft import SoftPrompts

    return SoftPrompts(
        layers=(1,), ahead=2, embeddings=soft.detach().numpy()[None], losses=np.zeros((1, 1)),
        docs=(0, 1), fingerprint="",
    )  # fmt: skip


def test_the_gradient_of_the_prompt_is_that_of_finite_differences() -> None:
    import lensbench
    from lensbench.probes.lenses.future.readings import SoftReading
    from lensbench.probes.lenses.future.soft import Learner

    model = lensbench.load_model(tiny("llama").double(), certify=False)
    learner = Learner(model, None, 2, 4, 0.1, 0.0, 0.1, 0)  # pyright: ignore[reportArgumentType]
    rng = torch.Generator().manual_seed(0)
    soft = torch.randn(4, 32, generator=rng, dtype=torch.float64).requires_grad_()
    states = torch.randn(3, 32, generator=rng, dtype=torch.float64)
    phrase, wanted = random_ids(3, 2, seed=1), torch.randn(3, 61, generator=rng)
    args = (1, states, phrase, wanted)
    with torch.no_grad():
        said = SoftReading(model, one_prompt(soft)).logits(states, 1, phrase)
    p, q = wanted.softmax(-1), said.softmax(-1)
    want = float((p * (p / q).log()).sum(-1).mean())
    assert float(learner.loss(soft, *args).detach()) == pytest.approx(want, rel=1e-4)
    found = torch.autograd.grad(learner.loss(soft, *args), soft)[0]
    for at in ((0, 0), (1, 5), (3, 31)):  # the last one holds the state only from layer 1 on
        step = torch.zeros_like(soft)
        step[at] = 1e-2
        with torch.no_grad():
            slope = (learner.loss(soft + step, *args) - learner.loss(soft - step, *args)) / 2e-2
        assert float(found[at]) == pytest.approx(float(slope), rel=0.02, abs=1e-4)
        assert abs(float(slope)) > 1e-5, "control: the loss does depend on it"
    assert all(p.grad is None for p in model.module.parameters())


def test_training_lowers_the_loss_and_is_the_same_every_time(bench: tuple[Any, Any]) -> None:
    first, again = trained(bench), trained(bench)
    assert (first.embeddings == again.embeddings).all()
    assert (first.losses == again.losses).all()
    tenth = first.losses.shape[1] // 10
    assert (first.losses[:, -tenth:].mean(1) < 0.9 * first.losses[:, :tenth].mean(1)).all()
    other = trained(bench, seed=1, epochs=1, layers=[0])
    assert (other.embeddings[0] != first.embeddings[0]).any()


def test_a_learned_prompt_reads_as_the_written_out_forward_pass(bench: tuple[Any, Any]) -> None:
    from lensbench.plan import Edit, Plan, Set
    from lensbench.probes.lenses.future.readings import reading
    from lensbench.sites import Site

    model, store = bench
    prompts = trained(bench, epochs=1)
    read = reading(model, prompts, batch_size=2)
    states = torch.from_numpy(store.rows("blocks.1.resid_post", [3, 30, 77]))
    phrase = random_ids(3, 2, seed=4)
    found, silent = read.logits(states, 1, phrase), read.silent(1, phrase)
    soft = prompts.of(1)
    for row in range(3):
        ids = torch.cat((torch.tensor([[9, 9, 9, 9]]), phrase[row : row + 1]), 1)
        plan = Plan(tuple(Edit(Site("embed"), Set(soft[i]), positions=(i,)) for i in range(4)))
        want = model.run(ids, plan).logits[0, -1]
        torch.testing.assert_close(silent[row], want, rtol=1e-4, atol=1e-4)
        put = Edit(Site("resid_post", 1), Set(states[row]), positions=(3,))
        want = model.run(ids, plan + Plan((put,))).logits[0, -1]
        torch.testing.assert_close(found[row], want, rtol=1e-4, atol=1e-4)


def test_a_fixed_prompt_is_scored_beside_itself_without_the_state(bench: tuple[Any, Any]) -> None:
    from lensbench.probes.lenses.future.scores import future_scores
    from lensbench.probes.lenses.future.spots import Spot

    model, store = bench
    prompt = Spot([5, 7, 9, 11], -1, None)
    found = future_scores(store, model, prompt, ahead=(0, 2), ks=(1, 5))
    assert found.score("precision@1", 2, 0) == 1.0, "at the last layer, N = 0, it is the model"
    assert found.score("surprisal", 2, 0) > 0
    last, silent = (found.score("precision@5", 2, 2, kind) for kind in ("method", "no_transplant"))
    assert last == silent, "put in after the last block, later tokens cannot see it"
    assert found.forced == (0, 2)
    assert found.warning(0) == ""
    assert "2 true tokens" in found.warning(2)
    assert "true tokens were given" in found.plot("precision@5", 2).layout.title.subtitle.text
    assert found.score("precision@1", 0, 0, "no_transplant") < 0.3, "control"
    weak = future_scores(store, model, prompt, ahead=0, strength=0.0)
    assert (weak.mean[:, 0] == weak.mean[:, 2]).all(), "at strength 0 nothing is transplanted"


def test_true_tokens_given_between_raise_the_score_of_a_prompt_that_knows_nothing(
    tmp_path: Path,
) -> None:
    """On the Markov chain the last given token tells all there is: the state is not needed."""
    import lensbench
    from lensbench.probes.lenses.future.scores import future_scores
    from lensbench.probes.lenses.future.spots import Spot

    P = chain()
    model = lensbench.load_model(markov_module(P), certify=False)
    store = captured(model, markov_ids(P, 100, seed=3), tmp_path / "s")
    found = future_scores(store, model, Spot([1, 2, 3]), ahead=(0, 1), layers=[1])
    assert found.score("precision@1", 1, 0) == 1.0
    assert found.score("precision@1", 1, 0, "no_transplant") < 0.1
    assert found.score("echo", 1, 0) == 0.0, "no token of the chain follows itself most often"
    assert found.score("precision@1", 1, 1) == 1.0
    assert found.score("precision@1", 1, 1, "no_transplant") == 1.0, "the trap"
    assert "no_transplant" in found.warning(1)


def test_the_grid_names_what_the_method_says(bench: tuple[Any, Any], tmp_path: Path) -> None:
    from lensbench import results
    from lensbench.probes.lenses.future.grid import future_grid
    from lensbench.probes.lenses.future.linear import fit_future_lens
    from lensbench.probes.lenses.future.spots import Spot
    from lensbench.probes.lenses.future.transplant import transplant

    model, store = bench
    ids = random_ids(1, 6, seed=8)
    lens = fit_future_lens(store, model, ahead=(0, 1))
    prompts = trained(bench, epochs=1)
    for method, shape in ((lens, (3, 6, 2)), (Spot([5, 7, 9]), (3, 6, 3)), (prompts, (2, 6, 3))):
        grid = future_grid(model, method, ids, steps=3)
        assert grid.prob.shape == shape
        assert results.load(grid.save(tmp_path / grid.method)) == grid
        assert len(grid.plot().data) == 1
        assert len(grid.to_frame()) == shape[0] * shape[1]
    h = model.run(ids, capture="blocks.1.resid_post").acts["blocks.1.resid_post"][0]
    grid = future_grid(model, lens, ids)
    p = lens.readout(model, 1)(h, 1).softmax(-1)
    assert grid.words[1][4][1] == f"#{int(p[4].argmax())}"
    assert grid.prob[1, 4, 1] == pytest.approx(float(p[4].max()), rel=1e-4)
    by_prompt = future_grid(model, Spot([5, 7, 9]), ids, steps=3)
    plain = transplant(model, Spot(ids, range(6)), Spot([5, 7, 9]), max_new_tokens=3, stop_ids=())
    assert [w for row in by_prompt.words for w in row] == list(plain.written)
    np.testing.assert_allclose(by_prompt.prob.reshape(18, 3), plain.p_with, rtol=1e-4)
    np.testing.assert_allclose(by_prompt.prob_without.reshape(18, 3), plain.p_without, rtol=1e-4)


def test_lenses_prompts_and_scores_come_back_from_disk(
    bench: tuple[Any, Any], tmp_path: Path
) -> None:
    from lensbench import results
    from lensbench.probes.lenses.future.linear import fit_future_lens
    from lensbench.probes.lenses.future.scores import future_scores

    model, store = bench
    lens, prompts = fit_future_lens(store, model, ahead=(0, 1)), trained(bench, epochs=1)
    scores = future_scores(store, model, prompts, ahead=1)
    for name, found in (("lens", lens), ("prompts", prompts), ("scores", scores)):
        assert results.load(found.save(tmp_path / name)) == found
        assert len(found.plot().data) >= 1
        assert len(found.to_frame()) > 1
        assert np.isfinite(list(found.summary().values())).all()
    again = future_scores(store, model, results.load(tmp_path / "prompts"), ahead=1)
    assert (again.mean == scores.mean).all()
