"""Train: the form of the schema, YAML, tuned lenses; what is asked for is what is started."""

import shutil
from pathlib import Path
from typing import Any

import pytest
import yaml

from lensbench.app.workflows import detached, forms, jobs, launching
from lensbench.errors import ConfigError
from tests.app.driver import open_page, words

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning")
SITE = "blocks.3.resid_post"
SITES = [f"blocks.{i}.resid_post" for i in range(3)]
YAML, LENS = "Dictionaries, from YAML", "A tuned lens"


@pytest.fixture
def root(small_root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A store of one site; nothing is really started."""
    shutil.copytree(small_root / "acts", tmp_path / "acts")
    monkeypatch.setattr(detached, "start", lambda *_, **__: None)
    return tmp_path


@pytest.fixture(scope="module")
def several(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A store of three sites."""
    from lensbench import capture
    from lensbench.app.workflows.models import open_model
    from lensbench.worlds.atlas import Atlas

    root = tmp_path_factory.mktemp("several")
    model = open_model("atlas-dense", certify=False)
    capture(model, Atlas(0).sample(20, "all", 0), sites=SITES, out=root / "acts")
    return root


def start(page: Any) -> None:
    page.text_input(key="new-name").set_value("mine")
    page.button(key="start").click().run()
    assert not page.exception
    assert not page.error


def asked(root: Path) -> dict[str, Any]:
    return yaml.safe_load((root / "runs" / "mine" / "request.yaml").read_text())


def test_the_form_starts_what_it_was_filled_with(monkeypatch, root: Path) -> None:
    page = open_page(monkeypatch, root, "train", store="acts")
    page.selectbox(key="architecture").set_value("batchtopk").run()
    page.text_input(key="new-batchtopk-d_sae").set_value("64")
    page.text_input(key="new-batchtopk-k").set_value("4, 8")
    page.number_input(key="new-train-tokens").set_value(4096)
    start(page)
    assert asked(root)["train"]["tokens"] == 4096
    entry = {"architecture": "batchtopk", "site": SITE, "d_sae": 64, "k": [4, 8]}
    assert asked(root)["sweep"] == [entry | {"site": [SITE]}]
    assert page.selectbox(key="run").value == "runs/mine", "the new run is opened"


def test_an_untouched_form_asks_for_nothing_but_size_and_tokens(monkeypatch, root: Path) -> None:
    page = open_page(monkeypatch, root, "train", store="acts")
    shown = next(c.value for c in page.code if "architecture" in c.value and "sweep:" in c.value)
    told = yaml.safe_load(shown)
    assert told["train"] == {"tokens": forms.TOKENS, "log_every": 1}, "a short run has curves too"
    assert told["sweep"][0].keys() == {"architecture", "site", "d_sae"}


def test_a_fault_is_told_beside_the_form_and_nothing_can_be_started(monkeypatch, root) -> None:
    page = open_page(monkeypatch, root, "train", store="acts")
    page.text_input(key="new-topk-k").set_value("9000").run()
    assert "k must be in 1..d" in page.error[0].value.replace("\\", "")
    assert page.button(key="start").disabled
    page.text_input(key="new-topk-k").set_value("90").run()
    assert not page.error
    assert not page.button(key="start").disabled


def test_settings_are_sought_by_word_and_keep_what_was_entered(monkeypatch, root: Path) -> None:
    page = open_page(monkeypatch, root, "train", store="acts")
    page.text_input(key="new-topk-aux_k").set_value("7").run()
    page.text_input(key="new-topk-find").set_value("learning rate").run()
    keys = {f.key for f in page.text_input}
    assert "new-topk-aux_k" not in keys
    assert "aux_k: 7" in words(page), "hidden, not forgotten"
    page.text_input(key="new-topk-find").set_value("nothing says this").run()
    assert "No setting says that" in words(page)
    page.text_input(key="new-topk-find").set_value("").run()
    assert page.text_input(key="new-topk-aux_k").value == "7"


def test_lines_of_the_log_are_close_enough_for_a_curve() -> None:
    assert forms.with_curves({"tokens": 10**9}) == {"tokens": 10**9}
    assert forms.with_curves({"tokens": 2048 * 500})["log_every"] == 10
    assert forms.with_curves({"tokens": 1, "batch_size": 4})["log_every"] == 1
    assert forms.with_curves({"tokens": 1, "log_every": 7})["log_every"] == 7


def test_every_setting_has_one_place_in_the_form() -> None:
    for name in forms.architectures():
        fields = forms.dictionary_fields(name)
        groups = forms.grouped(fields)
        assert sorted(f.name for g in groups.values() for f in g) == sorted(f.name for f in fields)
        assert "Others" not in groups, f"{name}: {[f.name for f in groups['Others']]}"
    assert "Others" not in forms.grouped(forms.train_fields())
    [only] = forms.grouped(forms.train_fields(), "ranks torchrun").values()
    assert [f.name for f in only] == ["parallel"]


def test_a_switch_with_a_third_value_is_a_choice(monkeypatch, root: Path) -> None:
    page = open_page(monkeypatch, root, "train", store="acts")
    box = page.selectbox(key="new-train-in_memory")
    assert (box.value, box.options) == ("auto", ["auto", "true", "false"])
    box.set_value("false").run()
    start(page)
    assert asked(root)["train"]["in_memory"] is False


@pytest.mark.parametrize(
    ("role", "ends"),
    [
        ("sae", {"site": SITES[1:]}),
        ("transcoder", {"site": [SITES[1]], "target": [SITES[2]]}),
        ("crosscoder", {"sites": [SITES[:2]]}),
    ],
)
def test_every_role_reads_and_writes_its_sites(
    monkeypatch, several: Path, tmp_path: Path, role: str, ends: dict[str, Any]
) -> None:
    shutil.copytree(several / "acts", tmp_path / "acts")
    monkeypatch.setattr(detached, "start", lambda *_, **__: None)
    page = open_page(monkeypatch, tmp_path, "train", store="acts")
    page.radio(key="role").set_value(role).run()
    if role == "sae":
        page.multiselect(key="site").set_value(SITES[1:]).run()
    start(page)
    entry = asked(tmp_path)["sweep"][0]
    assert {k: v for k, v in entry.items() if k in ("site", "target", "sites")} == ends


def test_sites_that_are_too_few_are_said(monkeypatch, several: Path) -> None:
    page = open_page(monkeypatch, several, "train", store="acts")
    page.multiselect(key="site").set_value([]).run()
    assert "Choose a site" in words(page)
    page.radio(key="role").set_value("crosscoder").run()
    page.multiselect(key="together").set_value(SITES[:1]).run()
    assert "two sites or more" in words(page)
    assert not [b for b in page.button if b.key == "start"]


def test_costs_are_those_of_the_forecast(monkeypatch, root: Path) -> None:
    page = open_page(monkeypatch, root, "train", store="acts")
    told = launching.forecast(forms.sweep_from(str(root / "acts"), SITE, "topk", {"d_sae": 512},
                                               {"tokens": forms.TOKENS}))  # fmt: skip
    shown = {m.label: m.value for m in page.metric}
    assert shown["parameters"] == f"{told['parameters']:,}"
    assert shown["steps"] == f"{told['steps']:,}"
    page.button(key="probe").click().run()
    assert "ms per step, probed" in words(page)
    assert not (root / "runs").exists()


def test_yaml_is_strict_and_names_the_nearest_key(monkeypatch, root: Path) -> None:
    page = open_page(monkeypatch, root, "train", store="acts", train=YAML)
    assert not page.error
    text = page.text_area(key="yaml").value
    page.text_area(key="yaml").set_value(text.replace("tokens:", "tokns:")).run()
    assert "Did you mean 'tokens'" in page.error[0].value.replace("\\", "")
    page.text_area(key="yaml").set_value("train: {tokens: 4096").run()
    assert "not valid YAML" in page.error[0].value.replace("\\", "")
    page.text_area(key="yaml").set_value(text.replace("200000", "4096")).run()
    start(page)
    assert asked(root)["train"]["tokens"] == 4096
    assert asked(root)["sweep"][0]["k"] == [16, 32]


@pytest.mark.parametrize(
    ("source", "says"),
    [
        ("{store: ../elsewhere}", "outside the folder"),
        ("{model: atlas-dense, text: 'atlas:10'}", "a page trains on a store"),
        ("{store: acts, stor: x}", "Did you mean 'store'"),
    ],
)
def test_yaml_reads_nothing_but_stores_of_the_folder(root: Path, source: str, says: str) -> None:
    text = f"source: {source}\ntrain: {{tokens: 4096}}\nsweep: [{{architecture: topk, d_sae: 64}}]"
    with pytest.raises(ConfigError, match=says):
        launching.read_yaml(root, text)


def test_a_site_that_the_store_lacks_is_refused_before_anything_starts(root: Path) -> None:
    from lensbench.errors import UnknownSiteError

    wanted = forms.sweep_from(
        "acts", "blocks.2.resid_post", "topk", {"d_sae": 64}, {"tokens": 4096}
    )
    with pytest.raises(UnknownSiteError, match=r"blocks\.3\.resid_post"):
        launching.checked(root, wanted)


def test_the_yaml_that_is_shown_asks_for_the_same(root: Path) -> None:
    wanted = forms.sweep_from("acts", SITE, "relu", {"d_sae": "32,64", "l1_coefficient": 2.0},
                              {"tokens": 4096, "decay": 0.1})  # fmt: skip
    sweep = launching.checked(root, wanted)
    assert launching.read_yaml(root, launching.yaml_of(sweep)) == sweep


def test_the_python_that_is_shown_trains(root: Path) -> None:
    wanted = forms.sweep_from("acts", SITE, "topk", {"d_sae": 16, "k": "2"}, {"tokens": 2048})
    names: dict[str, Any] = {}
    sweep = launching.checked(root, wanted)
    exec(launching.python_of(sweep, root / "out"), names)
    assert [r.coder.d_sae for r in names["runs"]] == [16]


def test_of_two_tabs_that_ask_for_one_name_the_second_is_refused(root: Path) -> None:
    from threading import Barrier, Thread

    wanted = forms.sweep_from(str(root / "acts"), SITE, "topk", {"d_sae": 64}, {"tokens": 4096})
    together, refused = Barrier(2), []

    def ask() -> None:
        together.wait()
        try:
            launching.new_run(root, "one", wanted)
        except ConfigError as error:
            refused.append(str(error))

    tabs = [Thread(target=ask) for _ in range(2)]
    for tab in tabs:
        tab.start()
    for tab in tabs:
        tab.join()
    assert len(refused) == 1
    assert "there already" in refused[0]


def test_a_tuned_lens_is_a_job(monkeypatch, root: Path) -> None:
    page = open_page(monkeypatch, root, "train", store="acts", train=LENS)
    page.number_input(key="new-lens-steps").set_value(3).run()
    page.number_input(key="new-lens-tokens_per_step").set_value(2049).run()
    page.button(key="start-lens").click().run()
    assert "multiple" in page.error[0].value
    page.number_input(key="new-lens-tokens_per_step").set_value(2048).run()
    page.button(key="start-lens").click().run()
    [job] = jobs.all_jobs(root, "tune")
    assert job.settings["set"] == {"steps": 3, "tokens_per_step": 2048}
    assert "--set steps=3" in job.command
    assert job.title.replace(":", "") in words(page).replace("\\", "").replace(":", "")


def test_without_a_store_the_page_says_how_to_capture_one(monkeypatch, tmp_path: Path) -> None:
    page = open_page(monkeypatch, tmp_path, "train")
    assert "lensbench capture" in words(page)
    assert "page Capture" in words(page)


def test_before_a_store_is_chosen_nothing_is_asked(monkeypatch, root: Path) -> None:
    page = open_page(monkeypatch, root, "train")
    assert "Choose a store" in words(page)
    page.selectbox(key="store").set_value("acts").run()
    assert [b for b in page.button if b.key == "start"]
