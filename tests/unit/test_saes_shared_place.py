"""A dictionary that is shared does not say where its model lies on the machine it was made on."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from lensbench import saes
from lensbench.saes.sae import SAE

PLACES = [("/home/one/models/mine", "mine"), ("C:\\one\\mine", "mine"), ("org/name", "org/name"),
          ("atlas-dense", "atlas-dense")]  # fmt: skip


def relu(source: str) -> SAE:
    torch.manual_seed(0)
    return SAE(
        W_enc=torch.randn(4, 6), b_enc=torch.zeros(6), W_dec=torch.randn(6, 4),
        b_dec=torch.zeros(4), activation="relu",
        metadata={"site": "blocks.0.resid_post", "hook_name": "blocks.0.hook_resid_post",
                  "model": {"name": "mine", "source": source, "fingerprint": "0123"}},
    )  # fmt: skip


@pytest.mark.parametrize("form", ["sae_lens", "lensbench", "dictionary_learning", "llamascopium"])
@pytest.mark.parametrize(("source", "kept"), PLACES)
def test_names_are_kept_and_places_are_not(
    tmp_path: Path, form: Any, source: str, kept: str
) -> None:
    sae = relu(source)
    folder = saes.save(sae, tmp_path / "shared", format=form)
    model = saes.load(folder).metadata["model"]
    assert model == {"name": "mine", "source": kept, "fingerprint": "0123"}
    told = b"".join(path.read_bytes() for path in folder.rglob("*") if path.is_file())
    assert b"/home" not in told
    assert b"C:" not in told
    assert sae.metadata["model"]["source"] == source  # that in memory is as it was


def test_a_run_keeps_the_place_for_its_own_machine_and_leaves_it_behind_on_the_way_to_the_hub(
    tmp_path: Path,
) -> None:
    from lensbench.provenance import record
    from lensbench.saes.hub import _write
    from lensbench.saes.runs import SAERun

    sae = relu("/home/one/models/mine")
    made = record(model=sae.metadata["model"], seconds=0.0)
    run = SAERun.of(sae, name="a", site="blocks.0.resid_post", status="finished",
                    provenance=made, folder="/home/one/run")  # fmt: skip
    own = run.save(tmp_path / "own")
    assert saes.load(own).metadata["model"]["source"] == "/home/one/models/mine"
    _write(run, tmp_path / "hub", "lensbench")
    told = b"".join(p.read_bytes() for p in (tmp_path / "hub").rglob("*") if p.is_file())
    assert b"/home/one" not in told
    assert b"mine" in told
    _write(replace(run), tmp_path / "other", "sae_lens")
    assert b"/home/one" not in (tmp_path / "other" / "cfg.json").read_bytes()
