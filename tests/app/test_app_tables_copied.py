"""Tables that only a long calculation fills: the code copied from them gives the same table.

The other tables are in ``test_app_tables``; these need a job, an evaluation with the quality suite,
or a captured mixture of experts first.
"""

import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.app.test_app_figures import RUN, jobs_here, tiny
from tests.app.test_app_tables import Case, complaints, visit
from tests.app.tiny_root import make_root

__all__ = ["tiny"]
pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning")
DESK = {"model": "atlas-moe", "prompts": "desk:24", "part": "Rank and study"}


def wrong(case: Case, folder: Path, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """What is not offered of a case, or what the code makes otherwise."""
    seen = visit(case, folder, monkeypatch)
    monkeypatch.chdir(folder)
    return [f"{name}: {told}" for name in case.tables for told in complaints(seen.get(name))]


def test_the_methods_of_a_live_run(monkeypatch: pytest.MonkeyPatch, tiny: Any) -> None:
    jobs_here(monkeypatch)
    case = Case("acceleration", ("methods",), {"store": "own"}, press=("live",))
    assert not wrong(case, tiny.folder, monkeypatch)


def test_the_conditions_of_an_expert_study(monkeypatch: pytest.MonkeyPatch, tiny: Any) -> None:
    case = Case("experts", ("study-table",), DESK, press=("start-study",))
    assert not wrong(case, tiny.folder, monkeypatch)


def test_telling_the_errors_of_a_model(monkeypatch: pytest.MonkeyPatch, tiny: Any) -> None:
    """The bundled model makes none on its own prompts, so that some answers are called wrong."""
    from lensbench.probes.hd.study_result import HDStudy

    init = HDStudy.__init__

    def some_wrong(self: Any, *, right: np.ndarray, **fields: Any) -> None:
        init(self, right=right & (np.arange(len(right)) % 3 > 0), **fields)

    monkeypatch.setattr(HDStudy, "__init__", some_wrong)
    case = Case("hyper", ("flags",), {"model": "atlas-dense"})
    assert not wrong(case, tiny.folder, monkeypatch)


def test_a_measure_of_the_quality_suite(
    monkeypatch: pytest.MonkeyPatch, small_root: Path, tmp_path: Path
) -> None:
    from lensbench import results, saes
    from lensbench.app.workflows.fronts import evaluated

    shutil.copytree(small_root / RUN, tmp_path / RUN)
    held: Any = evaluated(tmp_path / RUN)
    rng = np.random.default_rng(0)
    x = rng.normal(size=(800, 8))
    truth = {"first": x[:, 0] > 0.5, "second": x[:, 1] > 0.5}
    found = saes.absorption(np.maximum(x, 0), saes.label_rows(truth), x, np.eye(8))
    suite = {"absorption": dict.fromkeys(held.names, found)}
    replace(held, suite=suite).save(tmp_path / RUN / "evaluation")
    assert results.load(tmp_path / RUN / "evaluation")
    case = Case("sweep", ("suite-absorption",), {"run": RUN})
    assert not wrong(case, tmp_path, monkeypatch)


def test_the_experts_of_a_stored_token(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    sites = ["blocks.*.router.indices", "blocks.*.router.weights"]
    root = make_root(tmp_path, kind="mixtral", profile="resid", sites=sites, run=False)
    store = str(Path(root.url).relative_to(tmp_path))
    case = Case("token", ("token-experts", "check-expert"), {"store": store, "row": "17"},
                press=("verify-expert",))  # fmt: skip
    assert not wrong(case, tmp_path, monkeypatch)
