"""Tasks whose truth is known: the bundled model solves its world's, its twin does not.

Thresholds, set after a first look at seed 0 (0.995 to 1.0; twin and shuffled answers 0.41 to 0.55):
accuracy at least 0.95, the reverse after corrupted prompts; both controls between 0.35 and 0.65
(n = 200, where chance lies within 0.43 to 0.57 in 95 % of draws). Seed 1 was not looked at before.
"""

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from lensbench import prompts
from lensbench.errors import ConfigError, MismatchError, NotEnoughDataError
from lensbench.results import load

N = 200
SOLVED = ("agreement", "first_letter", "greater_than", "ioi", "recall")


@pytest.fixture(scope="module")
def model() -> Any:
    from lensbench import load_model

    return load_model("atlas-dense", certify=False)


@pytest.fixture(scope="module")
def twin(model: Any) -> Any:
    from lensbench.worlds.controls import reinitialised_twin

    return reinitialised_twin(model)


@pytest.mark.parametrize("seed", [0, 1])
@pytest.mark.parametrize("task", SOLVED)
def test_the_bundled_model_solves_its_world_s_tasks_and_its_twin_does_not(
    task: str, seed: int, model: Any, twin: Any
) -> None:
    pairs = prompts.TASKS[task](model, N, seed)
    found, control = prompts.score(model, pairs), prompts.score(twin, pairs)
    assert (found.clean > 0).mean() >= 0.95
    assert (found.corrupted < 0).mean() >= 0.95  # answer and foil changed places
    assert 0.35 <= (found.shuffled > 0).mean() <= 0.65
    assert 0.35 <= (control.clean > 0).mean() <= 0.65
    assert found.summary()["accuracy_shuffled"] == found.controls.values["shuffled_answers"]


def test_corrupted_prompts_are_a_control(model: Any) -> None:
    found = prompts.score(model, prompts.ioi(model, 50, 0))
    values = found.controls.values
    assert values["corrupted_prompts"] == (found.corrupted > 0).mean() <= 0.05
    assert found.summary()["accuracy_corrupted"] == values["corrupted_prompts"]
    assert list(values) == ["shuffled_answers", "corrupted_prompts"]


@pytest.mark.parametrize("n", [1, 3])
def test_answers_that_are_all_the_same_cannot_be_exchanged(
    n: int, model: Any, tmp_path: Path
) -> None:
    """Another pair's answer would be the pair's own: a control that is as good as the model."""
    every = prompts.agreement(model, 40, 0)
    same = [i for i, told in enumerate(every.answer_texts) if told == every.answer_texts[0]]
    found = prompts.score(model, every.select(same[:n]))
    assert found.shuffled.shape == (0,)
    assert list(found.controls.values) == ["corrupted_prompts"]
    assert "accuracy_shuffled" not in found.summary()
    assert list(found.to_frame()["prompts"]) == ["clean", "corrupted"]
    assert found.plot().data
    assert load(found.save(tmp_path)) == found


def test_an_encoder_is_refused(model: Any) -> None:
    import lensbench
    from tests.helpers import tiny

    bert = lensbench.load_model(tiny("bert"), certify=False)
    with pytest.raises(ConfigError, match=r"prompts.score is about the prediction of the next"):
        prompts.score(bert, prompts.ioi(model, 3, 0))


@pytest.mark.illtyped
def test_batches_of_nothing_are_refused(model: Any) -> None:
    pairs = prompts.ioi(model, 3, 0)
    for size in (0, -1, 2.5, "a"):
        with pytest.raises(ConfigError, match=r"batch_size must be .*at least 1"):
            prompts.score(model, pairs, batch_size=size)  # pyright: ignore[reportArgumentType]


def test_three_other_names_leave_the_answer_undecided(model: Any) -> None:
    pairs = prompts.ioi(model, N, 0, corruption="abc")
    found = prompts.score(model, pairs)
    assert (found.clean > 0).mean() >= 0.95
    assert 0.35 <= (found.corrupted > 0).mean() <= 0.65
    assert abs(found.corrupted.mean()) < 0.1 * found.clean.mean()


def test_the_wordings_are_the_world_s_own(model: Any) -> None:
    from lensbench.worlds.atlas import Atlas

    world = Atlas(0)
    seen = {f: world.questions(f, 400, "all").prompts for f in ("ioi", "agreement")}
    for task, sentences in seen.items():
        pairs = prompts.TASKS[task](model, 60, 0)
        shapes = {len(p) for p in sentences}
        starts = {p[1] for p in sentences}
        assert {len(p) for p in pairs.clean_ids} <= shapes
        assert {p[1] for p in pairs.clean_ids} <= starts
        assert all(model.tokenizer.unk_token_id not in p for p in pairs.clean_ids)


def test_putting_the_answer_s_source_back_restores_it(model: Any) -> None:
    """Positions are right: a patch at a role's token moves the answer, at another's it does not."""
    from lensbench import Edit, Plan, Set
    from lensbench.sites import Site

    pairs = prompts.recall(model, 40, 0)
    site = Site("resid_pre", 0)
    effects = {}
    for role in ("foil_key", "value"):
        total = 0.0
        for row in range(len(pairs)):
            one = pairs.select([row])
            at = one.roles[role][0]
            clean = model.run(one.clean, capture=site).acts[site][0, at]
            plan = Plan(edits=(Edit(site, Set(clean), positions=(at,)),))
            logits = model.run(one.corrupted, plan).logits
            total += float(one.logit_diff(logits)[0]) / len(pairs)
        effects[role] = total
    before = prompts.score(model, pairs).corrupted.mean()
    assert effects["foil_key"] == pytest.approx(before, abs=1e-3)  # the same token in both prompts
    # Both keys then hold the same value: the foil is told nowhere any more.
    assert effects["value"] > before + 5


def test_refusals_cannot_be_written_in_the_world_s_words(model: Any) -> None:
    with pytest.raises(NotEnoughDataError, match="verb pairs"):
        prompts.refusal(model, 10)


def test_scores_come_back_from_disk_and_pairs_know_their_tokenizer(
    model: Any, tmp_path: Path
) -> None:
    from tests import tokenizers_for_chat as made

    pairs = prompts.agreement(model, 20, 0)
    found = prompts.score(model, pairs, batch_size=7)
    assert load(found.save(tmp_path)) == found
    again = prompts.score(model, pairs, batch_size=20)
    np.testing.assert_allclose(found.clean, again.clean, atol=1e-4)
    np.testing.assert_allclose(found.shuffled, again.shuffled, atol=1e-4)
    frame = found.to_frame()
    assert list(frame["prompts"]) == ["clean", "corrupted", "shuffled"]
    assert (frame["n"] == 20).all()
    strange = made.word_level("When Mary and John went to the store , gave a drink".split())
    with pytest.raises(MismatchError, match="make them again"):
        prompts.score(model, prompts.ioi(strange, 2))


def test_a_real_tokenizer_gives_aligned_pairs_of_every_task(shared_data: Path) -> None:
    from lensbench import load_model

    story = load_model(shared_data / "story-llama", certify=False)
    for name, task in prompts.TASKS.items():
        pairs = task(story, 20, 0)
        assert len(pairs) == 20, name
        for clean, corrupted in zip(pairs.clean_ids, pairs.corrupted_ids, strict=True):
            assert len(clean) == len(corrupted)
            assert clean[0] == story.tokenizer.bos_token_id
        encoded = story.tokens(list(pairs.clean_texts))
        assert np.array_equal(encoded.ids.numpy()[encoded.real.numpy()],
                              pairs.clean.ids.numpy()[pairs.clean.real.numpy()])  # fmt: skip
        assert np.isfinite(prompts.score(story, pairs).clean).all()
