"""Dictionaries of every architecture of SAELens, through its own ``from_pretrained``.

Same weights on both sides; codes and reconstructions agree to 1e-4 (float32, one or two matmuls of
64 terms of order 1; folding the decoder norm rounds once more). Releases lie in a folder; the hub
is not asked, or is out of reach on purpose.
"""

import json
from pathlib import Path
from typing import Any

import pytest
import torch

D, F, TOLERANCE = 24, 64, 1e-4
HOOK = "blocks.1.hook_resid_post"
META = {
    "hook_name": HOOK,
    "model_name": "gpt2-small",
    "prepend_bos": True,
    "context_size": 16,
    "neuronpedia_id": "gpt2-small/1-res-test",
    "dataset_path": "someone/text",
}
pytestmark = pytest.mark.filterwarnings("ignore")  # what sae_lens and its imports warn about


def _theirs(kind: str, **options: Any) -> Any:
    """A dictionary of SAELens with random weights, nothing at its default."""
    import sae_lens
    from sae_lens.registry import get_sae_class
    from sae_lens.saes.sae import SAEMetadata

    assert sae_lens.__version__
    cls, config = get_sae_class(kind)
    extra = {"k": 5} if "topk" in kind else {}
    if "transcoder" in kind:
        extra |= {"d_out": D, "apply_b_dec_to_input": False}
    if kind == "temporal":
        extra |= {"n_heads": 1, "bottleneck_factor": 8, "kval_topk": 4, "sae_diff_type": "topk"}
    torch.manual_seed(3)
    metadata = SAEMetadata(**(META | options.pop("metadata", {})))
    sae = cls(config(d_in=D, d_sae=F, **(extra | options), metadata=metadata))
    with torch.no_grad():
        for name, parameter in sae.named_parameters():
            parameter.copy_(0.4 * torch.randn_like(parameter))
            if name == "threshold":
                parameter.abs_()
    return sae


def _x(scale: float = 1.0) -> torch.Tensor:
    return scale * torch.randn(200, D, generator=torch.Generator().manual_seed(5))


def _release(folder: Path, kind: str = "jumprelu", **options: Any) -> Any:
    sae = _theirs(kind, **options)
    sae.save_model(folder / "layer_1" / "width_64")
    return sae


@pytest.mark.parametrize("kind", ["standard", "topk", "jumprelu", "gated"])
@pytest.mark.parametrize("centred", [True, False])
def test_rewritten_dictionaries_give_sae_lens_codes(
    kind: str, centred: bool, tmp_path: Path
) -> None:
    from lensbench import saes

    options = {"rescale_acts_by_decoder_norm": not centred} if kind == "topk" else {}
    theirs = _release(tmp_path, kind, apply_b_dec_to_input=centred, **options)
    ours = saes.load(f"sae_lens:{tmp_path}/layer_1/width_64")
    assert isinstance(ours, saes.SAE)
    with torch.no_grad():
        codes = theirs.encode(_x())
        torch.testing.assert_close(ours.encode(_x()), codes, rtol=0, atol=TOLERANCE)
        torch.testing.assert_close(ours(_x()), theirs(_x()), rtol=0, atol=10 * TOLERANCE)
    assert 0 < float((codes != 0).float().mean()) < 0.6
    wrong = ours.encode(_x() + 0.01)  # control: a hundredth off is seen
    assert float((wrong - codes).abs().max()) > 50 * TOLERANCE


@pytest.mark.parametrize("kind", ["abstopk", "matching_pursuit"])
def test_what_ours_cannot_express_is_wrapped_and_still_a_codec(kind: str, tmp_path: Path) -> None:
    import lensbench
    from lensbench import saes
    from lensbench.models.splice import fingerprint_of
    from lensbench.plan import Zero, edit
    from lensbench.protocols import Codec
    from tests.helpers import random_ids, tiny

    theirs = _release(tmp_path, kind)
    ours = saes.load(f"sae_lens:{tmp_path}/layer_1/width_64")
    assert isinstance(ours, Codec)
    assert (ours.d_model, ours.d_sae, ours.site) == (D, F, "blocks.1.resid_post")
    with torch.no_grad():
        assert torch.equal(ours.encode(_x()), theirs.encode(_x()))
        assert torch.equal(ours(_x()), theirs(_x()))
    if kind == "abstopk":
        assert float(ours.encode(_x()).min()) < 0
    again = saes.load(f"sae_lens:{tmp_path}/layer_1/width_64")
    assert fingerprint_of(again) == fingerprint_of(ours)
    model = lensbench.load_model(tiny("gpt2", n_embd=D, n_head=3), certify=False)
    model = model.with_saes([saes.Dictionary("theirs", ours.site, ours)])
    ids, latents = random_ids(1, 6), "blocks.1.resid_post.sae.acts"
    out = model.run(ids, capture=latents)
    live = int(out.acts[latents][0, 3].abs().argmax())
    moved = model.run(ids, edit(latents, Zero(), dims=[live])).logits
    assert float((moved - out.logits).abs().max()) > 1e-3


@pytest.mark.parametrize(
    ("kind", "why"),
    [
        ("transcoder", "reads one site and writes another"),
        ("skip_transcoder", "reads one site and writes another"),
        ("jumprelu_transcoder", "reads one site and writes another"),
        ("jumprelu_skip_transcoder", "reads one site and writes another"),
        ("temporal", "depend on the whole sequence"),
    ],
)
def test_what_is_no_dictionary_of_one_site_is_refused_by_name(
    kind: str, why: str, tmp_path: Path
) -> None:
    from lensbench import saes
    from lensbench.errors import UnknownNameError

    _release(tmp_path, kind)
    with pytest.raises(UnknownNameError, match=rf"'{kind}'.*{why}"):
        saes.load(f"sae_lens:{tmp_path}/layer_1/width_64")


def test_every_architecture_of_sae_lens_is_spoken_for() -> None:
    import sae_lens
    from sae_lens.registry import SAE_CLASS_REGISTRY

    from lensbench.saes import from_sae_lens

    assert sae_lens.__version__
    known = {*from_sae_lens._ACTIVATIONS, *from_sae_lens._WRAPPED}
    rest = {k for k in SAE_CLASS_REGISTRY if k not in known}
    assert rest == {
        "transcoder",
        "skip_transcoder",
        "jumprelu_transcoder",
        "jumprelu_skip_transcoder",
        "temporal",
    }


@pytest.mark.parametrize(
    "mode", ["layer_norm", "constant_norm_rescale", "expected_average_only_in"]
)
def test_normalised_activations_are_refused_by_name(mode: str, tmp_path: Path) -> None:
    from lensbench import saes
    from lensbench.errors import MismatchError

    _release(tmp_path, "standard", normalize_activations=mode)
    with pytest.raises(MismatchError, match=mode):
        saes.load(f"sae_lens:{tmp_path}/layer_1/width_64")


def test_what_sae_lens_knows_is_kept(tmp_path: Path) -> None:
    from lensbench import saes

    _release(tmp_path)
    ours = saes.load(f"sae_lens:{tmp_path}/layer_1/width_64")
    assert ours.site == "blocks.1.resid_post"
    for name, value in META.items():
        assert ours.metadata[name] == value
    assert ours.metadata["model"] == {"name": "gpt2-small", "aliases": ["gpt2", "gpt2-small"]}
    assert ours.metadata["sae_id"] == "width_64"
    again = saes.load(saes.save(ours, tmp_path / "ours"))
    assert again.metadata["neuronpedia_id"] == META["neuronpedia_id"]
    assert torch.equal(again.encode(_x()), ours.encode(_x()))


def _register(monkeypatch: pytest.MonkeyPatch, repo: str, **fields: Any) -> None:
    from sae_lens.loading import pretrained_saes_directory as registry

    entry = registry.PretrainedSAELookup(
        release="tiny-res-test",
        repo_id=repo,
        model="gpt2-small",
        conversion_func=None,
        saes_map={HOOK: "layer_1/width_64"},
        expected_var_explained={},
        expected_l0={},
        neuronpedia_id={HOOK: "tiny/1-res"},
        norm_scaling_factor=fields.pop("scaling", {}),
        config_overrides=None,
    )
    known = registry.get_pretrained_saes_directory()
    monkeypatch.setitem(known, "tiny-res-test", entry)


def test_a_release_of_the_registry_is_found_and_its_scale_folded(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from lensbench import saes

    options = {"normalize_activations": "expected_average_only_in"}
    theirs = _release(tmp_path, "standard", metadata={"neuronpedia_id": None}, **options)
    _register(monkeypatch, str(tmp_path), scaling={HOOK: 0.5})
    ours = saes.load(f"sae_lens:tiny-res-test/{HOOK}")
    assert ours.metadata["neuronpedia_id"] == "tiny/1-res"
    with torch.no_grad():
        expected = theirs.encode(0.5 * _x(3.0))
        torch.testing.assert_close(ours.encode(_x(3.0)), expected, rtol=0, atol=TOLERANCE)
        assert float((theirs.encode(_x(3.0)) - expected).abs().max()) > 0.1  # control: unscaled


def test_a_release_in_the_hubs_cache_is_read_without_the_hub(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from huggingface_hub import constants

    from lensbench import saes

    repo = tmp_path / "models--someone--tiny-saes"
    theirs = _release(repo / "snapshots" / "abc")
    (repo / "refs").mkdir()
    (repo / "refs" / "main").write_text("abc")
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path))
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    _register(monkeypatch, "someone/tiny-saes")
    for name in (f"tiny-res-test/{HOOK}", "someone/tiny-saes/layer_1/width_64"):
        ours = saes.load(f"sae_lens:{name}")
        with torch.no_grad():
            expected = theirs.encode(_x())
            torch.testing.assert_close(ours.encode(_x()), expected, rtol=0, atol=TOLERANCE)


def test_names_that_are_wrong_get_the_nearest_ones(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from lensbench import saes
    from lensbench.errors import MissingDataError, UnknownNameError

    _release(tmp_path / "release")
    with pytest.raises(UnknownNameError, match=r"Did you mean 'gpt2-small-res-jb'\?"):
        saes.load("sae_lens:gpt2-small-res-jbb/blocks.8.hook_resid_pre")
    with pytest.raises(UnknownNameError, match=r"Did you mean 'blocks\.8\.hook_resid_pre'\?"):
        saes.load("sae_lens:gpt2-small-res-jb/blocks.8.hook_resid_pree")
    with pytest.raises(UnknownNameError, match="Did you mean 'gemma-scope-2b-pt-res'"):
        saes.load("sae_lens:gemma-scope-2b-pt-rs/layer_0/width_16k/average_l0_105")
    with pytest.raises(UnknownNameError, match=r"Did you mean 'width_64'\?"):
        saes.load(f"sae_lens:{tmp_path}/release/layer_1/width_65")
    with pytest.raises(UnknownNameError, match=r"Did you mean 'layer_1/width_64'\?"):
        saes.load(f"sae_lens:{tmp_path}/release/layer_2/width_64")
    with pytest.raises(UnknownNameError, match="layer_1/width_64"):
        saes.load(f"sae_lens:{tmp_path}/release")
    with pytest.raises(MissingDataError, match="no release of dictionaries in"):
        saes.load(f"sae_lens:{tmp_path}/nothing/here")
    _register(monkeypatch, "someone/not-there")
    with pytest.raises(UnknownNameError, match=HOOK):
        saes.load("sae_lens:tiny-res-test")


def test_a_folder_named_from_here_is_found_unless_the_registry_has_the_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from lensbench import saes
    from lensbench.errors import UnknownNameError

    mine, listed = tmp_path / "here" / "mine", tmp_path / "there"
    theirs = _release(mine, "jumprelu").state_dict()["W_enc"]
    _release(listed, "topk")
    monkeypatch.chdir(mine.parent)
    names = ("mine/layer_1/width_64", "./mine/layer_1/width_64", f"{mine}/layer_1/width_64")
    for name in names:
        ours = saes.load(f"sae_lens:{name}")
        torch.testing.assert_close(ours.W_enc, theirs, rtol=0, atol=TOLERANCE)
        assert (ours.metadata["release"], ours.metadata["sae_id"]) == (
            str(mine / "layer_1"), "width_64")  # fmt: skip
    monkeypatch.chdir(mine)
    assert saes.load("sae_lens:layer_1/width_64").metadata["release"] == str(mine / "layer_1")
    with pytest.raises(UnknownNameError, match=r"Did you mean 'width_64'"):
        saes.load("sae_lens:layer_1/width_65")
    monkeypatch.chdir(mine / "layer_1")
    assert saes.load("sae_lens:width_64").metadata["release"] == str(mine / "layer_1")
    monkeypatch.chdir(mine.parent)
    mine.rename("tiny-res-test")  # now a folder here and a release of the registry
    assert saes.load("sae_lens:tiny-res-test/layer_1/width_64").activation == "threshold"
    _register(monkeypatch, str(listed))
    assert saes.load(f"sae_lens:tiny-res-test/{HOOK}").activation == "topk"
    assert saes.load("sae_lens:./tiny-res-test/layer_1/width_64").activation == "threshold"
    with pytest.raises(UnknownNameError, match=r"for the folder here write \./tiny-res-test/"):
        saes.load("sae_lens:tiny-res-test/layer_1/width_64")


def test_a_hub_out_of_reach_is_said_at_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from huggingface_hub import HfApi, constants

    from lensbench import saes
    from lensbench.errors import MissingDataError

    def unreachable(*args: Any, **kwargs: Any) -> None:
        raise ConnectionError(f"Name or service not known: {args} {kwargs}")

    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path))
    monkeypatch.setattr(HfApi, "model_info", unreachable)
    _register(monkeypatch, "someone/not-there")
    for name in (f"tiny-res-test/{HOOK}", "someone/not-there/layer_1"):
        with pytest.raises(MissingDataError, match="someone/not-there, which is not in the local"):
            saes.load(f"sae_lens:{name}")


def test_a_wrong_conversion_is_not_handed_out(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from lensbench import saes
    from lensbench.errors import MismatchError
    from lensbench.saes import from_sae_lens

    _release(tmp_path, "jumprelu")
    monkeypatch.setitem(from_sae_lens._ACTIVATIONS, "jumprelu", "relu")
    with pytest.raises(MismatchError, match="codes of the rewritten dictionary differ"):
        saes.load(f"sae_lens:{tmp_path}/layer_1/width_64")


def test_a_damaged_or_half_downloaded_release_is_named(tmp_path: Path) -> None:
    from lensbench import saes
    from lensbench.errors import DataError

    _release(tmp_path)
    (tmp_path / "layer_1/width_64/sae_weights.safetensors").unlink()
    with pytest.raises(DataError, match="layer_1/width_64 cannot be loaded"):
        saes.load(f"sae_lens:{tmp_path}/layer_1/width_64")
    _release(tmp_path)
    config = tmp_path / "layer_1/width_64/cfg.json"
    config.write_text(json.dumps(json.loads(config.read_text()) | {"d_sae": 63}))
    with pytest.raises(DataError, match="layer_1/width_64 cannot be loaded"):
        saes.load(f"sae_lens:{tmp_path}/layer_1/width_64")


def test_a_release_without_an_id_and_a_misspelt_folder_are_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from lensbench import saes
    from lensbench.errors import UnknownNameError

    _release(tmp_path / "release")
    inside = rf"'{tmp_path}/release'; known: layer_1/width_64\..*add one of them"
    with pytest.raises(UnknownNameError, match=inside):
        saes.load(f"sae_lens:{tmp_path}/release")
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UnknownNameError, match=r"folder here with a similar name: release/"):
        saes.load("sae_lens:relase/width_64")
    (tmp_path / "release").rename(tmp_path / "other")
    with pytest.raises(UnknownNameError) as told:  # control: nothing alike
        saes.load("sae_lens:relase/width_64")
    assert "similar name" not in str(told.value)
