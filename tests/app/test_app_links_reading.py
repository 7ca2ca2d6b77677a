"""Pages Token, Probe, Hyperdimensional and Geometry: an address shows its receiver the same."""

from functools import partial
from pathlib import Path
from typing import Any

import pytest

import lensbench
from lensbench.app.widgets.states import plain
from tests.app.driver import open_page, words
from tests.app.tiny_root import make_root

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning")
SITES = [f"blocks.{n}.resid_post" for n in range(2, 6)]
STORE = "acts"
KINDS = ("selectbox", "multiselect", "radio", "number_input", "slider", "toggle", "text_input")
VERSION = plain(f"lensbench {lensbench.__version__}")
"""Ends the line that names the address itself, which this harness does not keep as a browser does.
"""
NOT_LINKED = {"document": "a jump: the row it leads to is in the address"}


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two stores of the atlas, two dictionaries, two tuned lenses, probes, and two studies."""
    from lensbench import probes, saes
    from lensbench.app.workflows import hyper, probe_page, probing, token_hyper
    from lensbench.probes.hd.encoder import EncoderConfig
    from lensbench.probes.lenses.tuned import files
    from lensbench.worlds.atlas import Atlas
    from lensbench.worlds.controls import reinitialised_twin

    root = tmp_path_factory.mktemp("place")
    model = lensbench.load_model("atlas-dense", certify=False)
    text, options = Atlas(0).sample(200, "all", 0), {"exclude_special": True}
    store = lensbench.capture(model, text, SITES, out=root / STORE, **options)
    lensbench.capture(reinitialised_twin(model, 0), text, SITES, out=root / "twin", **options)
    entry = {"architecture": "topk", "d_sae": 32, "k": [4, 8], "site": SITES[0]}
    train = {"tokens": 2048, "batch_size": 128, "log_every": 8}
    saes.train(store, {"train": train, "sweep": [entry]}, out=root / "run",
               model_card=store.model, progress=False)  # fmt: skip
    for name in ("lens one", "lens two"):
        files.save_tuned_lens(probes.TunedLens.identity(model), root / name)
    ask = probing.ProbeAsk(str(root / STORE), ("is_name", "is_comma"), sites=(SITES[1],),
                           methods=("mean_difference",))  # fmt: skip
    probe_page.fit(probing.settings_of(ask, root / "probes" / "two"), lambda *_, **__: None)
    quick = EncoderConfig(kind="factored", hidden=(1.0,), max_epochs=2, lr=3e-3)
    study = partial(probes.hd_study, baselines=("shuffled labels",))
    with pytest.MonkeyPatch.context() as patch:
        few = {"encoder": quick, "n_train": 120, "n_test": 40, "dim": 512}
        patch.setattr(probes, "hd_study", lambda *a, **k: study(*a, **{**k, **few}))
        for task in ("question", "analogy"):
            one = token_hyper.ask_for(str(root / STORE), task)
            hyper.facts(one, hyper.folder_for(root, one))
    return root


@pytest.fixture(scope="module")
def routed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A store of a mixture of experts with its routing."""
    sites = ["blocks.*.router.indices", "blocks.*.router.weights"]
    folder = tmp_path_factory.mktemp("routed")
    return make_root(folder, kind="mixtral", profile="resid", sites=sites, run=False).folder


Changes = dict[str, Any]
PROBE: Changes = {
    "store": STORE, "labels": ["family_analogies", "family_facts"], "sites": SITES[2:],
    "method": "mean_difference", "where": "first", "twin": "twin", "shown": "auroc",
    "label": "family_facts",
}  # fmt: skip
HYPER: Changes = {
    "model": "atlas-dense", "split": "combination", "size": 6000, "after": True,
    "task": "question", "rows": "prompts", "which": "Read wrong",
}  # fmt: skip
TOKEN: Changes = {
    "store": STORE, "row": 17, "token-tuned": "lens two", "probes-shown": False,
    "token-probe": "is_name", "hyper-task": "question", "dictionary": 1, "token-latent": 1,
    "token-concept": 1,
}  # fmt: skip
"""Values that are not those at first, in the order in which a reader chooses them; a number for a
list of names is a place in it."""


def choose(page: Any, key: str, value: Any) -> None:
    """Set one control, as a reader does."""
    there = {widget.key: k for k in KINDS for widget in getattr(page, k)}
    assert key in there, f"no control {key}; the page says: {words(page)}"
    kind = there[key]
    widget = getattr(page, kind)(key=key)
    if kind == "selectbox" and key in ("dictionary", "token-latent", "token-concept"):
        widget.select_index(value).run()
    else:
        widget.set_value(value).run()
    assert not page.exception, key


def address(page: Any) -> dict[str, Any]:
    """The address that a browser shows: what each control says, where it is not at its default."""
    found: dict[str, Any] = {}
    for kind in KINDS:
        for widget in getattr(page, kind):
            proto = widget.proto
            if not proto.query_param_key:
                assert widget.key in NOT_LINKED, f"{widget.key} is not part of the address"
                continue
            value = widget.value
            if kind in ("selectbox", "radio"):
                options = list(proto.options)
                told = None if value is None else widget.format_func(value)
                default = options[proto.default] if proto.HasField("default") else None
            elif kind == "multiselect":
                told = [widget.format_func(one) for one in value]
                default = [proto.options[i] for i in proto.default]
            else:
                told, default = value, proto.default
            if told != default:
                found[proto.query_param_key] = _written(told)
    return found


def _written(told: Any) -> Any:
    if isinstance(told, list):
        return told or [""]
    return str(told).lower() if isinstance(told, bool) else str(told)


def state(page: Any) -> dict[str, Any]:
    return {w.key: w.value for kind in KINDS for w in getattr(page, kind)
            if w.proto.query_param_key}  # fmt: skip


def shown(page: Any) -> tuple[str, list[str]]:
    """What the page says, and its figures and tables."""
    tables = [str(table.value.to_dict("list")) for table in page.dataframe]
    said = [line for line in words(page).splitlines() if not line.endswith(VERSION)]
    return "\n".join(said), [*tables, *(f.proto.spec for f in page.get("plotly_chart"))]


def same_again(monkeypatch: Any, root: Path, path: str, page: Any) -> None:
    """Another reader opens the address of ``page`` and sees what it shows."""
    again = open_page(monkeypatch, root, path, **address(page))
    assert not again.exception
    assert not again.warning
    assert state(again) == state(page)
    assert shown(again) == shown(page)


def walk(monkeypatch: Any, root: Path, path: str, changes: Changes) -> None:
    """Set every control in turn; the address then makes the same page."""
    page = open_page(monkeypatch, root, path)
    first: dict[str, Any] = {}
    for key, value in changes.items():
        first |= {k: v for k, v in state(page).items() if k not in first}
        choose(page, key, value)
    assert set(state(page)) == set(changes), "controls that no test sets"
    unmoved = [k for k, v in state(page).items() if k in first and v == first[k]]
    assert unmoved == [], "set to what it was"
    same_again(monkeypatch, root, path, page)


def test_probe(monkeypatch: Any, place: Path) -> None:
    walk(monkeypatch, place, "probe", PROBE)


@pytest.mark.parametrize("measure", ["dimension", "neighbours"])
def test_geometry(monkeypatch: Any, place: Path, measure: str) -> None:
    asked = {"stores": [STORE], "controls": ["twin"], "measure": measure}
    walk(monkeypatch, place, "geometry", asked)


def test_hyper(monkeypatch: Any, place: Path) -> None:
    from lensbench.app.workflows import hyper, token_hyper

    kept = hyper.saved(place, token_hyper.ask_for(str(place / STORE), "question"))
    assert kept is not None
    monkeypatch.setattr(hyper, "saved", lambda *_: kept)
    walk(monkeypatch, place, "hyper", HYPER)


def test_token(monkeypatch: Any, place: Path) -> None:
    walk(monkeypatch, place, "token", TOKEN)


def test_token_of_a_mixture_of_experts(monkeypatch: Any, routed: Path) -> None:
    page = open_page(monkeypatch, routed, "token", store=STORE, row="9")
    choose(page, "expert-layer", 1)
    assert address(page)["expert-layer"] == "1"
    same_again(monkeypatch, routed, "token", page)


@pytest.mark.parametrize(
    ("path", "asked"),
    [
        ("probe", {"store": STORE, "labels": ["is_comma", "is_name"], "label": "is_name",
                   "where": "all", "shown": "score", "sites": [SITES[0]]}),
        ("geometry", {"stores": [STORE], "measure": "dimension"}),
        ("token", {"store": STORE, "row": "3", "probes-shown": "False"}),
    ],
)  # fmt: skip
def test_an_address_may_have_names_instead_of_words(
    monkeypatch: Any, place: Path, path: str, asked: dict[str, Any]
) -> None:
    page = open_page(monkeypatch, place, path, **asked)
    assert not page.exception
    assert not page.warning
    now = {k: (v if isinstance(v, list) else str(v)) for k, v in state(page).items()}
    assert {k: now[k] for k in asked} == asked
    same_again(monkeypatch, place, path, page)
