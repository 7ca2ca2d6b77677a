"""Up to and down from the hub through its own client, against a stand-in on this machine."""

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from tests.hub_server import TOKEN, Hub
from tests.unit.test_saes_training import Source, _sweep, _train


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Hub]:
    from huggingface_hub import constants

    server = Hub()
    monkeypatch.setattr(constants, "ENDPOINT", server.url)
    monkeypatch.setattr(
        constants,
        "HUGGINGFACE_CO_URL_TEMPLATE",
        server.url + "/{repo_id}/resolve/{revision}/{filename}",
    )
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(constants, "HF_TOKEN_PATH", str(tmp_path / "no-token"))
    monkeypatch.setenv("HF_TOKEN", TOKEN)
    yield server
    server.shutdown()
    server.server_close()


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> list[Any]:
    folder = tmp_path_factory.mktemp("hub") / "run"
    return _train(Source(), _sweep(steps=8), out=folder, model_card={"name": "EleutherAI/tiny"})


def _equal(a: Any, b: Any) -> bool:
    x = torch.randn(20, a.d_model, generator=torch.Generator().manual_seed(5))
    return bool(torch.equal(a.encode(x), b.encode(x)) and torch.equal(a(x), b(x)))


def _near(a: Any, b: Any) -> None:
    x = torch.randn(20, a.d_model, generator=torch.Generator().manual_seed(5))
    torch.testing.assert_close(a.encode(x), b.encode(x), rtol=0, atol=1e-5)
    torch.testing.assert_close(a(x), b(x), rtol=0, atol=1e-5)


def test_a_sweep_goes_up_with_its_card_and_comes_down_the_same(hub: Hub, runs: list[Any]) -> None:
    from lensbench import results, saes

    url = saes.push_to_hub(runs, "me/mine")
    assert url.startswith(f"{hub.url}/me/mine/commit/")
    assert hub.commits == 1  # all or nothing
    files = hub.repos["me/mine"]["main"]
    assert {p for p in files if "/" not in p} == {"README.md"}
    assert [p for p in files if p.endswith((".pt", ".pkl", ".bin"))] == []
    for run in runs:
        assert _equal(saes.load(f"hf://me/mine/{run.name}"), run.sae)
        folder = saes.pull_from_hub(f"hf://me/mine/{run.name}")
        again = results.load(folder)
        assert again.summary() == run.summary()
        assert again.folder == ""  # where it lay on this machine is not told
        assert run.folder.encode() not in b"".join(files.values())
    assert not _equal(saes.load(f"hf://me/mine/{runs[1].name}"), runs[0].sae)  # control
    card = files["README.md"].decode()
    assert "base_model:\n- EleutherAI/tiny" in card
    for run in runs:
        row = next(line for line in card.splitlines() if f"`{run.name}`" in line)
        for told in (run.site, f"{run.summary()['l0']:.4g}", f"{run.summary()['fvu']:.4g}"):
            assert told in row
    assert "means over the last" in card
    assert f"saes.load('hf://me/mine/{runs[0].name}')" in card


@pytest.mark.parametrize(
    "format", ["lensbench", "sae_lens", "dictionary_learning", "sparsify", "llamascopium"]
)
def test_one_dictionary_lies_at_the_top_in_every_format(
    format: Any, hub: Hub, runs: list[Any]
) -> None:
    from lensbench import saes

    saes.push_to_hub(runs[0], "me/one", format=format)
    assert ("result.json" in hub.repos["me/one"]["main"]) == (format == "lensbench")
    asked = {"format": format} if format == "dictionary_learning" else {}
    again = saes.load("hf://me/one", **asked)
    if format == "llamascopium":  # its encoder reads x, so that the bias is summed anew
        _near(again, runs[0].sae)
    else:
        assert _equal(again, runs[0].sae)


@pytest.mark.parametrize("format", ["gemma_scope", "openai"])
def test_a_dictionary_of_one_file_goes_up_and_comes_down_with_its_site(
    format: Any, hub: Hub, runs: list[Any]
) -> None:
    from lensbench import saes
    from lensbench.errors import MissingDataError

    sae = replace(runs[3].sae, activation="relu", threshold=None)
    saes.push_to_hub(sae, "me/one", format=format)
    card = hub.repos["me/one"]["main"]["README.md"].decode()
    assert ("format='openai'" in card) == (format == "openai")
    if format == "openai":  # a torch file comes only where it is named
        with pytest.raises(MissingDataError, match=r"name its \.pt file .*autoencoder\.pt"):
            saes.load("hf://me/one")
    again = saes.load("hf://me/one", format=format)
    _near(again, sae)
    assert again.site == sae.site is not None


def test_torch_files_come_only_where_they_are_named_and_run_nothing(
    hub: Hub, runs: list[Any], tmp_path: Path
) -> None:
    import pickle

    from lensbench import saes
    from lensbench.errors import DamagedDataError, MissingDataError

    saes.push_to_hub(runs[0], "me/one", format="dictionary_learning")
    with pytest.raises(MissingDataError, match=r"no dictionary in .*name its \.pt file .*ae\.pt"):
        saes.load("hf://me/one")
    assert not [line for line in hub.asked if line.endswith("ae.pt")]
    assert _equal(saes.load("hf://me/one/ae.pt"), runs[0].sae)

    class Evil:
        def __reduce__(self) -> Any:
            return (Path.touch, (tmp_path / "ran",))

    hub.repos["me/one"]["main"]["ae.pt"] = pickle.dumps(Evil())
    with pytest.raises(DamagedDataError):
        saes.load("hf://me/one", format="dictionary_learning")
    assert not (tmp_path / "ran").exists()


def test_what_is_there_stays_unless_asked_otherwise(hub: Hub, runs: list[Any]) -> None:
    from lensbench import saes
    from lensbench.errors import ConfigError

    saes.push_to_hub(runs[0], "me/one")
    hub.repos["me/one"]["main"]["README.md"] = b"written by hand"
    with pytest.raises(ConfigError, match=r"me/one has .*cfg\.json.*nothing was uploaded"):
        saes.push_to_hub(runs[1], "me/one")
    assert hub.commits == 1
    saes.push_to_hub(runs[:2], "me/one")  # into folders: beside what is there
    assert hub.repos["me/one"]["main"]["README.md"] == b"written by hand"
    assert _equal(saes.load("hf://me/one"), runs[0].sae)
    saes.push_to_hub(runs[1], "me/one", overwrite=True)
    assert _equal(saes.load("hf://me/one"), runs[1].sae)
    assert b"library_name: lensbench" in hub.repos["me/one"]["main"]["README.md"]


def test_revisions_private_repositories_and_the_cache(
    hub: Hub, runs: list[Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    from huggingface_hub import constants

    from lensbench import saes
    from lensbench.errors import ConfigError, MissingDataError

    saes.push_to_hub(runs[0], "me/one", private=True)
    assert hub.private["me/one"]
    saes.push_to_hub(runs[1], "me/one", revision="v2", overwrite=True)
    assert _equal(saes.load("hf://me/one"), runs[0].sae)
    assert _equal(saes.load("hf://me/one@v2"), runs[1].sae)
    with pytest.raises(MissingDataError, match="has no revision 'v3'"):
        saes.load("hf://me/one@v3")
    saes.push_to_hub(runs[0], "me/open")
    with pytest.raises(ConfigError, match="me/open is there and public, but private=True"):
        saes.push_to_hub(runs[0], "me/open", private=True, overwrite=True)
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    assert _equal(saes.load("hf://me/one"), runs[0].sae)  # from the cache
    with pytest.raises(MissingDataError, match="cannot be reached"):
        saes.load("hf://me/never")
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    monkeypatch.delenv("HF_TOKEN")
    monkeypatch.setattr(constants, "HF_HUB_CACHE", "/nonexistent/cache")
    with pytest.raises(MissingDataError, match=r"does not exist .or is private: log in"):
        saes.load("hf://me/one")


def test_refusals_of_the_hub_are_told_plainly(
    hub: Hub, runs: list[Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    from huggingface_hub import constants

    from lensbench import saes
    from lensbench.errors import BackendUnavailableError

    hub.forbidden.add("them")
    with pytest.raises(BackendUnavailableError, match=r"this account may not write there \(403\)"):
        saes.push_to_hub(runs[0], "them/theirs")
    monkeypatch.delenv("HF_TOKEN")
    with pytest.raises(BackendUnavailableError, match=r"nobody is logged in \(401\); log in with"):
        saes.push_to_hub(runs[0], "me/one")
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    with pytest.raises(BackendUnavailableError, match="cannot be reached"):
        saes.push_to_hub(runs[0], "me/one")
    assert hub.repos == {}


@pytest.mark.usefixtures("hub")
def test_several_dictionaries_need_a_path(runs: list[Any]) -> None:
    from lensbench import saes
    from lensbench.errors import MissingDataError

    saes.push_to_hub(Path(runs[0].folder).parent, "me/mine")  # a run folder
    with pytest.raises(MissingDataError) as caught:
        saes.load("hf://me/mine")
    assert all(run.name in str(caught.value) for run in runs)


def test_a_cache_laid_out_by_the_client_is_read_without_a_hub(
    runs: list[Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from huggingface_hub import constants

    from lensbench import saes

    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path))
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    commit, repo = "ab" * 20, tmp_path / "models--you--yours"
    saes.save(runs[2].sae, repo / "snapshots" / commit / "layer" / "a")
    (repo / "refs").mkdir()
    (repo / "refs" / "main").write_text(commit)
    assert _equal(saes.load("hf://you/yours/layer/a"), runs[2].sae)
    assert np.array_equal(saes.load(f"hf://you/yours/layer/a@{commit}").W_dec,
                          runs[2].weights["W_dec"])  # fmt: skip


@pytest.mark.parametrize(
    "name", ["hf://me", "hf://me/", "hf://me/a/../b", "hf://me/a@", "hf://me/a/b*", "hf:///a"]
)
def test_names_that_are_none(name: str) -> None:
    from lensbench import saes
    from lensbench.errors import ConfigError

    with pytest.raises(ConfigError, match=r"write hf://owner/name\[/path\]"):
        saes.load(name)


def test_what_cannot_be_uploaded_is_refused(runs: list[Any]) -> None:
    from lensbench import saes
    from lensbench.errors import ConfigError, MismatchError, UnknownNameError

    for bad in ([], [1], 5):
        with pytest.raises(ConfigError, match="pass an SAERun, several of them"):
            saes.push_to_hub(bad, "me/one")  # type: ignore[arg-type]
    with pytest.raises(ConfigError, match="several dictionaries have one name"):
        saes.push_to_hub([runs[0], runs[0]], "me/one")
    with pytest.raises(UnknownNameError, match="format for the hub"):
        saes.push_to_hub(runs[0], "me/one", format="gguf")  # type: ignore[arg-type]
    with pytest.raises(ConfigError, match="upload into owner/name"):
        saes.push_to_hub(runs[0], "me/one/folder")
    with pytest.raises(MismatchError):
        saes.push_to_hub(runs[3], "me/one", format="sparsify")  # only TopK is in that format


def test_the_command_line_pushes_and_pulls(
    hub: Hub, runs: list[Any], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    from lensbench import saes
    from lensbench.app.cli import main

    folder, name = str(Path(runs[0].folder).parent), runs[2].name

    def run(*line: str) -> int:
        return main(["runs", *line])

    assert run("push", folder, "me/mine", "--only", name, "--private") == 0
    assert hub.private["me/mine"]
    assert run("push", folder, "me/mine", "--only", name) == 2
    assert "Pass overwrite=True (--overwrite)" in capsys.readouterr().err
    assert run("push", folder, "me/mine", "--only", "nobody") == 2
    out = tmp_path / "here"
    assert run("pull", "hf://me/mine", "--out", str(out)) == 0
    assert _equal(saes.load(out), runs[2].sae)
    assert run("pull", "hf://me/mine", "--out", str(out)) == 2
    assert run("pull", "hf://me/other", "--out", str(tmp_path / "no")) == 3


@pytest.mark.parametrize(("format", "skip"), [("sparsify", True), ("sparsify", False),
                                              ("sae_lens", True), ("lensbench", True)])  # fmt: skip
def test_a_transcoder_of_the_hub_comes_down_with_both_its_sites(
    format: Any, skip: bool, hub: Hub, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Laid out as its owner lays it out: a folder per module, named after it."""
    from lensbench import saes
    from lensbench.app.cli import main

    gen = torch.Generator().manual_seed(0)
    shapes = {"W_enc": (8, 24), "b_enc": (24,), "W_dec": (24, 8), "b_dec": (8,), "W_skip": (8, 8)}
    tensors: dict[str, Any] = {
        n: torch.randn(s, generator=gen) for n, s in shapes.items() if skip or n != "W_skip"
    }
    kind: dict[str, Any] = {"activation": "topk", "k": 4}
    if format == "sae_lens":  # which has no TopK transcoders
        kind = {"activation": "relu"}
    ends = {"site": "blocks.3.mlp.in", "target": "blocks.3.mlp_out"}
    coder = saes.Transcoder(**tensors, **kind, metadata=ends)
    folder = saes.save(coder, tmp_path / "layers.3.mlp", format=format)
    files = {f"layers.3.mlp/{p.name}": p.read_bytes() for p in folder.iterdir()}
    if format == "sparsify":  # as its owner writes it, without our block
        import json

        told = json.loads(files["layers.3.mlp/cfg.json"])
        told.pop("lensbench")
        files["layers.3.mlp/cfg.json"] = json.dumps(told).encode()
    hub.repos["them/it"], hub.private["them/it"] = {"main": files}, False
    name, out = "hf://them/it/layers.3.mlp", tmp_path / "out"
    found = saes.load(name)
    assert isinstance(found, saes.Transcoder)
    assert (found.site, found.target) == ("blocks.3.mlp.in", "blocks.3.mlp_out")
    assert main(["runs", "pull", name, "--out", str(out)]) == 0
    assert "blocks.3.mlp.in>blocks.3.mlp_out" in capsys.readouterr().out
    x = torch.randn(20, 8, generator=gen)
    for again in (found, saes.load(out)):
        assert isinstance(again, saes.Transcoder)
        torch.testing.assert_close(again(x), coder(x), rtol=0, atol=1e-5)
        assert float((again(x) - coder(1.01 * x)).abs().max()) > 1e-3  # control
