"""What a result says of a number that is none, and of a number with its interval."""

from dataclasses import dataclass

import numpy as np
import pandas as pd

from lensbench.plots.tables import html_table
from lensbench.results import _KINDS, Controls, Result

NAN = float("nan")


@dataclass(frozen=True, kw_only=True, eq=False)
class Half(Result):
    """Two headline numbers, the second of them not measured."""

    def to_frame(self) -> pd.DataFrame:
        return pd.DataFrame({"a": [1.0]})

    def summary(self) -> dict[str, float]:
        return {"first_one": 2.0, "second_one": NAN, "third_one": NAN}


@dataclass(frozen=True, kw_only=True, eq=False)
class Told(Half):
    def absent(self, name: str) -> str:
        return "not measured live yet" if name == "second_one" else super().absent(name)


for made in ("Half", "Told"):  # of this file alone
    _KINDS.pop(made)


def test_a_headline_shows_no_nan_as_a_number() -> None:
    assert repr(Half()) == "Half(first_one 2; undefined: second_one, third_one)"
    assert repr(Told()) == (
        "Told(first_one 2; not measured live yet: second_one; undefined: third_one)"
    )
    page = Told(controls=Controls({"shuffled_labels": NAN}))._repr_html_()
    assert "not measured live yet: second one; undefined: third one" in page
    assert "shuffled labels undefined" in page
    assert "nan" not in page.lower()


def test_a_number_stands_with_its_interval() -> None:
    frame = pd.DataFrame(
        {"rate": [0.5, NAN, 0.25], "low": [0.4, 0.1, NAN], "high": [0.6, 0.2, NAN],
         "kl": np.array([1, 2, 3], np.float32), "kl_low": [0.5, 1.5, 2.5],
         "kl_high": [1.5, 2.5, 3.5], "n": [3, 3, 3]}
    )  # fmt: skip
    frame.attrs["units"] = {"kl": "nats"}
    page = html_table(frame)
    assert page.count("<th") - page.count("<thead") == 3
    assert "0.5 (0.4 to 0.6)" in page
    assert "2 (1.5 to 2.5)" in page
    assert ">NaN<" in page  # a rate that is none keeps no interval
    assert ">0.25<" in page  # and a rate alone stands alone
    assert "nats (low to high)" in page
    assert list(frame.columns)[1] == "low"  # the frame itself stays as it was


def test_columns_that_are_no_interval_stay() -> None:
    frame = pd.DataFrame({"low": [1.0], "high": [2.0], "n": [1]})
    assert html_table(frame).count("<td") == 3
    one_sided = pd.DataFrame({"x": [1.0], "x_low": [0.5], "n": [1]})
    assert html_table(one_sided).count("<td") == 3
    twice = pd.DataFrame([[1.0, 2.0, 3.0]], columns=["x", "low", "low"])
    assert html_table(twice).count("<td") == 3


@dataclass(frozen=True, kw_only=True, eq=False)
class Wide(Half):
    columns_shown = ("score", "n")

    def to_frame(self) -> pd.DataFrame:
        columns = {"n": 3, "score": 0.5, "score_low": 0.25, "score_high": 0.75, "other": 1}
        return pd.DataFrame([columns])


_KINDS.pop("Wide")


def test_a_wide_result_shows_chosen_columns_and_says_so() -> None:
    page = Wide()._repr_html_()
    assert page.index("score<") < page.index("n<")
    assert "0.5 (0.25 to 0.75)" in page
    assert "other" not in page
    assert "to_frame() has all 5 columns" in page
    assert "has all" not in Half()._repr_html_()


def test_a_table_ends_at_the_width_of_a_page_and_says_so() -> None:
    page = html_table(pd.DataFrame([{f"c{i}": i for i in range(20)}]))
    assert page.count("<td") == 14
    assert "20 columns, the first 14 shown" in page


def test_spaces_at_the_ends_of_a_cell_are_seen() -> None:
    page = html_table(pd.DataFrame({"token": [" the", "a b ", " ", "", "plain"]}))
    for told in (">␣the<", ">a b␣<", ">␣<", ">plain<"):
        assert told in page


def test_a_control_is_not_told_twice() -> None:
    page = Half(controls=Controls({"first_one": 2.0}))._repr_html_()
    assert page.count("first one") == 1
    assert "Half(first_one 2;" in repr(Half(controls=Controls({"first_one": 2.0})))
    assert Half(controls=Controls({"first_one": 3.0}))._repr_html_().count("first one") == 2


def test_names_with_a_measure_at_their_end_are_read_as_words() -> None:
    from lensbench.words import spelled

    assert spelled("layers_at_0.95_softmax_max") == "layers at 0.95 largest probability"
    assert spelled("pred_speedup_serial") == "predicted speedup serial"


def test_a_unit_does_not_say_its_column_again() -> None:
    frame = pd.DataFrame({"kl_to_final": [1.0], "n": [2]})
    from lensbench.words import spelled

    name = spelled("kl_to_final")
    frame.attrs["units"] = {"kl_to_final": f"{name} [nats]", "n": "texts"}
    page = html_table(frame)
    assert page.count(name) == 1
    assert ">nats<" in page
    assert ">texts<" in page
