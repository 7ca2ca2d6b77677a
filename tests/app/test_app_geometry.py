"""The page Geometry: its table says the same of the same tokens once."""

import json

import pytest

import lensbench
from tests.app.driver import files_offered, open_page, words
from tests.app.tiny_root import TEXTS, save_tiny

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning")


@pytest.mark.parametrize("special", [False, True])
def test_rows_without_the_first_token_are_listed_where_there_is_one(
    monkeypatch, tmp_path, special: bool
) -> None:
    """A store without special tokens holds no [BOS]: there "without first" is "all" again."""
    model = lensbench.load_model(save_tiny(tmp_path / "tiny"))
    lensbench.capture(
        model, list(TEXTS), profile="resid", out=tmp_path / "acts", dtype="float32", layout="pad",
        context=48, exclude_special=not special,
    )  # fmt: skip
    given = files_offered(monkeypatch)
    page = open_page(monkeypatch, tmp_path, "geometry", stores="acts")
    assert not page.exception
    assert not page.error
    shown = page.dataframe[0].value
    kinds = set(shown["rows"])
    assert "all" in kinds
    assert ("without first" in kinds) is special
    said = words(page).replace("\\", "")
    assert ("no first token among the tokens measured" in said) is not special
    every = {row["rows"] for row in json.loads(given["geometry-shape-table.json"])["rows"]}
    assert every == {"all", "without_first", "without_massive"}, "the file has all of them"
