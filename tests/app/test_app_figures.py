"""Every figure of every page: told in words, offered as files, and made again by its code."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from tests.app.drawn import Drawn, different, ill_told, not_in_frame, run_code, watch
from tests.app.driver import open_page
from tests.app.tiny_root import Root, make_root

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning")
RUN, STORE = "runs/small", "acts"
FILES = {"csv", "json", "notebook", "html"}
WITHOUT_FIGURES = {"home", "capture", "stores", "train"}
"""Pages of tables and forms."""


PUBLIC = {"latent", "patching", "runs", "steering", "sweep", "token"}
"""Pages whose figures are made again with the library's own calls alone."""


@dataclass(frozen=True)
class Case:
    """A page, the figures it draws, what its address asks for, and what they are drawn of."""

    page: str
    figures: tuple[str, ...]
    query: Mapping[str, str] = field(default_factory=dict[str, str])
    of: str = "tiny"
    press: str = ""
    """A button, by its key."""
    binned: tuple[str, ...] = ()
    """Histograms whose CSV holds what is counted."""

    def __str__(self) -> str:
        return f"{self.page}-{self.figures[0]}"


ONE = {"run": RUN, "dictionary": "DICTIONARY"}
CASES = (
    Case("lens", ("lens-map", "lens-course"), {"store": STORE, "row": "30"}),
    Case("lens", ("lens-map", "lens-course"),
         {"from": "My own text", "model": "MODEL", "text": "the cat saw", "metric": "Entropy"}),
    Case("lens", ("pair-first", "pair-second"),
         {"view": "Two texts", "model": "MODEL", "text": "the cat saw", "text2": "the dog saw"}),
    Case("ask", ("ask-map",),
         {"from": "My own text", "model": "MODEL", "text": "the cat saw", "target": "the dog"}),
    Case("language", ("language",), {"model": "atlas-dense"}),
    Case("attention", ("heads", "head-large", "score-map"), {"store": STORE, "row": "17"}),
    Case("token", ("token-lens",), {"store": STORE, "row": "17"}),
    Case("runs", ("curve-fvu", "curve2-l0"), {"run": RUN}, "small"),
    Case("sweep", ("front-y-ce_recovered_zero", "front-y2-fvu", "labels", "densities"),
         {"run": RUN}, "small"),
    Case("compare", ("curve-fvu", "densities", "matched"),
         {"one": RUN, "one-dictionary": "DICTIONARY", "other": RUN, "other-dictionary": "OTHER"},
         "small"),
    Case("latent", ("density",), ONE, "small", binned=("density",)),
    Case("latent", ("histogram",), {**ONE, "latent": "LATENT"}, "small", binned=("histogram",)),
    Case("latent", ("effects", "all-effects"),
         {**ONE, "latent": "LATENT", "part": "What it writes"}, "small", binned=("all-effects",)),
    Case("latent", ("steer-kl",), {**ONE, "latent": "LATENT", "part": "Steer with it"}, "small"),
    Case("directions", ("map-pca-density",), ONE, "small"),
    Case("directions", ("nearest",), {**ONE, "show": "Nearest latents", "latent": "3"}, "small"),
    Case("directions", ("nearest-cosine", "encoder-cosine"), {**ONE, "show": "Geometry"}, "small",
         binned=("nearest-cosine", "encoder-cosine")),
    Case("probe", ("probe-map", "probe-label"),
         {"store": STORE, "method": "mean_difference"}, "small"),
    Case("geometry", ("geometry-0",), {"stores": STORE, "measure": "Anisotropy"}),
    Case("geometry", ("geometry-0", "geometry-1"),
         {"stores": STORE, "measure": "Intrinsic dimension"}, "small"),
    Case("geometry", ("geometry-0", "geometry-1"), {"stores": STORE, "measure": "Neighbourhoods"}),
    Case("patching", ("patching", "baselines", "attribution"),
         {"model": "atlas-dense", "task": "agreement", "n": "16", "estimate": "true"}),
    Case("experts", ("experts",),
         {"model": "atlas-moe", "prompts": "desk:24", "part": "Rank and study"}),
    Case("experts", ("routing",),
         {"model": "atlas-moe", "prompts": "desk:24", "part": "Routing of a text"}),
    Case("steering", ("steering",),
         {"model": "atlas-dense", "direction": "A prompt task", "doses": "true"}),
    Case("steering", ("steer-kl", "prompt-doses"), {"model": "atlas-dense", "doses": "true"}),
    Case("steering", ("steer-kl",), {**ONE, "direction": "A latent of a dictionary",
                                     "latent": "LATENT", "where": "all"}, "small"),
    Case("hyper", ("hyper",), {"model": "atlas-dense"}),
    Case("acceleration", ("agreement", "exits", "drafts", "front"), {"store": "own"}),
)  # fmt: skip
CASES += (
    Case("ask", ("future-map", "future-scores"),
         {"ask": "Which tokens it foretells", "store": STORE, "row": "20", "fitted": STORE},
         press="start-future"),
)  # fmt: skip
SLOW = (
    Case("acceleration", ("agreement", "exits", "drafts", "front", "live-predicted",
                          "live-measured", "pareto", "stages"), {"store": "own"}, press="live"),
    Case("experts", ("experts", "experts-study"),
         {"model": "atlas-moe", "prompts": "desk:24", "part": "Rank and study"},
         press="start-study"),
)  # fmt: skip


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Root:
    """A store of texts and one of what the tiny model itself writes."""
    import lensbench
    from lensbench.interventions import acceleration

    root = make_root(tmp_path_factory.mktemp("root"), run=False)
    model = lensbench.load_model(root.model)
    acceleration.capture_own(model, ["the cat", "a plain dog saw"], root.folder / "own", 10)
    return root


def test_every_page_is_here_or_draws_nothing() -> None:
    from lensbench.app.page_list import PAGES

    assert {page.path for page in PAGES} == {case.page for case in CASES} | WITHOUT_FIGURES


@pytest.mark.parametrize("case", [*CASES, *(pytest.param(c, marks=pytest.mark.slow) for c in SLOW)],
                         ids=str)  # fmt: skip
def test_a_figure_is_told_offered_and_made_again(
    case: Case, monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest
) -> None:
    root = request.getfixturevalue("small_root" if case.of == "small" else "tiny")
    folder: Path = root if isinstance(root, Path) else root.folder
    seen = visit(case, folder, monkeypatch)
    monkeypatch.chdir(folder)
    wrong = [f"{n}: {said}" for n, d in seen.items() for said in complaints(d, n in case.binned)]
    if case.page in PUBLIC:
        wrong += [f"{n}: calls workflows" for n, d in seen.items() if "lensbench.app" in d.code]
    assert set(case.figures) <= set(seen)
    assert not wrong, "\n".join(wrong)


def visit(case: Case, folder: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, Drawn]:
    """Every figure of the page, as it stands."""
    if case.page == "hyper":
        small_study(monkeypatch)
    if case.press:
        jobs_here(monkeypatch)
    seen = watch(monkeypatch)
    page = open_page(monkeypatch, folder, case.page, **asked(case, folder))
    if case.press:
        page.button(key=case.press).click().run()
    assert not page.exception
    return seen


def complaints(drawn: Drawn, binned: bool) -> list[str]:
    """What is not told, not offered, not in the CSV, or not drawn again by the code."""
    out = ill_told(drawn)
    if lacks := FILES - set(drawn.files):
        return [*out, f"is not offered as {sorted(lacks)}"]
    out += [] if binned else not_in_frame(drawn.figure, drawn.frame)
    return out + different(drawn.figure, run_code(drawn.code))


def asked(case: Case, folder: Path) -> dict[str, str]:
    """The address, with the names that only a folder knows."""
    names = {"MODEL": str(folder / "models" / "tiny")}
    if case.of == "small":
        from lensbench.app.workflows.fronts import evaluated

        result = evaluated(folder / RUN)
        name = next(n for n in result.names if "k8" in n)
        names |= {"DICTIONARY": name, "OTHER": next(n for n in result.names if n != name),
                  "LATENT": str(int(result.density[name].argmax()))}  # fmt: skip
    return {k: names.get(v, v) for k, v in case.query.items()}


def jobs_here(monkeypatch: pytest.MonkeyPatch) -> None:
    """Jobs run in this process, at once."""
    import signal

    from lensbench.app.workflows import detached, work

    monkeypatch.setattr(signal, "signal", lambda *_: None)
    monkeypatch.setattr(detached, "start", lambda _, folder, **__: work.main(folder))


def small_study(monkeypatch: pytest.MonkeyPatch) -> None:
    """The page's study is a job of minutes; this one is as small as its code then asks for."""
    from dataclasses import replace

    from lensbench.app.workflows import hyper

    study, code = hyper.study, hyper.python_of
    less = {"dim": 256, "n_train": 60, "n_test": 30}
    monkeypatch.setattr(hyper, "saved", lambda _, ask: study(replace(ask, **less)))
    monkeypatch.setattr(hyper, "python_of", lambda ask: code(replace(ask, **less)))


def test_files_are_named_after_page_and_figure(monkeypatch: Any, tiny: Root) -> None:
    seen = visit(CASES[0], tiny.folder, monkeypatch)
    names = {k: v for k, v in seen["lens-course"].files.items() if k.endswith(" name")}
    assert set(names.values()) == {f"lens-course.{end}" for end in ("csv", "json", "html", "ipynb")}
    assert seen["lens-map"].files["csv name"] == "lens-top_prob.csv"


def test_a_notebook_is_valid_tells_where_it_is_from_and_holds_no_output(
    monkeypatch: Any, tiny: Root
) -> None:
    import nbformat

    drawn = visit(CASES[0], tiny.folder, monkeypatch)["lens-map"]
    book = nbformat.reads(drawn.text("notebook"), as_version=4)
    nbformat.validate(book)
    assert (book.nbformat, book.nbformat_minor) == (4, 5)
    said, code = book.cells
    assert "Probability of the best token" in said.source
    assert "/lens?store=acts&row=30" in said.source
    assert "lensbench 0" in said.source
    assert code.outputs == []


def test_a_page_of_html_stands_alone_and_tells_the_same(monkeypatch: Any, tiny: Root) -> None:
    drawn = visit(CASES[0], tiny.folder, monkeypatch)["lens-map"]
    page = drawn.text("html")
    assert '"showSendToCloud": false' in page
    assert "<script src" not in page
    assert "<link" not in page.partition("<body>")[0]
    assert "Colours have one range for every text of this model." in page
    assert "/lens?store=acts&amp;row=30" in page


def test_what_a_notebook_gives_is_checked_against_what_is_drawn(
    monkeypatch: Any, tiny: Root
) -> None:
    """The checks above can fail: other code, another frame, a caption without n."""
    drawn = visit(CASES[0], tiny.folder, monkeypatch)["lens-map"]
    assert not different(drawn.figure, run_code(drawn.code))
    assert different(drawn.figure, run_code(drawn.code.replace("top_prob", "entropy")))
    frame = drawn.frame
    assert not not_in_frame(drawn.figure, frame)
    assert not_in_frame(drawn.figure, frame.assign(top_prob=0.0))
    drawn.figure.update_layout(title={"text": "logit_diff", "subtitle": {"text": ""}})
    drawn.files = {}
    assert {said.partition(" ")[0] for said in ill_told(drawn)} == {"n", "title"}
