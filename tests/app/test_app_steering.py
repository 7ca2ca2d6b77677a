"""The page Steering: every kind of direction, neutral is the model itself, nothing slow unasked."""

import re
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from lensbench.app.widgets.steer_doses import in_words
from lensbench.app.widgets.token_diff import changed
from lensbench.app.workflows import steering_beside
from lensbench.app.workflows.latent_steering import RANDOM
from lensbench.app.workflows.steering_beside import BesideAsk
from lensbench.app.workflows.steering_doses import doses_of
from tests.app.driver import open_page, words

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning")
PLUS, MINUS = ("The doors", "The women"), ("The door", "The woman")
ASK = BesideAsk("atlas-dense", "I think the knife", plus=PLUS, minus=MINUS, new_tokens=6)


def of(strength: float, where: str = "after") -> steering_beside.Steered:
    from dataclasses import replace

    return steering_beside.steered(replace(ASK, strength=strength, where=where))


def test_strength_zero_is_the_model_bit_for_bit_and_others_are_not() -> None:
    nothing, much = of(0.0), of(2.0)
    assert nothing.identical
    assert nothing.ids["steered"] == nothing.ids["clean"]
    assert not any(nothing.on)
    assert (nothing.kl["kl"] == 0).all()
    assert not much.identical
    assert much.kl["kl"].max() > 0.1
    assert much.on == (False, False, False, False, True)
    assert all(of(2.0, "all").on)


@pytest.mark.parametrize("where", ["after", "all"])
def test_strength_one_is_what_it_is_in_the_library(where: str) -> None:
    import lensbench
    from lensbench import interventions

    found = of(1.0, where)
    model = lensbench.load_model("atlas-dense", certify=False)
    direction = interventions.probe_direction(found.site, np.ones(model.card.d_model))
    curve = interventions.dose_curve(model, direction, [ASK.prompt], (1.0,), effect="kl", at=where,
                                     random=0, shuffled=0)  # fmt: skip
    assert found.unit == pytest.approx(curve.scale[0])
    other = of(1.0, "all" if where == "after" else "after")
    assert found.unit != pytest.approx(other.unit, rel=0.01), "control: other tokens, another unit"


def test_a_steered_text_may_be_longer_than_the_clean_one() -> None:
    found = of(1.0)  # the clean text ends before the tokens that may be steered do
    assert len(found.ids["clean"]) < ASK.new_tokens
    assert len(found.kl) == len(found.ids["clean"])


def test_tokens_that_differ_are_found_by_id() -> None:
    assert changed((1, 2, 3), (1, 9, 3, 4)) == [False, True, False, True]


def test_the_page_offers_a_model_and_then_steers(monkeypatch, tmp_path: Path) -> None:
    page = open_page(monkeypatch, tmp_path, "steering")
    assert not page.exception
    assert "continues a prompt at once" in words(page)
    assert "nothing runs until" not in words(page), "a model that is chosen runs"
    assert not page.get("plotly_chart")
    page.button(key="bundled").click().run()
    assert not page.exception
    assert not page.error
    assert len(page.get("plotly_chart")) == 1
    said = re.search(r"Strength 1 is a step of length ([\d.]+) at blocks.1.resid_post: the "
                     r"length of the state at the prompt's last token", words(page))  # fmt: skip
    assert said
    assert float(said[1]) == pytest.approx(of(1.0).unit, rel=1e-3), "the prompt is the same"
    page.select_slider(key="strength").set_value(0.0).run()
    assert "its logits are bit" in words(page)
    page.number_input(key="new").set_value(3)
    page.number_input(key="heat").set_value(0.5)
    page.number_input(key="seed").set_value(4)
    page.selectbox(key="where").set_value("all")
    page.number_input(key="layer").set_value(2).run()
    assert not page.exception
    assert not page.error
    page.text_area(key="minus").set_value("").run()
    assert any("either side" in e.value for e in page.error)


def test_a_task_steers_at_once_and_its_doses_wait(monkeypatch, tmp_path: Path) -> None:
    page = open_page(
        monkeypatch, tmp_path, "steering", model="atlas-dense", direction="A prompt task"
    )
    assert not page.exception
    assert not page.error
    assert len(page.get("plotly_chart")) == 1
    assert not page.toggle(key="doses").value


def test_a_dose_of_a_prompt_is_the_step_shown_above_it(monkeypatch, tmp_path: Path) -> None:
    doses, shown = doses_of(ASK), of(1.0)
    frame = doses.to_frame().set_index(["direction", "strength"])
    own, drawn = frame.loc["this direction"], frame.loc[f"{RANDOM} random directions"]
    assert own.loc[1.0, "kl"] == pytest.approx(shown.kl["kl"].mean(), abs=1e-5)
    assert own.loc[1.0, "changed"] == np.mean(shown.changed("steered"))
    assert drawn.loc[1.0, "kl"] == pytest.approx(shown.kl["random"].mean(), abs=1e-5)
    assert own.loc[1.0, "length"] == pytest.approx(shown.length)
    assert (own.loc[0.0, ["kl", "changed"]] == 0).all()
    assert own.loc[0.0, "loss"] == drawn.loc[0.0, "loss_high"], "the clean text's own"
    assert own.loc[4.0, "kl"] > own.loc[0.5, "kl"]

    page = open_page(monkeypatch, tmp_path, "steering", model="atlas-dense")
    assert len(page.get("plotly_chart")) == 1, "nothing slow unasked"
    page.toggle(key="doses").set_value(True).run()
    assert not page.exception
    assert len(page.get("plotly_chart")) == 2
    page.radio(key="dose-measure").set_value("loss").run()
    assert "unsteered model makes of them" in words(page)
    page.text_area(key="prompt").set_value("").run()
    assert not page.exception
    assert not page.get("plotly_chart")


def test_a_vector_of_a_file_of_the_folder_alone(monkeypatch, tmp_path: Path) -> None:
    np.save(tmp_path / "probe.npy", np.ones(128, dtype=np.float32))
    asked = {"model": "atlas-dense", "direction": "A probe or vector in a file"}
    page = open_page(monkeypatch, tmp_path, "steering", file="probe.npy", **asked)
    assert not page.exception
    assert not page.error
    assert len(page.get("plotly_chart")) == 1
    page = open_page(monkeypatch, tmp_path, "steering", file="../probe.npy", **asked)
    assert any("outside the folder" in e.value for e in page.error)


def test_a_link_from_a_latent_opens_on_it(monkeypatch, small_root: Path) -> None:
    name = next((small_root / "runs" / "small").glob("topk-64-k8*")).name
    page = open_page(
        monkeypatch, small_root, "steering", run="runs/small", dictionary=name, latent="3",
        doses="true",
    )  # fmt: skip
    assert not page.exception
    assert not page.error
    assert page.number_input(key="latent").value == 3
    assert len(page.get("plotly_chart")) == 2, "steered, and dose by dose"


def test_controls_that_never_get_there_are_told_in_words() -> None:
    frame = pd.DataFrame({"strength": [1.0], "control": ["random"], "control_effect": [np.nan]})
    assert in_words(frame)["control_effect"].tolist() == ["not reached"]
