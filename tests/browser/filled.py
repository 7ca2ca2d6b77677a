"""A folder in which every page has something to show, and the address that shows it."""

import shutil
from pathlib import Path
from urllib.parse import urlencode

import pytest

from tests.app.conftest import small_root
from tests.app.tiny_root import Root, tiny_root

__all__ = ["filled_root", "small_root", "tiny_root"]
ACTS, TINY, RUN = "acts", "tiny", "runs/small"


@pytest.fixture(scope="module")
def filled_root(
    small_root: Path,
    tiny_root: Root,
    tmp_path_factory: pytest.TempPathFactory,
) -> Path:
    """The evaluated run of ``small_root``, and a store of every site of a tiny model."""
    root = tmp_path_factory.mktemp("filled") / "root"
    shutil.copytree(small_root, root)
    shutil.copytree(tiny_root.folder / "acts", root / TINY)
    return root


def addresses(root: Path) -> dict[str, str]:
    """What follows the port, for every page; models are run on a few tokens at most."""
    name = next((root / RUN).glob("topk-64-k8*")).name
    dictionary = {"run": RUN, "dictionary": name, "latent": 3}
    own = {"from": "My own text", "model": "atlas-dense", "text": "the capital of"}
    queries = {
        "home": {}, "capture": {"model": "atlas-dense"}, "stores": {"store": ACTS, "part": "Rows"},
        "token": {"store": TINY, "row": 17}, "train": {"store": ACTS}, "runs": {"run": RUN},
        "sweep": {"run": RUN}, "latent": dictionary,
        "compare": {"one": RUN, "other": RUN, "other-dictionary": name},
        "directions": {**dictionary, "show": "Nearest latents"},
        "lens": {"store": TINY, "row": 17}, "language": {"model": "atlas-dense"}, "attention": own,
        "ask": {**own, "target": "I think the ring"}, "probe": {"store": ACTS},
        "hyper": {"model": "atlas-dense"}, "geometry": {"stores": ACTS},
        "patching": {"model": "atlas-dense"}, "steering": {"model": "atlas-dense"},
        "experts": {"model": "atlas-moe", "prompts": "desk:12"}, "acceleration": {"store": TINY},
    }  # fmt: skip
    return {p: f"/{'' if p == 'home' else p}?{urlencode(q)}" for p, q in queries.items()}
