"""Shared fixtures. Product packages are imported inside them, so shape checking can hook in."""

import os
from pathlib import Path

import pytest
from hypothesis import settings

os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
os.environ.pop("COLUMNS", None)  # pytest-xdist gives its workers one, and answers would keep to it

# Machines are shared: how long one example takes says nothing about the code.
settings.register_profile("lensbench", deadline=None)
settings.load_profile("lensbench")


def pytest_configure(config: pytest.Config) -> None:
    """Triton chooses between its interpreter and its compiler when it is first imported."""
    if "not gpu" in config.option.markexpr:
        os.environ.setdefault("TRITON_INTERPRET", "1")


@pytest.fixture(scope="session", autouse=True)
def _one_thread() -> None:
    import torch

    torch.set_num_threads(1)


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """Real models and text made by others; tests that need them skip where they are absent."""
    default = Path(__file__).resolve().parents[2] / "shared" / "data"
    folder = Path(os.environ.get("LENSBENCH_SHARED", default))
    if not (folder / "story-llama" / "config.json").is_file():
        pytest.skip(f"no shared data at {folder} (set LENSBENCH_SHARED)")
    return folder
