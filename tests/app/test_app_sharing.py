"""Sharing a dictionary from the page Runs: written as a job, shown with checksums, not replaced."""

import shutil
from pathlib import Path

import pytest

from lensbench import io
from lensbench.app.workflows import detached, jobs, sharing, work
from tests.app.driver import open_page, words

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning")


@pytest.fixture
def root(monkeypatch, small_root: Path, tmp_path: Path) -> Path:
    """A root of its own, in which jobs run at once in this process."""
    shutil.copytree(small_root, tmp_path / "root")
    monkeypatch.setattr(work.signal, "signal", lambda *_: None)
    monkeypatch.setattr(detached, "start", lambda _, folder, **__: work.main(folder))
    return tmp_path / "root"


def test_a_button_shares_and_says_where_what_and_how_to_open_it(monkeypatch, root: Path) -> None:
    import sae_lens
    import torch

    from lensbench import saes

    page = open_page(monkeypatch, root, "runs", run="runs/small")
    page.button(key="start-share").click().run()
    assert not page.exception
    [job] = jobs.all_jobs(root, "share")
    assert job.state == "finished"
    [out] = (root / "shared").iterdir()
    said = words(page)
    assert str(out) in said.splitlines()
    assert f"SAE.load_from_disk({str(out)!r})" in said
    files = next(d.value for d in page.dataframe if "sha256" in d.value)
    assert dict(zip(files["file"], files["sha256"], strict=True)) == {
        name: io.sha256_file(out / name) for name in ("cfg.json", "sae_weights.safetensors")
    }
    trained = next(one for one in saes.open_runs(root / "runs" / "small") if one.name == out.name)
    rows = torch.randn(8, 128, generator=torch.Generator().manual_seed(0))
    theirs = sae_lens.SAE.load_from_disk(str(out))
    assert torch.allclose(theirs.decode(theirs.encode(rows)),
                          trained.sae.decode(trained.sae.encode(rows)), atol=1e-4)  # fmt: skip


def test_what_was_shared_stays_and_another_name_is_offered(monkeypatch, root: Path) -> None:
    page = open_page(monkeypatch, root, "runs", run="runs/small")
    page.button(key="start-share").click().run()
    [first] = (root / "shared").iterdir()
    before = {path.name: path.read_bytes() for path in first.iterdir()}
    free = f"{first.name}-2"
    assert page.text_input(key=f"share-out-{free}").value == free
    page.text_input(key=f"share-out-{free}").set_value(first.name).run()
    assert f"such as '{free}'" in words(page).replace("\\", "")
    assert not [b for b in page.button if b.key == "start-share"]
    assert before == {path.name: path.read_bytes() for path in first.iterdir()}
    page.text_input(key=f"share-out-{free}").set_value("mine").run()
    page.button(key="start-share").click().run()
    assert (root / "shared" / "mine" / "cfg.json").is_file()
    assert len(sharing.all_shared(root)) == 2


@pytest.mark.parametrize("name", ["../out", "a/b", "", ".hidden", "a b"])
def test_a_name_that_is_no_folder_below_is_refused(root: Path, name: str) -> None:
    from lensbench.errors import ConfigError

    with pytest.raises(ConfigError, match="cannot name a folder"):
        sharing.settings(root, root / "runs" / "small", "a", "sae_lens", name)


def test_sums_of_others_and_links_are_left_alone(root: Path, tmp_path: Path) -> None:
    for name, text in (("theirs", "what\n"), ("list", "# [1]\n"), ("empty", "")):
        (root / "shared" / name).mkdir(parents=True)
        (root / "shared" / name / "SHA256SUMS").write_text(text)
    (root / "shared" / "link").symlink_to(tmp_path)
    assert [one.about for one in sharing.all_shared(root)] == [{}, {}, {}]
    assert sharing.shared_folders(root, root / "runs" / "small", "a") == []


def test_the_work_stands_where_it_was_asked_for(monkeypatch, root: Path) -> None:
    monkeypatch.setattr(detached, "start", lambda *_, **__: None)
    page = open_page(monkeypatch, root, "runs", run="runs/small")
    page.checkbox(key="again").check().run()
    page.button(key="start-evaluate").click().run()
    page.button(key="start-share").click().run()
    inside = {e.label: words(e).replace("\\", "") for e in page.expander}
    assert "Evaluate: runs/small" in inside["Evaluate"]
    assert "Share: " in inside["Share a dictionary"]
    assert "Evaluate: " not in inside["Share a dictionary"]
