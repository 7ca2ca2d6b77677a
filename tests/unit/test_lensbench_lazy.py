"""Lazy names of a package."""

import subprocess
import sys

import pytest


def test_a_name_of_ours_is_ours_although_nnsight_mounts_save_on_every_object() -> None:
    code = """
import nnsight
from lensbench import saes
from lensbench.saes import formats
assert (5).save is not None  # nnsight's, on every object of the process
assert saes.save is formats.save
print("ours")
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.stdout == "ours\n", done.stderr


def test_names_are_loaded_set_and_refused_like_those_of_any_module(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    from lensbench import saes
    from lensbench.saes.architectures import TopKConfig

    assert saes.TopKConfig is TopKConfig
    assert "TopKConfig" in dir(saes)
    monkeypatch.setattr(saes, "TopKConfig", 5)
    assert saes.TopKConfig == 5
    with pytest.raises(AttributeError, match="has no attribute 'TopK'"):
        _ = saes.TopK
