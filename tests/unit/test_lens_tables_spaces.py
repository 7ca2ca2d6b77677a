"""Tables of lenses keep the mark of a space: in frames, in notebooks, and in their figures."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.app.tiny_root import TEXTS, save_tiny


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Any:
    """A tiny model whose tokens begin with their space."""
    import lensbench

    return lensbench.load_model(save_tiny(tmp_path_factory.mktemp("spaces") / "tiny"))


def store_of(model: Any, folder: Path) -> Any:
    import lensbench

    return lensbench.capture(model, list(TEXTS), profile="resid", out=folder)


def token_lens(model: Any, _: Path) -> Any:
    from lensbench import probes

    return probes.states_of_text(model, model.tokens(TEXTS[0])).lens(model, k=2)


def site_lens(model: Any, _: Path) -> Any:
    from lensbench import probes

    return probes.site_lens(model, TEXTS[0], "mlp_out")


def lens_grid(model: Any, folder: Path) -> Any:
    from lensbench import probes

    return probes.lens_grid(store_of(model, folder / "acts"), model, 0)


def transplant(model: Any, _: Path) -> Any:
    from lensbench import probes

    return probes.transplant(model, probes.Spot(TEXTS[0], 3), probes.Spot(TEXTS[2], -1))


def future_grid(model: Any, _: Path) -> Any:
    from lensbench import probes

    return probes.future_grid(model, probes.Spot(TEXTS[2], -1), TEXTS[0], steps=2)


def contrastive(model: Any, _: Path) -> Any:
    from lensbench import probes

    return probes.contrastive_decode(probes.DoLa(model, (0, 2)), TEXTS[0], 40, temperature=1.0)


@pytest.mark.parametrize(
    ("make", "column"),
    [(token_lens, "token"), (token_lens, "target"), (site_lens, "token"), (lens_grid, "token"),
     (transplant, "token"), (future_grid, "token"),
     (contrastive, "token")],
)  # fmt: skip
def test_a_space_is_marked(
    model: Any, tmp_path: Path, make: Callable[[Any, Path], Any], column: str
) -> None:
    found = make(model, tmp_path)
    frame = found.to_frame()
    words = [w for c in frame.columns for w in frame[c] if isinstance(w, str)]
    assert not any(w.startswith(" ") for w in frame[column])
    assert any(w.startswith("␣") for w in words), "this text has spaces"
    first = [w for c in frame.columns for w in frame[c].head(20) if isinstance(w, str)]
    assert ("␣" in found._repr_html_()) == any("␣" in w for w in first)


def test_a_space_is_marked_in_one_cell_of_a_transplant(model: Any) -> None:
    from lensbench import probes

    source, target = probes.Spot(TEXTS[0], 3), probes.Spot(TEXTS[2], -1)
    cell = probes.transplant_layers(model, source, target, k=90).at(1, 1)
    words = [str(w) for i in range(1, 91) for w in cell[f"top{i}"]]
    assert not any(w.startswith(" ") for w in words)
    assert any(w.startswith("␣") for w in words)


def test_the_fields_keep_the_tokens_as_they_are(model: Any, tmp_path: Path) -> None:
    found = token_lens(model, tmp_path)
    assert any(word.startswith(" ") for word in found.tokens)
    frame = found.to_frame()
    assert frame["target"].iloc[-1] == "", "nothing follows the last token"
    shown = [found.tokens[p].replace(" ", "␣") for p in frame["pos"]]
    assert frame["token"].tolist() == shown
    assert "␣" in str(lens_grid(model, tmp_path).plot().data[0].text)
