"""What a reader has chosen is in the address: a link shows its receiver the same."""

from pathlib import Path
from urllib.parse import parse_qsl, urlsplit

import pytest

from lensbench.app.page_list import PAGES
from tests.app.driver import open_page
from tests.browser.filled import addresses, filled_root, small_root, tiny_root

__all__ = ["filled_root", "small_root", "tiny_root"]
pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning")
KINDS = ("selectbox", "multiselect", "radio", "number_input", "slider", "select_slider", "toggle",
         "checkbox", "text_input", "text_area")  # fmt: skip
LEFT_OUT = {
    "document": "a jump, like a button: the row it leads to is in the address",
    "page": "a jump, like a button",
    "again": "of the form that starts an evaluation",
    "sequences": "of the form that starts an evaluation",
    "twin": "of the form that starts an evaluation",
}
"""Controls that no address names, and why; forms of work to start are files, not links."""
FORMS = {
    "train": "a form: its link names the store, its state is the YAML to copy",
    "capture": "a form: names of what will be made, and words that are kept as a file",
}
PERSONAL = ("note-", "notes-")
"""Kept on disk, beside the run."""
MADE = ("share-out-",)
"""Names of folders that will be made."""


@pytest.mark.parametrize("path", [page.path for page in PAGES if page.path not in FORMS])
def test_every_control_is_part_of_the_address(monkeypatch, filled_root: Path, path: str) -> None:
    query = dict(parse_qsl(urlsplit(addresses(filled_root)[path]).query))
    page = open_page(monkeypatch, filled_root, "" if path == "home" else path, **query)
    assert not page.exception
    free = {
        widget.key
        for kind in KINDS
        for widget in getattr(page, kind)
        if not widget.proto.query_param_key
        and not (widget.key or "").startswith((*PERSONAL, *MADE))
    }
    assert free - set(LEFT_OUT) == set()


def test_a_token_comes_back_with_the_dictionary_latent_and_layer_that_were_chosen(
    monkeypatch, filled_root: Path
) -> None:
    page = open_page(monkeypatch, filled_root, "token", store="acts", row="40")
    boxes = {key: page.selectbox(key=key) for key in ("dictionary", "token-latent")}
    assert all(box.proto.query_param_key == key for key, box in boxes.items())
    boxes["dictionary"].set_value(boxes["dictionary"].options[-1]).run()
    chosen = page.selectbox(key="token-latent")
    chosen.set_value(int(chosen.options[-1])).run()
    told = {key: str(page.selectbox(key=key).value) for key in boxes}
    again = open_page(monkeypatch, filled_root, "token", store="acts", row="40", **told)
    assert not again.exception
    assert {key: str(again.selectbox(key=key).value) for key in boxes} == told
    first = open_page(monkeypatch, filled_root, "token", store="acts", row="40")
    assert {key: str(first.selectbox(key=key).value) for key in boxes} != told
