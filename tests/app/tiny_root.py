"""A folder as the dashboard shows it, made in seconds: a tiny model on disk, a store, a run."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from tests.helpers import tiny

WORDS = (
    "the cat sat on the mat . the dog sat on the log . the cat saw the dog and the dog saw "
    "the cat . \n a <b> bold </b> cat & a plain dog ."
)
TEXTS = (
    "the cat sat on the mat . the cat sat on the log .",
    "a <b>bold</b> dog & a cat\nthe dog saw the \x07 cat .",
    "the dog saw the cat and the cat saw the dog .",
    "the log sat on the dog . the dog sat on the log .",
)


@dataclass(frozen=True)
class Root:
    """Where things lie; the store is called ``acts``, the run ``run``."""

    folder: Path
    model: Path

    @property
    def url(self) -> str:
        return str(self.folder / "acts")


def save_tiny(folder: Path, kind: str = "llama", *, seed: int = 0, **changes: Any) -> Path:
    """A tiny random model with a byte-level tokenizer that adds BOS, in hub format."""
    from tests.tokenizers_for_chat import byte_level

    tokenizer = byte_level(None, corpus=[WORDS, *TEXTS] * 4, size=400)
    tiny(kind, seed=seed, vocab_size=len(tokenizer), **changes).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


def make_root(
    folder: Path,
    *,
    texts: Sequence[str] = TEXTS,
    kind: str = "llama",
    profile: str = "full",
    sites: Sequence[str] = (),
    run: bool = True,
) -> Root:
    """A model, a store of ``texts`` (specials left out), and a run of two dictionaries on it."""
    import lensbench
    from lensbench import saes

    path = save_tiny(folder / "models" / "tiny", kind)
    options: dict[str, Any] = {"layout": "pad", "context": 48, "exclude_special": True}
    chosen: Any = profile
    store = lensbench.capture(
        lensbench.load_model(path), list(texts), list(sites) or None, profile=chosen,
        out=folder / "acts", dtype="float32", **options,
    )  # fmt: skip
    if run:
        entry = {"architecture": "topk", "d_sae": 64, "k": [4, 8], "lr": 1e-2,
                 "site": "blocks.1.resid_post"}  # fmt: skip
        train = {"tokens": 4096, "batch_size": 32, "log_every": 20}
        saes.train(store, {"train": train, "sweep": [entry]}, out=folder / "run",
                   model_card=store.model, progress=False)  # fmt: skip
    return Root(folder, path)


def spec_of(page: Any, index: int = 0) -> dict[str, Any]:
    """A figure of the page, as JSON."""
    import json

    return json.loads(page.get("plotly_chart")[index].proto.spec)


def values(array: Any) -> Any:
    """Numbers of a figure, however plotly packed them."""
    import base64

    import numpy as np

    if isinstance(array, dict):
        found = np.frombuffer(base64.b64decode(array["bdata"]), np.dtype(array["dtype"]))
        shape = [int(n) for n in str(array.get("shape", len(found))).split(",")]
        return found.reshape(shape)
    return np.asarray(array)


@pytest.fixture(scope="module")
def tiny_root(tmp_path_factory: pytest.TempPathFactory) -> Root:
    """Made once per module; tests that change something copy it first."""
    return make_root(tmp_path_factory.mktemp("root"))


@pytest.fixture
def no_run(monkeypatch: pytest.MonkeyPatch) -> None:
    """From here on, a run of any model is an error."""
    from lensbench.models.huggingface import NativeModel

    def refuse(*_: Any, **__: Any) -> None:
        raise AssertionError("the model was run")

    for name in ("run", "run_many", "run_layers", "generate"):
        monkeypatch.setattr(NativeModel, name, refuse)
