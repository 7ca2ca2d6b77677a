"""Pages that read and intervene: every control is part of an address that shows the same page."""

from typing import Any

import pytest

from tests.app.linking import walk
from tests.app.tiny_root import Root, tiny_root

__all__ = ["tiny_root"]
pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning")
DENSE, MOE = {"model": "atlas-dense"}, {"model": "atlas-moe", "prompts": "desk:24"}
TYPED = {"from": "My own text", "model": "atlas-dense", "text": "the dog saw the dog"}
STORED = {"store": "acts"}
PAGES: dict[str, tuple[str, dict[str, str], dict[str, Any]]] = {
    "experts, sliders": ("experts", MOE, {
        "desk": "cannot say", "top": 2,
        "experts": ["1:5", "0:0"], "w1-5": -0.5, "w0-0": 1.0, "prompt": "Hello , tell the baker :",
    }),
    "experts, map": ("experts", MOE, {
        "part": "map", "colour": "load", "prompt": "Hello , tell the baker :", "desk": "cannot say",
        "top": 1,
    }),
    "experts, stored": ("experts", MOE, {
        "part": "map", "tokens": "stored", "store": "acts", "row": 3,
    }),
    "experts, study": ("experts", {"model": "atlas-moe", "prompts": "desk:60"}, {
        "part": "rank", "top": 2, "desk": "cannot say",
    }),
    "patching": ("patching", DENSE | {"n": "4"}, {
        "task": "recall", "site": "mlp_out", "how": "noise", "metric": "probability", "n": 8,
        "place": "block 5, query", "estimate": True, "method": "ig",
    }),
    "patching, own pairs": ("patching", DENSE | {"n": "4"}, {"of": "own", "metric": "loss"}),
    "acceleration": ("acceleration", STORED, {
        "exit": 2, "draft": 3, "threshold": 0.35, "measure": "entropy", "keep": 80,
        "compute": "layers",
    }),
    "steering, prompts": ("steering", DENSE, {
        "layer": 3, "plus": "The doors", "minus": "The door", "prompt": "I think the dog",
        "strength": -2.0, "where": "all", "new": 4, "heat": 0.5, "seed": 3, "doses": True,
        "dose-measure": "changed",
    }),
    "steering, task": ("steering", DENSE, {
        "direction": "task", "task": "recall", "method": "pca_diff", "layer": 2, "source": "value",
        "towards": "boat", "prompt": "I think the dog", "strength": 0.5, "where": "all", "new": 4,
        "heat": 0.5, "seed": 3,
    }),
    "capture": ("capture", {}, {
        "documents": 50, "split": "heldout", "seed": 4, "profile": "sae",
        "sites": ["blocks.*.resid_post", "blocks.1.mlp_out"], "layout": "pack", "context": 16,
        "dtype": "float32", "most": 500, "out": "mine", "model": "atlas-moe", "from": "typed",
    }),
    "lens, stored": ("lens", STORED, {
        "row": 5, "metric": "entropy", "pos": 3, "layer": 2, "pins": "cat",
    }),
    "lens, components": ("lens", TYPED, {
        "lens": "Component lens", "text": "the cat saw the", "block": "1", "place": 9, "at": 2,
        "score": "entropy",
    }),
    "lens, sites": ("lens", TYPED, {
        "lens": "Site lens", "site": "mlp_out", "norm": "held", "place": 2, "at": 1,
        "score": "top_prob",
    }),
    "lens, pair": ("lens", {"view": "Two texts", **DENSE, "text": "the cat", "text2": "the dog"}, {
        "src": 1, "src_layer": 2, "pos": 1, "layer": 4, "what": "mlp_out", "see": 1,
        "metric": "entropy", "strength": 0.5, "grey": True, "token": "␣dog", "text2": "the man",
    }),
    "attention": ("attention", TYPED, {
        "text": "the cat saw the cat", "weighted": True, "score": "previous_token", "head": "3.1",
        "ablate": True,
    }),
    "attention, repeated": ("attention", {"from": "Repeated random tokens", **DENSE}, {
        "repeats": 6, "head": "1.2", "score": "duplicate_token",
    }),
}  # fmt: skip
"""Path, the address at first, and values that are not those at first, in the order of choosing."""


@pytest.mark.parametrize("name", PAGES)
def test_an_address_shows_its_receiver_the_same(
    monkeypatch: Any, tiny_root: Root, name: str
) -> None:
    path, first, changes = PAGES[name]
    there = walk(monkeypatch, tiny_root.folder, path, first, changes)
    tried = {key for p, *given in PAGES.values() if p == path for one in given for key in one}
    assert there - tried == set(), "controls that no test sets"
