"""A folder such as a user has: a captured store, and a run of two dictionaries, evaluated."""

from pathlib import Path

import pytest

SITE = "blocks.3.resid_post"
RUN, STORE = "runs/small", "acts"


@pytest.fixture(scope="session", autouse=True)
def _as_the_server_is_set() -> None:
    """No full garbage collection after each run of a page, as ``lensbench app`` has it."""
    from streamlit import config

    from lensbench.app.cli.page import SETTINGS

    assert "--runner.postScriptGC=false" in SETTINGS
    config.set_option("runner.postScriptGC", False)


@pytest.fixture(autouse=True)
def _time_enough(monkeypatch: pytest.MonkeyPatch) -> None:
    """Pages do at once what is quick on a quiet machine, however busy this one is."""
    from lensbench.app.workflows import effort

    monkeypatch.setattr(effort, "AT_ONCE", 60.0)


@pytest.fixture(scope="session")
def small_root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Made once per worker; tests that change something copy it first."""
    from lensbench import capture, saes
    from lensbench.app.workflows.evaluation import evaluate_all
    from lensbench.app.workflows.models import open_model
    from lensbench.saes.configs import SweepConfig
    from lensbench.saes.evaluation.evaluate import EvaluationConfig
    from lensbench.worlds.atlas import Atlas

    root = tmp_path_factory.mktemp("root")
    model = open_model("atlas-dense", certify=False)
    store = capture(model, Atlas(0).sample(150, "all", 0), sites=[SITE], out=root / STORE)
    sweep = SweepConfig.parse(
        {
            "source": {"store": str(root / STORE)},
            "train": {"tokens": 4096, "batch": 256, "log_every": 2},
            "sweep": [{"architecture": "topk", "d_sae": 64, "k": [4, 8], "site": SITE}],
        }
    )
    runs = saes.train(store, sweep, out=root / RUN, progress=False, model_card=store.model)
    config = EvaluationConfig(max_tokens=2000, ce_sequences=8)
    evaluate_all(root / RUN, runs, store, model, config)
    return root
