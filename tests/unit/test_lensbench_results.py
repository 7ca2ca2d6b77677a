from dataclasses import dataclass

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from lensbench import results
from lensbench.errors import DamagedDataError, MissingDataError, UnknownNameError
from lensbench.provenance import record
from lensbench.results import Controls, Result


@dataclass(frozen=True, kw_only=True, eq=False)
class Sample(Result):
    values: np.ndarray
    name: str = ""
    extra: dict | None = None
    pair: tuple[float, float] = (0.0, 1.0)


ARRAYS = hnp.arrays(
    st.sampled_from([np.float32, np.int64, np.bool_]), hnp.array_shapes(max_dims=3, max_side=4)
)


@given(
    ARRAYS,
    st.text(max_size=5),
    st.floats(),
    st.dictionaries(st.text(max_size=3), st.integers(), max_size=3),
)
def test_save_and_load_give_back_an_equal_object(
    tmp_path_factory, values, name, number, extra
) -> None:
    folder = tmp_path_factory.mktemp("result")
    sample = Sample(
        values=values,
        name=name,
        extra=extra,
        pair=(number, 1.0),
        config={"k": [1, 2]},
        provenance=record(seed=3),
        controls=Controls({"shuffled": 0.5}, "note"),
    )
    assert results.load(sample.save(folder)) == sample


def test_another_value_is_not_equal() -> None:
    one, two = Sample(values=np.zeros(2)), Sample(values=np.ones(2))
    assert one != two
    assert one == Sample(values=np.zeros(2))
    assert one != Sample(values=np.zeros(2, dtype=np.float32))


def test_results_hold_results(tmp_path) -> None:
    inner = Sample(values=np.arange(3))
    outer = Sample(values=np.zeros(1), extra={"inner": inner})
    assert results.load(outer.save(tmp_path)) == outer


def test_damage_is_found_and_named(tmp_path) -> None:
    folder = Sample(values=np.arange(6.0)).save(tmp_path / "r")
    arrays = folder / "arrays.safetensors"
    data = bytearray(arrays.read_bytes())
    data[-1] ^= 1
    arrays.write_bytes(bytes(data))
    with pytest.raises(DamagedDataError, match="altered"):
        results.load(folder)
    arrays.write_bytes(bytes(data[:20]))
    with pytest.raises(DamagedDataError, match="truncated"):
        results.load(folder)
    (folder / "result.json").write_text("{")
    with pytest.raises(DamagedDataError, match="not valid JSON"):
        results.load(folder)
    with pytest.raises(MissingDataError):
        results.load(tmp_path / "none")


def test_unknown_kinds_and_unsavable_fields(tmp_path) -> None:
    folder = Sample(values=np.zeros(1)).save(tmp_path / "r")
    text = (folder / "result.json").read_text()
    (folder / "result.json").write_text(text.replace('"Sample"', '"Simple"'))
    with pytest.raises(UnknownNameError, match="Did you mean 'Sample'"):
        results.load(folder)
    with pytest.raises(TypeError, match="cannot save"):
        Sample(values=np.zeros(1), extra={"x": object()}).save(tmp_path / "s")


def test_no_controls_says_so() -> None:
    assert str(Controls()) == "uncontrolled"
    assert "shuffled 0.500" in str(Controls({"shuffled": 0.5}))


def test_a_result_is_found_without_importing_its_module_first(tmp_path) -> None:
    import subprocess
    import sys

    from lensbench.saes.evaluation.implants import ImplantRecovery  # any lazily imported kind

    assert ImplantRecovery.kind == "ImplantRecovery"
    io_json = '{"kind": "ImplantRecovery", "module": "%s", "schema": 1, "arrays_sha256": "",'
    io_json += ' "fields": {}}'
    (tmp_path / "result.json").write_text(io_json % ImplantRecovery.__module__)
    code = f"from lensbench import results; results.load({str(tmp_path)!r})"
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert "missing" in out.stderr  # the class was found; only its fields are not there
    (tmp_path / "result.json").write_text(io_json % "os.path")
    results._KINDS.pop("ImplantRecovery")
    with pytest.raises(UnknownNameError):
        results.load(tmp_path)
    results._KINDS["ImplantRecovery"] = ImplantRecovery


def test_counts_are_told_in_all_their_digits() -> None:
    from lensbench.results import number

    assert number(251_831.0) == "251831"
    assert [number(x) for x in (0.123456, float("nan"), float("inf"), 1e12)] == [
        "0.1235", "undefined", "inf", "1e+12"
    ]  # fmt: skip
