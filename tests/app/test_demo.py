"""``lensbench demo``: within its budget, with every part it promises."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest


def test_the_demo_is_a_sweep_of_eight_at_most_1024_wide_and_half_a_million_tokens() -> None:
    from lensbench.app.workflows import demo

    sweep = demo.demo_sweep(250_000, seed=3)
    dictionaries = sweep.expand()
    assert len(dictionaries) == 8
    assert max(d.d_sae for d in dictionaries) == 1024
    assert {d.kind() for d in dictionaries} == {"topk", "batchtopk", "relu"}
    assert {d.seed for d in dictionaries} == {3}
    assert sweep.train.tokens <= demo.MAX_TOKENS == 500_000


@pytest.mark.slow
def test_the_demo_runs_small_and_goes_on_where_it_was(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "lensbench", "demo", "--out", str(tmp_path / "d"),
               "--tokens", "8192", "--json"]  # fmt: skip
    done = subprocess.run(command, capture_output=True, text=True, check=False,
                          env={**os.environ, "OMP_NUM_THREADS": "1"})  # fmt: skip
    assert done.returncode == 0, done.stderr
    facts = json.loads(done.stdout)
    assert len(facts["dictionaries"]) == 8
    assert facts["peak_memory_gib"] < 3
    assert "reinitialised twin" in facts["controls"]
    jobs = {row["package"]: row["job"] for row in facts["packages"]}
    assert set(jobs) == {"torch", "transformers", "transformer-lens", "nnsight", "sae-lens",
                         "plotly", "streamlit"}  # fmt: skip
    for peer in ("transformer-lens", "nnsight", "sae-lens"):
        gap, largest = (
            jobs[peer].split("largest difference ")[1].rstrip(")").split(" (values up to ")
        )
        assert float(gap) <= 1e-5 * float(largest), jobs[peer]  # fp32 sums in another order
    html = Path(facts["report"]).read_text()
    for words in ("CE recovered", "while training", "Logit lens", "writes towards", "Provenance"):
        assert words in html
    again = subprocess.run(command, capture_output=True, text=True, check=True)
    assert json.loads(again.stdout)["seconds_by_step"]["train"] < facts["seconds_by_step"]["train"]
