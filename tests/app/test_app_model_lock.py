"""Two browser tabs share a model and never see each other's edits.

Twice secured: edits live in a context of the thread that runs, and whoever runs holds the lock.
"""

import sys
import threading
from contextlib import nullcontext
from pathlib import Path
from typing import Any
from urllib.parse import parse_qsl, urlsplit

import numpy as np
import pytest

from tests.app.driver import open_page
from tests.browser.filled import addresses, filled_root, small_root, tiny_root

__all__ = ["filled_root", "small_root", "tiny_root"]
pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning")
PATHS = ["token", "lens", "attention", "latent", "directions", "steering", "patching", "experts",
         "acceleration", "capture", "hyper", "probe", "geometry"]  # fmt: skip
PAIR = {"view": "Two texts", "model": "atlas-dense", "text": "the capital of", "text2": "a cat of"}
DEEPER = {
    "two texts": ("lens", PAIR, ""),
    "a latent's steering": ("latent", {"part": "Steer with it"}, ""),
    "a text through a dictionary": ("latent", {"part": "On my text", "text": "a cat"}, ""),
    "routing of a text": ("experts", {"part": "Routing of a text"}, ""),
    "a check of the lens": ("token", {}, "verify-lens"),
}
"""What runs a model only once something is chosen or pressed."""


@pytest.fixture
def unlocked(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Calls of a shared model by a thread that does not hold its lock."""
    from lensbench.app.workflows import expert_routing, live
    from lensbench.models.huggingface import NativeModel

    seen: list[str] = []

    def watched(name: str) -> Any:
        real = getattr(NativeModel, name)

        def call(self: Any, *args: Any, **kwargs: Any) -> Any:
            for held in list(live._models._values.values()):
                if held.model is self and not held.lock._is_owned():  # type: ignore[attr-defined]
                    seen.append(name)
            return real(self, *args, **kwargs)

        return call

    for name in ("run", "run_many", "run_layers", "generate"):
        monkeypatch.setattr(NativeModel, name, watched(name))
    live.forget()
    expert_routing.typed.cache_clear()
    return seen


@pytest.mark.parametrize("path", PATHS)
def test_every_page_holds_the_lock_of_the_model_it_runs(
    monkeypatch, filled_root: Path, unlocked: list[str], path: str
) -> None:
    query = dict(parse_qsl(urlsplit(addresses(filled_root)[path]).query))
    page = open_page(monkeypatch, filled_root, path, **query)
    assert not page.exception
    assert unlocked == []


@pytest.mark.parametrize("what", DEEPER)
def test_what_is_chosen_or_pressed_holds_it_too(
    monkeypatch, filled_root: Path, unlocked: list[str], what: str
) -> None:
    from lensbench.models.huggingface import NativeModel

    path, more, button = DEEPER[what]
    query = dict(parse_qsl(urlsplit(addresses(filled_root)[path]).query))
    runs: list[str] = []
    for name in ("run", "run_many", "run_layers", "generate"):
        real = getattr(NativeModel, name)
        monkeypatch.setattr(NativeModel, name, lambda *a, real=real, name=name, **k: (
            runs.append(name), real(*a, **k))[1])  # fmt: skip
    page = open_page(
        monkeypatch, filled_root, path, **(query if "view" not in more else {}), **more
    )
    if button:
        page.button(button).click().run()
    assert not page.exception
    assert runs, "it runs a model"
    assert unlocked == []


def test_the_watch_sees_a_run_without_the_lock(unlocked: list[str]) -> None:
    from lensbench.app.workflows.live import hold_model, running

    with running("atlas-dense") as model:
        model.run(model.tokens("a b"))
    assert unlocked == []
    hold_model("atlas-dense").model.run(model.tokens("a b"))
    assert unlocked == ["run"]


class Leaky:
    """A holder of the running edits that all threads share, as one without contexts would be."""

    value: Any = None

    def get(self) -> Any:
        return self.value

    def set(self, value: Any) -> Any:
        self.value, before = value, self.value
        return before

    def reset(self, before: Any) -> None:
        self.value = before


@pytest.mark.parametrize("secured", ["by lock and context", "by context", "by lock", "not at all"])
def test_a_clean_run_beside_a_steered_one_is_what_it_is_alone(
    monkeypatch: pytest.MonkeyPatch, secured: str
) -> None:
    from lensbench.app.workflows.live import hold_model
    from lensbench.models import session
    from lensbench.plan import Add, Edit, Plan

    held = hold_model("atlas-dense")
    model, lock = held.model, held.lock if "lock" in secured else nullcontext()
    ids = model.tokens("The capital of France is")
    alone = model.run(ids).logits.numpy()
    vector = np.full(model.card.d_model, 30.0, np.float32)
    plan = Plan((Edit("blocks.2.resid_post", Add(vector)),))
    assert not np.array_equal(model.run(ids, plan).logits.numpy(), alone), "the edit does something"
    if "context" not in secured:
        for module in list(sys.modules.values()):
            if getattr(module, "ACTIVE", None) is session.ACTIVE and module is not session:
                monkeypatch.setattr(module, "ACTIVE", LEAKY)
        monkeypatch.setattr(session, "ACTIVE", LEAKY)
    steering, stop, failed = threading.Event(), threading.Event(), []

    def steer() -> None:
        while not stop.is_set():
            with lock:
                steering.set()
                try:
                    model.generate(ids, plan, 6)
                except Exception as error:  # the leak also breaks the other run
                    failed.append(error)

    other = threading.Thread(target=steer)
    other.start()
    assert steering.wait(60)
    found: list[bool] = []
    try:
        for _ in range(200 if secured == "not at all" else 8):
            if failed or not all(found):
                break
            with lock:
                try:
                    found.append(np.array_equal(model.run(ids).logits.numpy(), alone))
                except Exception as error:
                    failed.append(error)
    finally:
        stop.set()
        other.join()
    assert (all(found) and not failed) == (secured != "not at all")


LEAKY: Any = Leaky()
