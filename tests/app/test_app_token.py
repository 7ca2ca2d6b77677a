"""The Token page: read from one row without a run; each check is an intervention with a control."""

import shutil
import threading
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from tests.app.driver import open_page, words
from tests.app.tiny_root import Root, make_root, no_run, save_tiny, tiny_root

__all__ = ["no_run", "tiny_root"]
pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning")
ROW = 17
SITE = "blocks.1.resid_post"


def token_page(monkeypatch: Any, root: Root, row: int = ROW, **query: str) -> Any:
    return open_page(monkeypatch, root.folder, "token", store="acts", row=str(row), **query)


def dictionary(root: Root, index: int = 0) -> Any:
    """A run of the root, and its active latents at ``ROW``."""
    from lensbench.app.workflows.token_page import latent_cells

    found, refused = latent_cells(root.folder, root.url, ROW)
    assert refused == []
    return found[index]


def plain_model(root: Root) -> Any:
    from transformers import AutoModelForCausalLM

    return AutoModelForCausalLM.from_pretrained(root.model).eval()


def sequence(root: Root) -> tuple[torch.Tensor, int]:
    from lensbench.app.workflows.sequences import sequence_at

    found = sequence_at(root.url, ROW)
    return torch.from_numpy(found.ids)[None], found.position_of(ROW)


def metrics(page: Any) -> dict[str, str]:
    """What a reader sees: what stands against Markdown is not shown."""
    return {m.label: m.value.replace("\\", "") for m in page.metric}


@pytest.mark.usefixtures("no_run")
def test_everything_of_a_token_is_shown_under_one_fingerprint_and_without_a_run(
    monkeypatch, tiny_root: Root
) -> None:
    from lensbench.store import open_store

    page = token_page(monkeypatch, tiny_root)
    assert not page.exception
    assert not page.error
    said = words(page)
    for cell in ("Lens trajectory", "Exit depth", "Active latents", "Routed experts",
                 "Probe read-outs", "Hyperdimensional read-outs"):  # fmt: skip
        assert cell in said
    assert open_store(tiny_root.url).fingerprint in said
    assert "fingerprint:" not in said  # a second one, of something else
    assert "Not in this version" not in said
    assert "tiny has no experts" in said.replace("\\", "")
    assert len(page.get("plotly_chart")) == 1
    summary = page.dataframe[1].value
    assert summary["active"].tolist() == [4, 8]


def test_the_sequence_is_the_one_the_model_saw_and_other_rows_have_other_tokens(
    monkeypatch, tiny_root: Root
) -> None:
    shown = metrics(token_page(monkeypatch, tiny_root))
    assert shown["Position"] == "4"
    assert shown["Document"] == "1"
    assert shown["Token"] == ">"
    assert metrics(token_page(monkeypatch, tiny_root, row=ROW + 1))["Token"] == "bold"
    last = token_page(monkeypatch, tiny_root, row=13)
    assert metrics(last)["Followed by"] == "end of sequence"


def test_a_document_is_found_by_its_number(monkeypatch, tiny_root: Root) -> None:
    page = token_page(monkeypatch, tiny_root)
    page.number_input(key="document").set_value(3).run()
    assert metrics(page)["Document"] == "3"
    assert metrics(page)["Position"] == "1"
    page.number_input(key="document").set_value(400).run()
    assert not page.exception
    assert "document 400 has no stored token" in page.error[0].value
    assert metrics(page)["Document"] == "3"


@pytest.mark.usefixtures("no_run")
def test_latents_are_those_of_the_live_activation(tiny_root: Root) -> None:
    from lensbench.app.workflows.token_page import run_of

    ids, position = sequence(tiny_root)
    kept: list[torch.Tensor] = []
    module = plain_model(tiny_root)
    module.model.layers[1].register_forward_hook(
        lambda _m, _i, out: kept.append(out if torch.is_tensor(out) else out[0])
    )
    with torch.no_grad():
        module(ids)
    cell = dictionary(tiny_root)
    acts = run_of(cell.run, cell.name).sae.encode(kept[0][0, position : position + 1])[0]
    wanted = acts.nonzero()[:, 0].tolist()
    assert sorted(cell.active["latent"]) == wanted
    for latent, value in zip(cell.active["latent"], cell.active["activation"], strict=True):
        assert value == pytest.approx(float(acts[latent]), rel=1e-3)
    assert cell.active["activation"].is_monotonic_decreasing
    assert 0 <= cell.unexplained < 1


def test_verify_takes_a_latent_out_as_plain_hooks_do_beside_random_ones(
    monkeypatch, tiny_root: Root
) -> None:
    from lensbench.app.workflows.token_checks import check_latent
    from lensbench.app.workflows.token_page import run_of

    cell = dictionary(tiny_root)
    latent = int(cell.active["latent"].iloc[0])
    ids, position = sequence(tiny_root)
    shift = float(cell.active["activation"].iloc[0]) * run_of(cell.run, cell.name).sae.W_dec[latent]
    module = plain_model(tiny_root)
    with torch.no_grad():
        clean = module(ids).logits[0, position].log_softmax(-1)

        def take_out(_m: Any, _i: Any, out: Any) -> Any:
            x = (out if torch.is_tensor(out) else out[0]).clone()
            x[0, position] -= shift
            return x if torch.is_tensor(out) else (x, *out[1:])

        module.model.layers[1].register_forward_hook(take_out)
        edited = module(ids).logits[0, position].log_softmax(-1)
    kl = float((clean.exp() * (clean - edited)).sum())
    found = check_latent(tiny_root.url, ROW, cell.run, cell.name, latent)
    assert found.value == pytest.approx(kl, rel=1e-3)
    assert found.value > 1e-3
    assert found.control > 0
    assert "8 random latents of equal norm" in found.details["control"]
    page = token_page(monkeypatch, tiny_root)
    page.button(key="verify-latent").click().run()
    assert not page.exception
    shown = metrics(page)
    assert shown["Measured (nats)"] == f"{found.value:.4g}"
    assert shown["Control (nats)"] == f"{found.control:.4g}"


def test_the_number_goes_when_something_else_is_asked(monkeypatch, tiny_root: Root) -> None:
    page = token_page(monkeypatch, tiny_root)
    page.button(key="verify-latent").click().run()
    assert "Measured (nats)" in metrics(page)
    page.number_input(key="row").set_value(ROW + 1).run()
    assert "Measured (nats)" not in metrics(page)


def test_a_latent_that_does_nothing_moves_nothing_and_a_silent_one_is_refused(
    monkeypatch, tiny_root: Root
) -> None:
    from dataclasses import replace

    from lensbench.app.workflows import token_checks
    from lensbench.app.workflows.token_page import run_of
    from lensbench.errors import ConfigError

    cell = dictionary(tiny_root)
    latent = int(cell.active["latent"].iloc[0])
    run = run_of(cell.run, cell.name)
    weights = {**run.weights, "W_dec": run.weights["W_dec"].copy()}
    weights["W_dec"][latent] = 0
    monkeypatch.setattr(token_checks, "run_of", lambda *_: replace(run, weights=weights))
    found = token_checks.check_latent(tiny_root.url, ROW, cell.run, cell.name, latent)
    assert found.value == 0.0
    silent = next(i for i in range(64) if i not in set(cell.active["latent"]))
    with pytest.raises(ConfigError, match="silent at this token"):
        token_checks.check_latent(tiny_root.url, ROW, cell.run, cell.name, silent)
    with pytest.raises(ConfigError, match="latents 0 to 63"):
        token_checks.check_latent(tiny_root.url, ROW, cell.run, cell.name, 64)


def test_verify_of_the_lens_agrees_and_sees_states_of_another_token(
    monkeypatch, tiny_root: Root
) -> None:
    from lensbench.app.workflows import token_checks

    found = token_checks.check_lens(tiny_root.url, ROW)
    assert found.value < 1e-5
    assert found.control > 0.1
    assert "is what the model computes" in found.verdict
    assert found.table["layer"].tolist() == ["0", "1", "2", "output"]
    plain = token_checks._stored
    monkeypatch.setattr(token_checks, "_stored", lambda s, sites, row: plain(s, sites, row + 1))
    wrong = token_checks.check_lens(tiny_root.url, ROW)
    assert wrong.value > 0.1
    assert "NOT" in wrong.verdict


def test_exit_depth_is_the_first_layer_that_keeps_the_final_word_and_a_stopped_run_says_it(
    monkeypatch, tiny_root: Root
) -> None:
    from lensbench.app.workflows.token_checks import check_exit
    from lensbench.app.workflows.token_page import exit_cell

    depths: set[int] = set()
    for row in range(10, 34):
        found = exit_cell(tiny_root.url, row)
        said = found.best["id"].tolist()
        same = [word == said[-1] for word in said]
        by_definition = min(i for i in range(3) if all(same[i:]))
        assert found.layer == by_definition
        depths.add(found.layer)
        if found.layer > 0 and len(depths) > 1:
            check = check_exit(tiny_root.url, row)
            assert (check.value, check.control) == (1.0, 0.0)
    assert len(depths) > 1, "the rows do not all have one depth"
    page = token_page(monkeypatch, tiny_root)
    page.button(key="verify-exit").click().run()
    assert metrics(page)["Measured (0 or 1)"] == "1"


def test_routed_experts_are_the_models_and_silencing_one_is_checked(
    monkeypatch, tmp_path: Path
) -> None:
    from lensbench import load_model
    from lensbench.app.workflows.token_checks import check_expert
    from lensbench.app.workflows.token_experts import expert_cell
    from lensbench.plan import Zero, edit

    sites = ["blocks.*.router.indices", "blocks.*.router.weights"]
    root = make_root(tmp_path, kind="mixtral", profile="resid", sites=sites, run=False)
    ids, position = sequence(root)
    model = load_model(root.model)
    found = expert_cell(root.url, ROW)
    out = model.run(ids, capture=[f"blocks.1.{n}" for n in ("router.indices", "router.weights")])
    here = found.loc[found["layer"] == 1]
    assert here["expert"].tolist() == out.acts["blocks.1.router.indices"][0, position].tolist()
    slot = int(np.argmax(here["weight"]))
    plan = edit("blocks.1.router.weights", Zero(), positions=[position], dims=[slot])
    assert out.logits is not None
    clean = out.logits[0, position].log_softmax(-1)
    other = model.run(ids, plan).logits
    assert other is not None
    kl = (clean.exp() * (clean - other[0, position].log_softmax(-1))).sum()
    check = check_expert(root.url, ROW, 1)
    assert check.value == pytest.approx(float(kl), rel=1e-3)
    assert check.control >= 0
    page = token_page(monkeypatch, root)
    page.button(key="verify-expert").click().run()
    assert not page.exception
    assert "Measured (nats)" in metrics(page)


def test_experts_that_were_not_captured_say_the_command(tmp_path: Path) -> None:
    from lensbench.app.workflows.token_experts import expert_cell
    from lensbench.errors import MissingDataError

    root = make_root(tmp_path, kind="mixtral", profile="resid", run=False)
    with pytest.raises(MissingDataError, match=r"Add with: .*router\.indices"):
        expert_cell(root.url, 3)


def test_without_its_model_a_store_still_shows_what_needs_none(monkeypatch, tmp_path: Path) -> None:
    from lensbench.app.workflows.live import forget

    root = make_root(tmp_path)
    shutil.rmtree(root.model)
    forget()
    page = token_page(monkeypatch, root)
    assert not page.exception
    assert metrics(page)["Token"].startswith("#")
    assert "tiny" in " ".join(i.value for i in page.info)
    assert page.dataframe[0].value["active"].tolist() == [4, 8]
    page.button(key="verify-latent").click().run()
    assert "tiny" in page.error[0].value
    forget()


def test_a_dictionary_of_another_model_or_site_is_refused_with_the_reason(
    monkeypatch, tiny_root: Root, tmp_path: Path
) -> None:
    from lensbench.app.workflows.token_checks import check_latent
    from lensbench.app.workflows.token_page import latent_cells
    from lensbench.errors import MismatchError

    shutil.copytree(tiny_root.folder / "run", tmp_path / "run")
    other = make_root(tmp_path / "other", run=False)
    save_tiny(tmp_path / "second", seed=3)
    import lensbench

    lensbench.capture(
        lensbench.load_model(tmp_path / "second"), ["the cat sat on the mat ."],
        [SITE], out=tmp_path / "acts", layout="pad", context=48,
    )  # fmt: skip
    found, refused = latent_cells(tmp_path, str(tmp_path / "acts"), 2)
    assert found == []
    assert len(refused) == 2
    assert "another model" in refused[0]
    with pytest.raises(MismatchError, match="another model"):
        check_latent(str(tmp_path / "acts"), 2, str(tmp_path / "run"),
                     dictionary(tiny_root).name, 0)  # fmt: skip
    assert latent_cells(tmp_path, other.url, ROW)[1] == [], "control: its own model is welcome"
    page = open_page(monkeypatch, tmp_path, "token", store="acts", row="2")
    assert "2 dictionaries are not shown" in [e.label for e in page.expander]


def test_a_store_that_lacks_the_site_of_a_dictionary_says_so(
    tiny_root: Root, tmp_path: Path
) -> None:
    from lensbench.app.workflows.token_page import latent_cells

    lean = make_root(tmp_path, profile="sae", sites=["blocks.0.resid_post"], run=False)
    found, refused = latent_cells(tiny_root.folder, lean.url, 2)
    assert found == []
    assert f"reads {SITE}" in refused[0]


def test_two_tabs_that_check_at_once_never_mix(tiny_root: Root) -> None:
    from lensbench.app.workflows.token_checks import check_latent, check_lens

    cell = dictionary(tiny_root)
    latents = [int(i) for i in cell.active["latent"]]

    def edited(latent: int) -> float:
        return check_latent(tiny_root.url, ROW, cell.run, cell.name, latent).value

    alone = {latent: edited(latent) for latent in latents}
    assert len(set(alone.values())) == len(latents)
    wrong: list[str] = []

    def tab(latent: int) -> None:
        for _ in range(6):
            if edited(latent) != alone[latent]:
                wrong.append(f"latent {latent}")
            if check_lens(tiny_root.url, ROW).value > 1e-5:
                wrong.append("a clean run saw an edit")

    threads = [threading.Thread(target=tab, args=(latent,)) for latent in latents[:3]]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert wrong == []


def test_a_model_is_run_by_one_tab_at_a_time(tiny_root: Root) -> None:
    from lensbench.app.workflows.live import hold_model, running

    order: list[str] = []
    inside = threading.Event()

    def second() -> None:
        inside.wait()
        with running(str(tiny_root.model)):
            order.append("second")

    thread = threading.Thread(target=second)
    thread.start()
    with running(str(tiny_root.model)) as model:
        inside.set()
        time.sleep(0.1)
        order.append("first")
        assert model is hold_model(str(tiny_root.model)).model, "one model, opened once"
    thread.join()
    assert order == ["first", "second"]


def test_a_click_that_needs_no_run_answers_within_half_a_second(
    monkeypatch, tiny_root: Root
) -> None:
    page = token_page(monkeypatch, tiny_root)
    seconds: list[float] = []
    for row in (20, 21, 22):
        began = time.perf_counter()
        page.number_input(key="row").set_value(row).run()
        seconds.append(time.perf_counter() - began)
    assert metrics(page)["Position"] == "9"
    assert min(seconds) < 0.5


def test_an_empty_folder_and_a_row_too_far_are_told(monkeypatch, tiny_root: Root, tmp_path) -> None:
    empty = open_page(monkeypatch, tmp_path, "token")
    assert "lensbench capture" in words(empty)
    page = token_page(monkeypatch, tiny_root, row=99_999)
    assert not page.exception
    page = open_page(monkeypatch, tiny_root.folder, "token", store="gone")
    assert "'gone'" in page.warning[0].value


def test_a_row_that_is_not_there_is_said_and_the_address_stays(
    monkeypatch, tiny_root: Root
) -> None:
    page = token_page(monkeypatch, tiny_root, row=99999999)
    assert not page.exception
    assert "99,999,999" in page.warning[0].value
    assert not metrics(page), "no other row is shown in its place"
    assert page.query_params["row"] in ("99999999", ["99999999"])
    page.button(key="last-row").click().run()
    assert metrics(page)["Position"]


def test_the_latent_table_shows_every_row_and_nothing_twice(monkeypatch, tiny_root: Root) -> None:
    page = token_page(monkeypatch, tiny_root)
    tables = [t for t in page.dataframe if "activation" in t.value]
    assert [list(t.value.columns) for t in tables] == [["latent", "activation"]]
    from lensbench.app.widgets.token_cells import height_of

    assert height_of(8) >= 35 * 9, "a heading and eight rows"
    assert height_of(1000) == height_of(16)
