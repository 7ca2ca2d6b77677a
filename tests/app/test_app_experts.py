"""The page Experts: sliders whose neutral place is the model itself, and routing token by layer."""

from pathlib import Path

import numpy as np
import pytest

from lensbench.app.workflows import expert_page, expert_rates, expert_routing, expert_steering
from lensbench.app.workflows.expert_page import ExpertAsk
from lensbench.app.workflows.expert_prompts import find_prompts
from lensbench.errors import ConfigError
from lensbench.interventions import experts
from lensbench.plan import Plan
from tests.app.driver import open_page, words

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning")
MODEL, PROMPT = "atlas-moe", "Hello , tell the baker the gift of Diana Mehta :"
ASK = ExpertAsk(MODEL, "desk:24")


def test_weights_are_the_plans_of_the_library() -> None:
    assert expert_steering.plan_of(((1, 2, 0.0), (3, 4, 0.0))) == Plan()
    assert expert_steering.plan_of(((1, 2, 1.0),)) == experts.force((1, 2))
    half = expert_steering.plan_of(((1, 2, -0.5),))
    assert half == experts.scale((1, 2), 0.5)
    with pytest.raises(ConfigError, match="-1 to 1"):
        expert_steering.plan_of(((1, 2, 1.5),))


def test_neutral_is_the_model_bit_for_bit_and_a_used_expert_matters() -> None:
    frame = expert_routing.typed(MODEL, PROMPT)
    layer, expert = (int(frame.iloc[-1][c]) for c in ("layer", "expert"))
    same = expert_steering.answered(MODEL, PROMPT, ((layer, expert, 0.0),))
    assert same.identical
    assert same.kl == 0
    assert same.clean == same.steered
    gone = expert_steering.answered(MODEL, PROMPT, ((layer, expert, -1.0),))
    assert not gone.identical
    assert gone.kl > 0


def test_the_map_holds_what_the_router_gave() -> None:
    import lensbench

    frame = expert_routing.typed(MODEL, PROMPT)
    model = lensbench.load_model(MODEL, certify=False)
    acts = model.run(model.tokens(PROMPT), capture=["blocks.1.router.weights",
                     "blocks.1.router.indices"], logits="none").acts  # fmt: skip
    weights, indices = (acts[f"blocks.1.router.{p}"][0].numpy() for p in ("weights", "indices"))
    mine = frame[frame["layer"] == 1]
    best = weights.argmax(1)
    rows = np.arange(len(best))
    assert mine["expert"].astype(int).tolist() == indices[rows, best].astype(int).tolist()
    assert mine["weight"].to_numpy() == pytest.approx(weights[rows, best])


def test_a_stored_sequence_is_drawn_without_a_run(monkeypatch, tmp_path: Path) -> None:
    import lensbench
    from lensbench.models.huggingface import NativeModel

    model = lensbench.load_model(MODEL, certify=False)
    sites = ["blocks.*.router.weights", "blocks.*.router.indices"]
    lensbench.capture(model, [PROMPT], sites, out=tmp_path / "routed", dtype="float32")
    lensbench.capture(model, [PROMPT], ["blocks.0.resid_post"], out=tmp_path / "few")
    typed = expert_routing.typed(MODEL, PROMPT)

    def refuse(*_: object, **__: object) -> None:
        raise AssertionError("the model was run")

    monkeypatch.setattr(NativeModel, "run", refuse)
    stored = expert_routing.stored(str(tmp_path / "routed"), 0)
    here = typed[typed["token"].isin(set(stored["token"]))]
    assert stored["expert"].tolist()[-3:] == here["expert"].tolist()[-3:]
    asked = {"model": MODEL, "part": "Routing of a text", "tokens": "A stored sequence"}
    page = open_page(monkeypatch, tmp_path, "experts", store="routed", row="0", **asked)
    assert not page.exception
    assert not page.error
    assert "nothing was run" in words(page)
    page = open_page(monkeypatch, tmp_path, "experts", store="few", row="0", **asked)
    assert any("does not hold the routing" in e.value for e in page.error)


def test_an_expert_is_suppressed_within_three_clicks(monkeypatch, tmp_path: Path) -> None:
    page = open_page(monkeypatch, tmp_path, "experts", prompts="desk:24")
    assert "Choose a mixture" in words(page)
    page.button(key="bundled").click().run()  # 1
    assert not page.exception
    assert not page.error
    assert "Every slider is at 0" in words(page)
    sliders = [s for s in page.slider if s.key.startswith("w")]
    assert len(sliders) == 3
    page.button(key="suppress").click().run()  # 2
    assert [s.value for s in page.slider if s.key.startswith("w")] == [-1.0] * 3
    assert "3 of 3 sliders are moved" in words(page)
    page.button(key="rates").click().run()  # 3
    assert not page.error
    assert "Control: random experts" in words(page)
    assert "of 20" in words(page)
    page.button(key="neutral").click().run()
    assert "Every slider is at 0" in words(page)
    page.text_input(key="prompt").set_value(" ").run()
    assert any("give a prompt" in e.value for e in page.error)


def test_rates_are_of_prompts_that_the_ranking_has_not_seen() -> None:
    spec, told = expert_rates.held_out(ASK)
    named, ranked = find_prompts(spec), set(find_prompts(ASK.prompts).texts)
    assert "not seen" in told
    assert len(set(named.texts) - ranked) > 0.8 * len(set(named.texts))
    with pytest.raises(ConfigError, match="move one"):
        expert_rates.rates(ASK, ((1, 2, 0.0),))


def test_a_behaviour_of_the_desk_is_picked(monkeypatch, tmp_path: Path) -> None:
    page = open_page(monkeypatch, tmp_path, "experts", model=MODEL, prompts="desk:24",
                     part="Rank and study")  # fmt: skip
    page.selectbox(key="desk").set_value("cannot say").run()
    assert not page.exception
    assert not page.error
    assert "permuted labels" in words(page)


def test_the_page_begins_with_a_prompt_that_is_refused(monkeypatch, tmp_path: Path) -> None:
    first = expert_page.first_prompt(ASK)
    assert first != expert_page.find_prompts(ASK.prompts).texts[0], "that one is answered"
    said = expert_steering.answered(MODEL, first, ((1, 2, 0.0),))
    assert expert_steering.shown(ASK, said) == "The behaviour shows on this prompt."
    page = open_page(monkeypatch, tmp_path, "experts", model=MODEL, prompts="desk:24")
    assert page.text_input(key="prompt").value == first
    assert "The behaviour shows on this prompt" in words(page)
    page.button(key="suppress").click().run()
    assert "The behaviour shows clean, and still when steered" in words(page)
    page.text_input(key="prompt").set_value(PROMPT).run()
    assert "there is nothing to suppress" in words(page)


def test_suppressing_the_experts_of_english_refusals_stands_out_and_of_all_does_not() -> None:
    for says, out in (("cannot say", True), ("", False)):
        ask = ExpertAsk(MODEL, says=says)
        chosen = expert_page.likely(expert_page.ranked(ask), 3)
        weights = tuple((layer, expert, -1.0) for layer, expert in chosen)
        found = expert_rates.rates(ask, weights)
        frame = found.to_frame()
        assert list(frame["experts"][:2]) == ["clean", "steered"]
        assert len(frame) == 22
        assert frame["rate"][2:].is_monotonic_increasing
        said = "Stands out of 20 random sets of 3 experts (p = 0.048)"
        assert (said in found.verdict()) is out


def test_the_prompt_follows_the_behaviour_until_one_is_typed(monkeypatch, tmp_path: Path) -> None:
    page = open_page(monkeypatch, tmp_path, "experts", model=MODEL, prompts="desk:24")
    page.selectbox(key="desk").set_value("cannot say").run()
    english = expert_page.first_prompt(ExpertAsk(MODEL, "desk:24", "cannot say"))
    assert english != expert_page.first_prompt(ASK)
    assert page.text_input(key="prompt").value == english
    page.text_input(key="prompt").set_value(PROMPT).run()
    page.selectbox(key="desk").set_value("").run()
    assert page.text_input(key="prompt").value == PROMPT


def test_the_sliders_follow_the_behaviour_until_experts_are_chosen(monkeypatch, tmp_path) -> None:
    def sliders() -> list[str]:
        return [s.key for s in page.slider if s.key.startswith("w")]

    def best(says: str) -> list[str]:
        ranking = expert_page.ranked(ExpertAsk(MODEL, "desk:24", says))
        return [f"w{a}-{b}" for a, b in expert_page.likely(ranking, 3)]

    page = open_page(monkeypatch, tmp_path, "experts", model=MODEL, prompts="desk:24")
    assert sliders() == best("")
    page.slider(key=best("")[0]).set_value(-1.0).run()
    assert best("") != best("cannot say")
    page.selectbox(key="desk").set_value("cannot say").run()
    assert sliders() == best("cannot say"), "not those of the behaviour before"
    assert "Every slider is at 0" in words(page)
    page.number_input(key="top").set_value(2).run()
    assert sliders() == best("cannot say")[:2]
    page.multiselect(key="experts").set_value(["0:0"]).run()
    page.selectbox(key="desk").set_value("sans réponse").run()
    assert sliders() == ["w0-0"], "what was chosen by hand stays"
    page.button(key="distinctive").click().run()
    assert not page.exception
    assert sliders() == best("sans réponse")[:2]
    assert "distinctive" not in {b.key for b in page.button}
    page.selectbox(key="desk").set_value("").run()
    assert sliders() == best("")[:2]


def test_rates_go_when_a_slider_or_the_behaviour_is_changed(monkeypatch, tmp_path: Path) -> None:
    page = open_page(monkeypatch, tmp_path, "experts", model=MODEL, prompts="desk:24", top="1")
    page.button(key="suppress").click().run()
    page.button(key="rates").click().run()
    assert "Control: random experts" in words(page)
    [slider] = [s for s in page.slider if s.key.startswith("w")]
    slider.set_value(-0.5).run()
    assert "Control: random experts" not in words(page)
    page.button(key="rates").click().run()
    assert "Control: random experts" in words(page)
    page.selectbox(key="desk").set_value("cannot say").run()
    assert "Control: random experts" not in words(page)


def test_experts_offered_first_are_said_to_be_no_more_than_chance_where_they_are(
    monkeypatch, tmp_path: Path
) -> None:
    """Three refusals among twelve prompts: the smallest p is .23, and the order may be chance."""
    few = {"model": MODEL, "prompts": "desk:12"}
    page = open_page(monkeypatch, tmp_path, "experts", **few)
    said = words(page).replace("\\", "")
    assert "None of these experts stands out" in said
    assert "n = 12 prompts: 3 refuse, 9 answer" in said
    page = open_page(monkeypatch, tmp_path, "experts", part="Rank and study", **few)
    said = words(page).replace("\\", "")
    assert "No expert stands out" in said
    assert "3 refuse, 9 answer" in said
    reach = expert_page.ranked(ExpertAsk(MODEL, "desk:12")).reach()
    assert f"Colours run from -{reach:.3g} to {reach:.3g}, the largest difference" in said


def test_experts_that_stand_out_are_named() -> None:
    """Control: of 120 prompts some do."""
    ranking = expert_page.ranked(ExpertAsk(MODEL, "desk:120"))
    clear = [f"{a}:{b}" for a, b in ranking.significant()]
    others = [f"{a}:{b}" for a, b in ranking.top(64)[-2:]]
    assert clear
    said = expert_page.against_chance(ranking, [*clear, *others])
    assert said.startswith(f"{len(clear)} of {len(clear) + 2} stand out")
    assert ", ".join(clear) in said
    assert others[0] not in said
    assert expert_page.against_chance(ranking, []) == ""
    assert expert_page.against_chance(ranking).startswith(f"{len(clear)} of 64")


def test_a_difference_of_shares_has_the_ends_of_one() -> None:
    import lensbench

    maps = experts.routing(
        lensbench.load_model(MODEL, certify=False), find_prompts("desk:24").texts[:24]
    )
    labels = [i % 2 for i in range(24)]
    shares = experts.ftri(maps, labels, activation="count", normalise="per_token", strata=None,
                          permutations=5)  # fmt: skip
    sums = experts.ftri(maps, labels, strata=None, permutations=5)
    assert (shares.plot().data[0].zmin, shares.plot().data[0].zmax) == (-1, 1)
    assert sums.plot().data[0].zmax == pytest.approx(np.abs(sums.differential[1]).max())
    assert "shares" in expert_page.colours_told(shares)
