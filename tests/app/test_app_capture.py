"""Capture: what fits a model, what it will take, and that just this is what is started."""

import shutil
from pathlib import Path
from typing import Any

import pytest

from lensbench.app.workflows import capture_plan, detached, jobs
from lensbench.app.workflows.capture_offers import save_text, text_files
from lensbench.app.workflows.capture_plan import CaptureAsk
from lensbench.app.workflows.capturing import capture_text
from lensbench.app.workflows.fitting import worlds_for
from lensbench.app.workflows.model_names import models_shown
from lensbench.app.workflows.models import open_model
from lensbench.app.workflows.texts import find_text, splits_of
from lensbench.errors import BudgetError, ConfigError, MismatchError, UnknownNameError
from tests.app.driver import open_page
from tests.app.tiny_root import save_tiny

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning")
SITE = "blocks.3.resid_post"


@pytest.fixture
def root(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty folder; nothing is really started."""
    monkeypatch.setattr(detached, "start", lambda *_, **__: None)
    return tmp_path


def ask(root: Path, **changed: Any) -> CaptureAsk:
    given = {"model": "atlas-dense", "text": "atlas:100", "out": str(root / "acts")}
    return CaptureAsk(**{**given, "profile": "resid", **changed})


def captured(wanted: CaptureAsk) -> dict[str, Any]:
    told = wanted.settings()
    return capture_text(told.pop("model"), told.pop("text"), out=Path(told.pop("out")), **told)


@pytest.mark.parametrize(
    ("model", "world"),
    [("atlas-dense", "atlas"), ("atlas-moe", "desk"), ("atlas-translate", "translate"),
     ("othello", "othello")],
)  # fmt: skip
def test_every_bundled_model_has_a_world_that_can_be_captured(
    tmp_path: Path, model: str, world: str
) -> None:
    assert worlds_for(open_model(model, certify=False)) == (world,)
    assert splits_of(world)[0] == "train"
    told = captured(ask(tmp_path, model=model, text=f"{world}:3"))
    assert told["documents"] == 3
    assert told["text"] == f"{world}:3:train:0"


def test_documents_that_a_model_does_not_know_are_refused_with_those_that_fit(
    tmp_path: Path,
) -> None:
    with pytest.raises(MismatchError, match=r"atlas-moe.*what fits it: desk:N, or a \.txt"):
        captured(ask(tmp_path, model="atlas-moe"))
    assert not (tmp_path / "acts").exists()


def test_a_model_of_another_tokenizer_is_offered_plain_text(tmp_path: Path) -> None:
    model = open_model(str(save_tiny(tmp_path / "tiny")))
    assert worlds_for(model) == ("desk", "translate")
    assert models_shown(tmp_path, [])["tiny"] == str(tmp_path / "tiny")


@pytest.mark.parametrize(
    "changed",
    [
        {},
        {"text": "atlas:200:heldout:3", "profile": "", "sites": (SITE,), "dtype": "float32"},
        {"max_tokens": 700, "profile": "full", "context": 16},
        {"layout": "pack", "profile": "", "sites": ("blocks.*.mlp.post", SITE)},
    ],
)
def test_the_forecast_is_what_is_stored(tmp_path: Path, changed: dict[str, Any]) -> None:
    wanted = ask(tmp_path, **changed)
    cost, told = capture_plan.forecast(wanted, tmp_path), captured(wanted)
    assert cost.exact
    assert cost.tokens == told["tokens"]
    assert cost.bytes == pytest.approx(told["bytes"], rel=0.03)
    assert [s.site for s in cost.sites] == [s["site"] for s in told["sites"]]
    shared = {s["site"]: s["alias_of"] for s in told["sites"]}
    assert {s.site: s.shares for s in cost.sites} == shared


def test_a_long_text_is_counted_in_part_and_that_is_said(tmp_path: Path, monkeypatch) -> None:
    path = tmp_path / "long.txt"
    path.write_text("\n\n".join(find_text("atlas:300").texts()))
    wanted = ask(tmp_path, text=str(path))
    whole = capture_plan.forecast(wanted, tmp_path)
    monkeypatch.setattr(capture_plan, "COUNTED", 1000)
    part = capture_plan.forecast(ask(tmp_path, text=str(path), context=63), tmp_path)
    assert whole.exact
    assert not part.exact
    assert part.tokens == pytest.approx(whole.tokens, rel=0.1)
    limited = capture_plan.forecast(ask(tmp_path, text=str(path), max_tokens=1500), tmp_path)
    assert (limited.tokens, limited.exact) == (1500, False)


def test_words_that_a_model_does_not_have_are_counted(tmp_path: Path) -> None:
    path = tmp_path / "mine.txt"
    path.write_text("zebra quagga . .")
    cost = capture_plan.forecast(ask(tmp_path, text=str(path)), tmp_path)
    assert cost.tokens == 5  # [BOS] and four words
    assert cost.unknown == pytest.approx(2 / 5)


def test_more_than_the_disk_has_is_refused(tmp_path: Path, monkeypatch) -> None:
    from collections import namedtuple

    disk = namedtuple("disk", "total used free")
    monkeypatch.setattr(capture_plan, "disk_usage", lambda _: disk(0, 0, 1 << 20))
    with pytest.raises(BudgetError, match=r"needs 0\.00 GiB, and 0\.00 GiB are free"):
        capture_plan.forecast(ask(tmp_path), tmp_path)


def test_the_python_that_is_shown_captures_the_same(tmp_path: Path) -> None:
    names: dict[str, Any] = {}
    wanted = ask(tmp_path, text="atlas:5", sites=(SITE,), profile="")
    exec(capture_plan.python_of(wanted), names)
    assert names["store"].sites == (SITE,)
    assert names["store"].n_docs == 5


def test_the_page_starts_what_it_shows(monkeypatch, root: Path) -> None:
    page = open_page(monkeypatch, root, "capture")
    assert not page.exception
    page.number_input(key="documents").set_value(50).run()
    page.selectbox(key="split").set_value("heldout").run()
    page.number_input(key="seed").set_value(4).run()
    page.radio(key="profile").set_value("sae").run()
    assert not page.error
    assert "No site is named" in page.info[0].value
    page.multiselect(key="sites").set_value(["blocks.*.resid_post"]).run()
    page.selectbox(key="layout").set_value("pack").run()
    page.selectbox(key="dtype").set_value("float32").run()
    page.number_input(key="context").set_value(32).run()
    page.number_input(key="most").set_value(400).run()
    page.text_input(key="out").set_value("mine").run()
    assert not page.error
    shown = {m.label: m.value for m in page.metric}
    assert shown["sites"] == "6"
    command = next(c.value for c in page.code if c.value.startswith("lensbench capture"))
    page.button(key="start").click().run()
    assert not page.exception
    [job] = jobs.all_jobs(root, "capture")
    assert job.settings == {
        "model": "atlas-dense", "text": "atlas:50:heldout:4", "out": str(root / "mine"),
        "sites": ["blocks.*.resid_post"], "max_tokens": 400, "layout": "pack", "context": 32,
        "dtype": "float32",
    }  # fmt: skip
    assert job.command == command
    assert job.total == int(shown["tokens"].replace(",", ""))
    assert page.selectbox(key="job").value == job.name, "the job is opened"
    assert "its process is starting" in page.get("progress")[0].proto.text


def test_a_second_capture_is_opened_like_the_first(monkeypatch, root: Path) -> None:
    jobs.start(root, "capture", "old", ask(root).settings())
    page = open_page(monkeypatch, root, "capture", documents="20", out="new")
    page.button(key="start").click().run()
    assert not page.exception
    assert page.selectbox(key="job").value == "capture-new"


def test_the_worlds_offered_are_those_of_the_model(monkeypatch, root: Path) -> None:
    page = open_page(monkeypatch, root, "capture", model="atlas-moe")
    assert page.selectbox(key="world").value == "desk"
    assert not page.error
    page.selectbox(key="model").set_value("othello").run()
    assert page.selectbox(key="world").value == "othello"
    assert not page.error


def test_what_each_site_costs_is_shown_when_asked(monkeypatch, root: Path) -> None:
    page = open_page(monkeypatch, root, "capture", documents="20")
    assert not page.dataframe
    page.session_state["costs"] = True
    page.run()
    shown = page.dataframe[0].value
    assert shown["site"].tolist()[0] == "blocks.0.resid_pre"
    assert set(shown["bytes per token"]) == {0, 256}


def test_words_are_kept_as_a_file_and_captured_from_there(monkeypatch, root: Path) -> None:
    page = open_page(monkeypatch, root, "capture", **{"from": "My own words"})
    assert not [b for b in page.button if b.key == "start"]
    page.button(key="keep").click().run()
    assert "empty" in page.error[0].value
    page.text_area(key="typed").set_value("Paris is the capital of France .").run()
    page.text_input(key="typed-name").set_value("paris").run()
    page.button(key="keep").click().run()
    assert (root / "texts" / "paris.txt").read_text() == "Paris is the capital of France ."
    assert page.selectbox(key="file").value == "texts/paris.txt"
    page.button(key="start").click().run()
    [job] = jobs.all_jobs(root)
    assert job.settings["text"] == str(root / "texts" / "paris.txt")


def test_files_are_those_that_people_wrote(root: Path) -> None:
    for name in ("a.txt", "b.jsonl", "run/log.txt", "run/x/metrics.jsonl", "jobs/c/log.txt",
                 "notes.md"):  # fmt: skip
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text("x")
    assert text_files(root) == ["a.txt", "b.jsonl"]
    assert save_text(root, "mine.txt", "x y") == "texts/mine.txt"
    assert save_text(root, "mine", "x y") == "texts/mine.txt", "the same words again"
    for name, text in (("mine", "other"), ("../up", "x"), ("", "x")):
        with pytest.raises(ConfigError):
            save_text(root, name, text)


@pytest.mark.parametrize("name", ["../up", "/tmp/x", ".hidden", "a//b", "jobs/x"])
def test_a_store_lies_below_the_folder(monkeypatch, root: Path, name: str) -> None:
    page = open_page(monkeypatch, root, "capture", out=name)
    assert "cannot name a store" in page.error[0].value.replace("\\", "")
    assert not [b for b in page.button if b.key == "start"]


def test_a_folder_that_is_no_store_is_not_written_into(monkeypatch, root: Path) -> None:
    (root / "full").mkdir()
    (root / "full" / "mine.txt").write_text("x")
    page = open_page(monkeypatch, root, "capture", out="full")
    assert "holds something that is no store" in page.error[0].value.replace("\\", "")


def test_a_model_in_the_folder_is_offered(monkeypatch, root: Path) -> None:
    save_tiny(root / "models" / "tiny")
    page = open_page(monkeypatch, root, "capture")
    assert "models/tiny" in page.selectbox(key="model").options
    page.selectbox(key="model").set_value("models/tiny").run()
    assert not page.exception
    assert page.selectbox(key="world").options[0].startswith("desk")
    page.button(key="start").click().run()
    assert jobs.all_jobs(root)[0].settings["model"] == str(root / "models" / "tiny")


def test_what_is_not_chosen_yet_is_asked_for_and_no_error(monkeypatch, root: Path) -> None:
    page = open_page(monkeypatch, root, "capture", profile="Only the sites I name")
    assert not page.error
    assert "No site is named yet" in page.info[0].value
    assert "--sites blocks.3.resid_post" in page.code[0].value
    page.multiselect(key="sites").set_value([SITE]).run()
    assert not page.error
    assert [b for b in page.button if b.key == "start"]
    page = open_page(monkeypatch, root, "capture", **{"from": "A file in this folder"})
    assert "no text file" in page.info[0].value
    assert page.code[0].value == (f"lensbench capture --model atlas-dense --text corpus.txt "
                                  f"--profile resid --out {root / 'acts-atlas-dense'}")  # fmt: skip
    page = open_page(monkeypatch, root, "capture", **{"from": "My own words"})
    assert "lensbench capture" in page.code[0].value
    page = open_page(monkeypatch, root, "capture", **{"from": "A file in this folder"})
    (root / "mine.txt").write_text("the cat")
    page.run()
    assert "Choose a text file" in page.info[0].value


PAGES = {
    "capture": {},
    "lens": {"from": "My own text"},
    "attention": {"from": "My own text"},
    "patching": {},
    "steering": {},
    "experts": {},
    "hyper": {},
}


def test_a_model_has_one_name_on_every_page_and_home_leads_to_it(
    monkeypatch, small_root: Path, tmp_path: Path
) -> None:
    shutil.copytree(small_root / "acts", tmp_path / "acts")
    manifest = tmp_path / "acts" / "manifest.json"
    saved = save_tiny(tmp_path / "models" / "tiny")
    manifest.write_text(manifest.read_text().replace('"source": "atlas-dense"',
                                                     f'"source": "{saved}"'))  # fmt: skip
    assert str(saved) in manifest.read_text()
    for path, query in PAGES.items():
        page = open_page(monkeypatch, tmp_path, path, **query)
        assert not page.exception
        names = page.selectbox(key="model").options
        assert [n for n in names if "tiny" in n] == ["models/tiny"], path
        assert len(names) == len(set(names))
    page = open_page(monkeypatch, tmp_path, "patching", model=str(saved), n="4")
    assert page.selectbox(key="model").value == "models/tiny", "an older link names it in full"
    assert not page.warning
    (tmp_path / "mine.txt").write_text("the cat sat on the mat")
    home = open_page(monkeypatch, tmp_path)
    home.button(key="task-1").click().run()
    assert not home.exception
    assert home.selectbox(key="model").value == "models/tiny"
    assert home.selectbox(key="file").value == "mine.txt"


def test_a_finished_capture_leads_on(monkeypatch, small_root: Path, root: Path) -> None:
    shutil.copytree(small_root / "acts", root / "acts")
    name = jobs.start(root, "capture", "acts", ask(root).settings())
    status = root / "jobs" / name / "status.json"
    status.write_text(status.read_text().replace('"queued"', '"finished"'))
    page = open_page(monkeypatch, root, "capture", job=name)
    assert {b.key for b in page.button} >= {"next-stores", "next-train", "next-lens", "next-token"}
    page.button(key="next-train").click().run()
    assert page.title[0].value == "Train"
    assert page.selectbox(key="store").value == "acts"


@pytest.mark.parametrize("state", ["stopped", "failed", "lost"])
def test_a_capture_that_ended_early_can_be_gone_on_with(monkeypatch, root: Path, state) -> None:
    name = jobs.start(root, "capture", "acts", ask(root).settings())
    status = root / "jobs" / name / "status.json"
    kept = state.replace("lost", "running")
    text = status.read_text().replace('"queued"', f'"{kept}"')
    status.write_text(text.replace(jobs.look(root, name).started[:4], "2020"))
    page = open_page(monkeypatch, root, "capture", job=name)
    assert page.get("progress")[0].proto.text.startswith(state)
    page.button(key=f"go-on-{name}").click().run()
    assert jobs.look(root, name).state == "queued"
    status.write_text(text.replace('"running"', '"stopped"'))
    page.run()
    page.button(key=f"forget-{name}").click().run()
    assert jobs.all_jobs(root) == []


def test_a_split_that_a_world_has_not_is_refused() -> None:
    with pytest.raises(UnknownNameError, match="heldout"):
        find_text("desk:5:all")
