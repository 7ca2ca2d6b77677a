"""What a browser would write into the address of a page, and whether that shows the same page."""

from pathlib import Path
from typing import Any

from tests.app.driver import open_page, words

KINDS = ("selectbox", "multiselect", "radio", "number_input", "slider", "select_slider", "toggle",
         "text_input", "text_area")  # fmt: skip


def controls(page: Any) -> dict[str, Any]:
    """Every control of the page that is part of the address, by key."""
    all_of = (widget for kind in KINDS for widget in getattr(page, kind))
    return {widget.key: widget for widget in all_of if widget.proto.query_param_key}


def state(page: Any) -> dict[str, Any]:
    """What every control of the address stands at."""
    return {key: widget.value for key, widget in controls(page).items()}


def choose(page: Any, key: str, value: Any) -> None:
    """Set one control, as a reader does."""
    there = controls(page)
    assert key in there, f"no control {key}; the page says: {words(page)}"
    assert there[key].value != value, f"{key} is {value!r} already"
    there[key].set_value(value).run()
    assert not page.exception, key


def address(page: Any) -> dict[str, Any]:
    """The address that a browser shows: what each control says, where it is not at its default."""
    found: dict[str, Any] = {}
    for widget in controls(page).values():
        proto, value, kind = widget.proto, widget.value, type(widget).__name__
        if kind in ("Selectbox", "Radio"):
            told = None if value is None else widget.format_func(value)
            default = proto.options[proto.default] if proto.HasField("default") else None
        elif kind == "Multiselect":
            told = [widget.format_func(one) for one in value]
            default = [proto.options[i] for i in proto.default]
        elif kind == "SelectSlider":
            told, default = widget.format_func(value), proto.options[int(proto.default[0])]
        else:
            told = value
            default = next(iter(proto.default)) if kind == "Slider" else proto.default
        if told != default and told is not None:
            found[proto.query_param_key] = _written(told)
    return found


def _written(told: Any) -> Any:
    if isinstance(told, list):
        return told or [""]
    return str(told).lower() if isinstance(told, bool) else str(told)


def shown(page: Any) -> list[str]:
    """What the page says, line by line, and its figures and tables; not its own address."""
    told = [line for line in words(page).split("\n") if "lensbench 0" not in line]
    tables = [str(table.value.to_dict("list")) for table in page.dataframe]
    return [*told, *tables, *(f.proto.spec for f in page.get("plotly_chart"))]


def walk(
    monkeypatch: Any, root: Path, path: str, first: dict[str, str], changes: dict[str, Any]
) -> set[str]:
    """Set controls of ``/path?first`` in turn; the address then makes the same page.

    Gives the names of all controls there are.
    """
    page = open_page(monkeypatch, root, path, **first)
    for key, value in changes.items():
        choose(page, key, value)
    asked = address(page)
    again = open_page(monkeypatch, root, path, **asked)
    assert not again.exception
    assert [w.value for w in again.warning] == [w.value for w in page.warning]
    assert state(again) == state(page), asked
    differs = [pair for pair in zip(shown(page), shown(again), strict=True) if len(set(pair)) > 1]
    assert differs == [], asked
    return set(state(page))
