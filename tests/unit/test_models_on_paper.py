"""Sites are read off a config alone, and a wrong one is refused before any weight is read."""

import shutil
from pathlib import Path

import pytest

from lensbench.errors import MissingDataError, UnknownSiteError
from lensbench.models.on_paper import sites_on_paper
from tests.helpers import tiny
from tests.zoo import ZOO

KINDS = ("llama", "gpt2", *ZOO)


@pytest.mark.parametrize("kind", KINDS)
def test_the_sites_of_a_config_are_those_of_the_model(kind: str, tmp_path: Path) -> None:
    import lensbench

    module = tiny(kind)
    module.config.save_pretrained(tmp_path)
    assert [p.suffix for p in tmp_path.iterdir()] == [".json"], "there is no weight to open"
    assert sites_on_paper(str(tmp_path)) == lensbench.load_model(module, certify=False).sites()


def test_what_is_no_model_is_left_to_the_loader(tmp_path: Path) -> None:
    assert sites_on_paper("owner/name") is None
    assert sites_on_paper(str(tmp_path)) is None
    (tmp_path / "config.json").write_text('{"some": "other config"}')
    assert sites_on_paper(str(tmp_path)) is None
    with pytest.raises(MissingDataError, match="no revision 'nowhere'"):
        sites_on_paper("atlas-dense", "nowhere")


@pytest.mark.parametrize("command", ["capture", "train"])
def test_an_unknown_site_is_refused_before_the_weights(command: str, tmp_path: Path) -> None:
    from lensbench.app.workflows import capturing, training
    from lensbench.models.disk import bundled_models

    folder = tmp_path / "model"
    shutil.copytree(bundled_models()["atlas-dense"], folder)
    for file in folder.glob("*.safetensors"):
        file.write_bytes(b"damaged")  # opening it would be an error of another kind

    def ask(site: str) -> None:
        if command == "capture":
            capturing.capture_text(str(folder), "atlas:2", out=tmp_path / "out", sites=[site])
        else:
            asked = {"model": str(folder), "text": "atlas:2", "out": tmp_path / "out"}
            training.train_sweep(training.TrainRequest(**asked, sites=(site,)))

    with pytest.raises(UnknownSiteError, match=r"layers 0\.\.5.*Did you mean 'blocks\.5\.resid_po"):
        ask("blocks.9.resid_post")
    assert not (tmp_path / "out").exists()
    with pytest.raises(Exception, match="damaged"):  # control: a known site gets to the weights
        ask("blocks.3.resid_post")


def test_many_sites_are_listed_once_and_few_one_by_one() -> None:
    many = [f"blocks.{i}.{n}" for i in range(20) for n in ("resid_pre", "resid_post")]
    said = str(UnknownSiteError("blocks.7.resid_pst", known=many))
    assert "blocks.<L>.resid_pre, blocks.<L>.resid_post (layers 0..19)" in said
    assert "Did you mean 'blocks.7.resid_post'?" in said
    few = [f"blocks.{i}.resid_post" for i in (1, 3)]
    assert "known: blocks.1.resid_post, blocks.3.resid_post." in str(
        UnknownSiteError("blocks.2.resid_post", known=few))  # fmt: skip
