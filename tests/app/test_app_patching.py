"""``lensbench patch`` and the page Patching: the same request, the same numbers, slips in words."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.app.driver import open_page, words
from tests.app.tiny_root import values

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning")


def run(*args: object) -> int:
    from lensbench.app.cli import main

    return main([str(a) for a in args])


@pytest.fixture(scope="module")
def expected() -> Any:
    import lensbench
    from lensbench import interventions, prompts

    model = lensbench.load_model("atlas-dense", certify=False)
    pairs = prompts.recall(model, n=6)
    return interventions.patch_sweep(model, pairs, "attn.z", positions="together", layers=[0, 1])


def test_the_command_gives_the_numbers_of_the_library(expected, capsys, tmp_path: Path) -> None:
    import lensbench

    out = tmp_path / "result"
    code = run("patch", "recall", "--n", 6, "--sites", "attn.z", "--positions", "together",
               "--layers", "0-1", "--out", out, "--json")  # fmt: skip
    answer = json.loads(capsys.readouterr().out)
    assert code == 0
    assert answer["top"][0]["effect"] == pytest.approx(expected.top(1)["effect"][0], abs=1e-6)
    assert answer["top"][0]["head"] == 3
    assert answer["controls"]["random_patch"] < 0.2
    assert lensbench.results.load(out).values == pytest.approx(expected.values, abs=1e-6)


def test_ablations_and_files_of_pairs(capsys, tmp_path: Path) -> None:
    import lensbench
    from lensbench import prompts

    model = lensbench.load_model("atlas-dense", certify=False)
    pairs = prompts.recall(model, n=4)
    file = tmp_path / "pairs.json"
    file.write_text(pairs.to_json())
    code = run("patch", "--pairs", file, "--how", "zero", "--sites", "mlp_out", "--json")
    answer = json.loads(capsys.readouterr().out)
    assert code == 0
    assert answer["intervention"] == "zero"
    assert answer["prompts"] == 4
    assert answer["top"][0]["effect"] < 0.9


def test_a_subspace_comes_from_a_file(capsys, tmp_path: Path) -> None:
    from lensbench.io import write_arrays

    rng, site = np.random.default_rng(0), "blocks.1.resid_pre"
    where = ("patch", "recall", "--n", 4, "--layers", 1, "--positions", "value", "--json")
    whole, effects = tmp_path / "whole.safetensors", []
    write_arrays(whole, {"directions": rng.standard_normal((128, 128)).astype("float32")})
    write_arrays(tmp_path / "f" / "arrays.safetensors", {site: np.eye(128, dtype="float32")[:3]})
    for more in ((), ("--subspace", whole), ("--subspace", tmp_path / "f")):
        assert run(*where, *more) == 0
        answer = json.loads(capsys.readouterr().out)
        effects.append(answer["top"][0]["effect"])
    assert effects[1] == pytest.approx(effects[0], abs=1e-4)
    assert abs(effects[2]) < 0.5  # control: three of 128 axes
    assert answer["subspace"][site]["k"] == 3
    write_arrays(tmp_path / "named.safetensors", {"basis": np.eye(128, dtype="float32")})
    for file, code, said in (("named", 2, "'directions'"), ("none", 3, "none.safetensors")):
        assert run(*where, "--subspace", tmp_path / f"{file}.safetensors") == code
        assert said in capsys.readouterr().err


@pytest.mark.parametrize(
    ("args", "said"),
    [
        (["recal"], "Did you mean 'recall'"),
        (["recall", "--how", "denois"], "Did you mean 'denoise'"),
        (["recall", "--sites", "resid_prex"], "resid_pre"),
        (["recall", "--layers", "0,x"], "'x'"),
        (["recall", "--positions", "valu"], "value"),
        (["recall", "--metric", "logits"], "logit_diff"),
        (["--pairs", "nowhere.json"], "nowhere.json"),
    ],
)
def test_slips_are_named_without_a_traceback(args: list[str], said: str, capsys) -> None:
    assert run("patch", *args, "--n", 4) == 2
    told = capsys.readouterr().err
    assert said in told
    assert "Traceback" not in told


def test_the_page_draws_the_sweep_with_its_control(monkeypatch, tmp_path: Path) -> None:
    import lensbench
    from lensbench import interventions, prompts

    page = open_page(monkeypatch, tmp_path, "patching", model="atlas-dense", task="recall")
    assert not page.exception
    model = lensbench.load_model("atlas-dense", certify=False)
    made = interventions.patch_sweep(model, prompts.recall(model, n=32), "resid_pre")
    spec = json.loads(page.get("plotly_chart")[0].proto.spec)
    drawn = np.asarray(values(spec["data"][0]["z"]), dtype=float).reshape(6, -1)
    assert drawn == pytest.approx(made.effect.reshape(6, -1), abs=1e-4)
    assert "random patch" in words(page)
    assert "lensbench patch recall" in " ".join(c.value for c in page.code)


def test_the_page_asks_for_a_model_first(monkeypatch, tmp_path: Path) -> None:
    page = open_page(monkeypatch, tmp_path, "patching")
    assert not page.exception
    assert "Choose a model" in words(page)


@pytest.fixture(scope="module")
def uneven() -> Any:
    """Pairs of several wordings, of which some lack a token that others have."""
    import lensbench
    from lensbench import interventions, prompts

    model = lensbench.load_model("atlas-dense", certify=False)
    return interventions.patch_sweep(model, prompts.agreement(model, n=32), "resid_pre")


def test_baselines_are_of_the_pairs_that_have_the_place(uneven: Any) -> None:
    some = np.isfinite(uneven.values).sum(1)
    place = int(some.argmin())
    there = np.isfinite(uneven.values[place])
    assert 0 < there.sum() < uneven.n
    frame = uneven.beside(place).set_index("run")
    assert (frame["n"] == there.sum()).all()
    for run, of in (("clean", uneven.clean), ("corrupted", uneven.corrupted)):
        assert frame["value"][run] == pytest.approx(of[there].mean())
        assert frame["value"][run] != pytest.approx(of.mean()), "control: all pairs are others"
    own, clean, corrupted = (frame["value"].iloc[i] for i in (-1, 0, 1))
    assert (own - corrupted) / (clean - corrupted) == pytest.approx(uneven.effect[place])


def test_the_page_says_n_by_place_and_what_the_effect_is(
    monkeypatch, tmp_path: Path, uneven: Any
) -> None:
    some = np.isfinite(uneven.values).sum(1)
    place = f"block 5, {uneven.position[int(some.argmin())]}"
    page = open_page(monkeypatch, tmp_path, "patching", model="atlas-dense", task="agreement",
                     place=place)  # fmt: skip
    assert not page.exception
    n = f"n = {some.min()} to {some.max()} prompt pairs, by place"
    assert n in words(page)
    tops = [json.loads(c.proto.spec)["layout"]["title"] for c in page.get("plotly_chart")]
    said = [top["subtitle"]["text"].replace("<br>", " ") for top in tops]
    assert "logit difference: (patched - corrupted) / (clean - corrupted)" in said[0]
    assert n in said[0]
    assert f"n = {some.min()} pairs of {some.max()}" in said[1]
