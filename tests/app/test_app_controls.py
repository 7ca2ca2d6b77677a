"""Every control of every page is set by a test: those that no other test sets are set here."""

import ast
import json
import re
import shutil
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from tests.app.driver import files_offered, open_page, words
from tests.app.tiny_root import TEXTS, Root, make_root

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning")
HERE = Path(__file__).resolve().parent
APP = HERE.parents[1] / "app"
RUN, OTHER = "runs/small", "runs/other"
SITES = [f"blocks.{i}.resid_post" for i in range(3)]


@pytest.fixture(scope="module")
def root(small_root: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two runs, two stores of the atlas; of a tiny model its own text, and three sites of another.

    Nothing that is started here is really started: see ``quiet``.
    """
    import lensbench
    from lensbench.interventions import acceleration

    top = tmp_path_factory.mktemp("controls")
    made: Root = make_root(top, profile="resid", run=False)  # its store is acts
    model = lensbench.load_model(made.model)
    acceleration.capture_own(model, ["the cat", "a plain dog saw"], top / "own", 10)
    lensbench.capture(model, list(TEXTS), SITES[:2], out=top / "sites")
    for name in (RUN, OTHER):
        shutil.copytree(small_root / RUN, top / name)
    shutil.rmtree(top / OTHER / "evaluation")
    for name in ("atlas", "atlas2"):
        shutil.copytree(small_root / "acts", top / name)
    return top


@pytest.fixture(autouse=True)
def quiet(monkeypatch: pytest.MonkeyPatch) -> None:
    """No process is started; a run with colours is large at once."""
    from lensbench.app.workflows import curves, detached

    monkeypatch.setattr(detached, "start", lambda *_, **__: None)
    monkeypatch.setattr(curves, "COLOURED", 1)


@dataclass(frozen=True)
class Control:
    """A control, where it is, what it is set to, and what the page then has that it had not."""

    page: str
    key: str
    value: Any
    kind: str = "selectbox"
    query: Mapping[str, str] = field(default_factory=dict[str, str])
    gives: str = ""
    """Words that must be there after, and not before; empty: anything else than before."""

    def __str__(self) -> str:
        return f"{self.page}-{self.key}"


PAIR = {"view": "Two texts", "model": "MODEL", "text": "the cat saw", "text2": "the dog saw"}
RUNS = {"run": RUN}
TRANSCODER = {"store": "sites"}
CONTROLS = (
    Control("probe", "shown", "", "radio", {"store": "atlas", "method": "mean_difference"}),
    Control("steering", "towards", "is,was,seems", "text_input",
            {"model": "atlas-dense", "direction": "A prompt task", "new": "2"}),
    Control("acceleration", "compute", "", "radio", {"store": "own"}),
    Control("runs", "coloured", ("topk-64-k8",), "multiselect", RUNS),
    Control("runs", "eval-store", "atlas2", query={"run": OTHER}, gives="atlas2 --model"),
    Control("runs", "measures", ("core",), "multiselect", {"run": OTHER}),
    Control("runs", "encode-store", "atlas2", query=RUNS, gives="atlas2"),
    Control("runs", "share-name", "topk-64-k8", query=RUNS),
    Control("runs", "share-format", "sparsify", query=RUNS, gives="--format sparsify"),
    Control("train", "new-lens-name", "of-mine", "text_input",
            {"store": "atlas", "train": "A tuned lens"}, "of-mine"),
    Control("lens", "what", "", query=PAIR),
    Control("lens", "see", 1, query=PAIR),
    Control("lens", "src_layer", 1, query=PAIR),
    Control("token", "token-latent", 1, query={"store": "atlas", "row": "40"}),
)  # fmt: skip


@pytest.mark.parametrize("control", CONTROLS, ids=str)
def test_setting_a_control_changes_the_page(
    monkeypatch: pytest.MonkeyPatch, root: Path, control: Control
) -> None:
    page = opened(monkeypatch, root, control)
    before = seen(page)
    widget = getattr(page, control.kind)(key=control.key)
    value = choice(widget, control.value)
    assert widget.value != value, "it has this value from the start"
    widget.set_value(value).run()
    assert not page.exception
    assert seen(page) != before
    assert control.gives not in before or not control.gives
    assert control.gives in seen(page)


def opened(monkeypatch: pytest.MonkeyPatch, root: Path, control: Control) -> Any:
    query = {k: str(root / "models" / "tiny") if v == "MODEL" else v
             for k, v in control.query.items()}  # fmt: skip
    page = open_page(monkeypatch, root, control.page, **query)
    assert not page.exception
    return page


def choice(widget: Any, wanted: Any) -> Any:
    """An option by its value or its number; with "" the last one; of several, by its beginning."""
    options = list(getattr(widget, "options", ()) or ())
    if not options:
        return wanted
    if isinstance(wanted, tuple):
        return [next(o for o in options if o.startswith(start)) for start in wanted]
    if wanted == "":
        return options[-1]
    if isinstance(wanted, int):
        return options[wanted]
    known = [o for o in options if o == wanted or str(o).startswith(str(wanted))]
    return known[0] if known else wanted


def seen(page: Any) -> str:
    """All that a reader sees: words, numbers, tables and figures."""
    parts = [words(page), *(f"{m.label} {m.value}" for m in page.metric)]
    parts += [frame.value.to_csv() for frame in page.dataframe]
    parts += [chart.proto.spec for chart in page.get("plotly_chart")]
    return "\n".join(parts)


def test_a_transcoder_reads_and_writes_what_is_chosen(
    monkeypatch: pytest.MonkeyPatch, root: Path
) -> None:
    page = open_page(monkeypatch, root, "train", store="sites")
    page.radio(key="role").set_value("transcoder").run()
    page.selectbox(key="reads").set_value(SITES[1]).run()
    page.selectbox(key="writes").set_value(SITES[0]).run()
    assert not page.exception
    said = words(page)
    assert f"'site': ['{SITES[1]}']" in said
    assert f"'target': ['{SITES[0]}']" in said


def test_probes_of_many_cells_are_a_job(monkeypatch: pytest.MonkeyPatch, root: Path) -> None:
    from lensbench.app.workflows import jobs, probe_page

    monkeypatch.setattr(probe_page, "AT_ONCE", 0)
    page = open_page(monkeypatch, root, "probe", store="atlas2")
    page.button(key="start-probes").click().run()
    assert not page.exception
    assert [job.state for job in jobs.all_jobs(root, "probes")] == ["queued"]


def test_runs_lead_on(monkeypatch: pytest.MonkeyPatch, root: Path) -> None:
    for key, title in (("start-another", "Train"), ("compare-two", "Compare")):
        page = open_page(monkeypatch, root, "runs")
        page.button(key=key).click().run()
        assert not page.exception
        assert page.title[0].value == title


def test_typed_pairs_are_kept_as_both_files(monkeypatch: pytest.MonkeyPatch, root: Path) -> None:
    query = {"model": "atlas-dense", "of": "My own pairs"}
    page = open_page(monkeypatch, root, "patching", **query)
    for key in ("pairs-csv", "pairs-json"):
        page.download_button(key=key).click().run()
        assert not page.exception
    given = files_offered(monkeypatch)
    open_page(monkeypatch, root, "patching", **query)
    assert given["pairs.csv"].startswith("clean,corrupted,answer,foil\n")
    assert json.loads(given["pairs.json"])


def test_a_vector_is_sent_and_the_latents_along_it_are_shown(
    monkeypatch: pytest.MonkeyPatch, root: Path
) -> None:
    from lensbench.app.workflows.directions import KINDS, VECTOR, Rows

    name = next(p.name for p in (root / RUN).iterdir() if "k8" in p.name)
    page = open_page(monkeypatch, root, "directions", run=RUN, dictionary=name,
                     show="Nearest latents", direction=KINDS[VECTOR])  # fmt: skip
    assert not page.dataframe
    row = Rows.of(root / RUN, name).W_dec[11].detach().tolist()
    sent = ("row.json", json.dumps(row).encode(), "application/json")
    page.file_uploader(key="vector").set_value(sent).run()
    assert not page.exception
    assert int(page.dataframe[0].value["latent"].iloc[0]) == 11


def test_notes_are_sent_and_replace_those_that_are_here(
    monkeypatch: pytest.MonkeyPatch, root: Path, tmp_path: Path
) -> None:
    from lensbench import saes

    shutil.copytree(root / RUN, tmp_path / RUN)
    run = next(r for r in saes.open_runs(tmp_path / RUN) if "k8" in r.name)
    kept = saes.notes(run)
    kept.set(3, label="sent")
    given = files_offered(monkeypatch)
    query = {"run": RUN, "dictionary": run.name}
    page = open_page(monkeypatch, tmp_path, "latent", **query)
    sent = ("notes.json", given["notes.json"].encode(), "application/json")
    kept.set(3, label="changed here")
    page.file_uploader(key="notes-sent").set_value(sent).run()
    page.button(key="notes-add").click().run()
    assert "1 left out" in words(page)
    assert saes.notes(run)[3].label == "changed here"
    page.checkbox(key="notes-overwrite").set_value(True).run()
    page.button(key="notes-add").click().run()
    assert "1 replaced" in words(page)
    assert saes.notes(run)[3].label == "sent"


WIDGETS = {"button", "download_button", "selectbox", "multiselect", "radio", "number_input",
           "slider", "select_slider", "toggle", "checkbox", "text_input", "text_area",
           "file_uploader", "tabs", "pick_of", "one_of", "choose", "several", "fit_job",
           "token_strip"}  # fmt: skip
"""What makes a control, by Streamlit's names and ours."""
NOT_SET = {
    "strip": "a component of its own: the browser clicks it",
    "sequence": "a component of its own: the browser clicks it",
}
"""Controls that Streamlit's harness cannot reach, and what sets them."""


def test_every_control_is_set_by_a_test() -> None:
    """By key: a new control without a test that names it is listed here."""
    named = keys_in_tests()
    lost = [f"{name}: {key}" for name, key in controls()
            if key not in NOT_SET and not any(alike(key, one) for one in named)]  # fmt: skip
    assert not lost, "no test sets\n" + "\n".join(lost)


def test_the_search_for_controls_can_fail() -> None:
    assert {"notes-add", "start-sweep", "verify-*", "pair*"} & {k for _, k in controls()}
    assert len(list(controls())) > 150
    assert alike("verify-*", "verify-exit")
    assert alike("forget-*", "forget-*")
    assert not alike("verify-*", "verify-")
    assert not alike("start-sweep", "start-sweeps")
    assert "-".join(("no", "such", "control")) not in keys_in_tests()


def controls() -> Iterator[tuple[str, str]]:
    """File and key of every control; what is put into a key is a star."""
    for folder in ("views", "widgets"):
        for path in sorted((APP / folder).glob("*.py")):
            for call in _calls(path):
                kind = call.func.attr if isinstance(call.func, ast.Attribute) else ""
                kind = call.func.id if isinstance(call.func, ast.Name) else kind
                given = [k.value for k in call.keywords if k.arg == "key"]
                if kind in WIDGETS and given and (key := _template(given[0])).strip("*-"):
                    yield path.name, key


def keys_in_tests() -> set[str]:
    """Strings that tests give to calls, and names of what addresses ask for."""
    found: set[str] = set()
    for path in sorted(HERE.glob("test_app_*.py")):
        for call in _calls(path):
            found |= {k.arg for k in call.keywords if k.arg}
            values: list[ast.expr] = [*call.args, *(k.value for k in call.keywords)]
            found |= {_template(v) for v in values}
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Dict):
                found |= {_template(k) for k in node.keys if k is not None}
            if isinstance(node, ast.Tuple | ast.For):
                found |= {_template(n) for n in ast.walk(node) if isinstance(n, ast.Constant)}
    return found - {""}


def alike(key: str, named: str) -> bool:
    """Whether a test that names ``named`` means the control ``key``."""
    pattern = ".+".join(re.escape(part) for part in key.split("*"))
    return key == named or (re.fullmatch(pattern, named) is not None and "*" in key)


def _calls(path: Path) -> list[ast.Call]:
    tree = ast.parse(path.read_text(encoding="utf-8"))
    return [node for node in ast.walk(tree) if isinstance(node, ast.Call)]


def _template(value: ast.expr) -> str:
    """A string; an f-string with a star for what is put in; else nothing."""
    if isinstance(value, ast.Constant):
        return value.value if isinstance(value.value, str) else ""
    if isinstance(value, ast.JoinedStr):
        return "".join(str(p.value) if isinstance(p, ast.Constant) else "*" for p in value.values)
    return ""
