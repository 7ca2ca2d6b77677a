"""What is saved here, SAELens loads and encodes alike; what SAELens saves, is read here.

Same weights on both sides; tolerance 1e-5, float32, one matmul and a sum of at most d_sae terms.
"""

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

D, F, TOLERANCE = 24, 96, 1e-5

pytestmark = pytest.mark.filterwarnings("ignore")  # what sae_lens and its imports warn about


def _sae(activation: Any, **changes: Any) -> Any:
    from lensbench.saes.sae import SAE

    rng = torch.Generator().manual_seed(0)

    def draw(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=rng)

    extra: dict[str, Any] = {"k": 5} if activation == "topk" else {}
    if activation == "threshold":
        extra["threshold"] = torch.rand(F, generator=rng) * 3
    weights = {"W_enc": draw(D, F), "b_enc": draw(F), "W_dec": draw(F, D), "b_dec": draw(D)}
    site = {"site": "blocks.2.resid_post"}
    return SAE(**({"metadata": site} | weights | extra | changes), activation=activation)


def _x() -> Tensor:
    return torch.randn(64, D, generator=torch.Generator().manual_seed(5))


@pytest.mark.parametrize("activation", ["topk", "relu", "threshold"])
def test_sae_lens_loads_what_we_save_and_gives_the_same_codes(
    activation: str, tmp_path: Path
) -> None:
    import sae_lens

    from lensbench import saes

    ours = _sae(activation)
    saes.save(ours, tmp_path)
    theirs = sae_lens.SAE.load_from_disk(tmp_path)
    with torch.no_grad():
        torch.testing.assert_close(theirs.encode(_x()), ours.encode(_x()), rtol=0, atol=TOLERANCE)
        torch.testing.assert_close(theirs(_x()), ours(_x()), rtol=0, atol=TOLERANCE)
        wrong = _sae(activation, b_enc=ours.b_enc + 0.01)  # control: a hundredth off is seen
        assert float((theirs.encode(_x()) - wrong.encode(_x())).abs().max()) > 100 * TOLERANCE
    assert theirs.cfg.metadata.hook_name == "blocks.2.hook_resid_post"
    again = saes.load(tmp_path)
    assert torch.equal(again.encode(_x()), ours.encode(_x()))
    assert again.site == "blocks.2.resid_post"


def test_what_sae_lens_saves_after_its_own_training_class_is_read(tmp_path: Path) -> None:
    """Their TopK rescales activations by decoder norms; here that is folded into the weights."""
    from sae_lens import TopKTrainingSAE, TopKTrainingSAEConfig

    from lensbench import saes

    torch.manual_seed(3)
    theirs = TopKTrainingSAE(TopKTrainingSAEConfig(d_in=D, d_sae=F, k=5))
    with torch.no_grad():
        for parameter in theirs.parameters():
            parameter.copy_(torch.randn_like(parameter))
        assert theirs.cfg.rescale_acts_by_decoder_norm
        theirs.save_inference_model(str(tmp_path))
        ours = saes.load(tmp_path)
        torch.testing.assert_close(ours(_x()), theirs(_x()), rtol=1e-5, atol=1e-4)
        torch.testing.assert_close(ours.encode(_x()), theirs.encode(_x()), rtol=1e-5, atol=1e-4)


def test_trained_batch_top_k_goes_through_their_jumprelu(tmp_path: Path) -> None:
    import sae_lens

    from lensbench import saes

    batches = [torch.randn(64, D, generator=torch.Generator().manual_seed(i)) for i in range(30)]
    sweep = {
        "train": {"tokens": 30 * 64, "batch_size": 64, "engine": "dense"},
        "sweep": [{"architecture": "batchtopk", "d_sae": F, "k": 5, "lr": 1e-3}],
    }
    (run,) = saes.train(batches, sweep, device="cpu", progress=False, out=tmp_path)
    theirs = sae_lens.SAE.load_from_disk(Path(run.folder) / "result")
    assert theirs.cfg.architecture() == "jumprelu"
    with torch.no_grad():
        torch.testing.assert_close(
            theirs.encode(_x()), run.sae.encode(_x()), rtol=0, atol=TOLERANCE
        )


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float64])
def test_dictionaries_in_any_float_type_are_read_as_float32(
    dtype: torch.dtype, tmp_path: Path
) -> None:
    import sae_lens

    from lensbench import saes

    saes.save(_sae("threshold"), tmp_path / "ours")
    theirs = sae_lens.SAE.load_from_disk(tmp_path / "ours").to(dtype)
    theirs.save_model(tmp_path / "theirs")
    again = saes.load(tmp_path / "theirs")
    for name in ("W_enc", "b_enc", "W_dec", "b_dec", "threshold"):
        found = getattr(again, name)
        assert found.dtype == torch.float32
        assert torch.equal(found, getattr(theirs, name).detach().float()), name


def test_a_dictionary_of_another_type_is_saved_with_its_own_values(tmp_path: Path) -> None:
    from dataclasses import replace

    from lensbench import saes

    ours = _sae("relu")
    names = ("W_enc", "b_enc", "W_dec", "b_dec")
    half = replace(ours, **{n: getattr(ours, n).bfloat16() for n in names})
    again = saes.load(saes.save(half, tmp_path))
    assert torch.equal(again.W_enc, half.W_enc.float())


@pytest.mark.parametrize("name", ["resid_pre", "resid_post", "mlp_out", "attn_out", "attn.z"])
def test_what_we_save_is_spliced_into_their_model(name: str, tmp_path: Path) -> None:
    import sae_lens
    from transformer_lens import HookedTransformerConfig

    from lensbench import saes

    torch.manual_seed(0)
    config = HookedTransformerConfig(
        n_layers=3, d_model=D, n_ctx=8, d_head=D // 4, n_heads=4, d_vocab=11, act_fn="gelu"
    )
    model = sae_lens.HookedSAETransformer(config)
    site = f"blocks.2.{name}"
    ours = _sae("topk", metadata={"site": site})
    saes.save(ours, tmp_path)
    tokens = torch.arange(8)[None]
    hook = site.replace("resid", "hook_resid").replace("mlp_out", "hook_mlp_out")
    hook = hook.replace("attn_out", "hook_attn_out").replace("attn.z", "attn.hook_z")
    with torch.no_grad():
        before, cache = model.run_with_cache(tokens)
        model.add_sae(sae_lens.SAE.load_from_disk(tmp_path))
        assert list(model.acts_to_saes) == [hook]
        after, spliced = model.run_with_cache(tokens)
    acts = ours.encode(cache[hook].flatten(2)[0])
    found = spliced[f"{hook}.hook_sae_acts_post"][0]
    torch.testing.assert_close(found, acts, rtol=0, atol=TOLERANCE)
    assert float((after - before).abs().max()) > 0.01  # control: it is not the identity
    assert saes.load(tmp_path).site == site


def test_sites_survive_both_ways_and_unknown_hooks_are_kept(tmp_path: Path) -> None:
    import json

    from lensbench import saes

    def hook_of(folder: Path) -> str | None:
        return json.loads((folder / "cfg.json").read_text())["metadata"]["hook_name"]

    spelled = {
        "blocks.1.hook_resid_post": ("blocks.1.resid_post", "blocks.1.hook_resid_post"),
        "blocks.1.resid_post": ("blocks.1.resid_post", "blocks.1.hook_resid_post"),  # older files
        "blocks.1.attn.hook_rot_q": ("blocks.1.attn.q", "blocks.1.attn.hook_rot_q"),
        "blocks.1.mlp.hook_in": ("blocks.1.mlp.in", "blocks.1.mlp.hook_in"),
        "blocks.1.ln2.hook_normalized": (
            "blocks.1.ln2.hook_normalized",  # before the norm's gain, so not our mlp.in
            "blocks.1.ln2.hook_normalized",
        ),
    }
    for i, (hook, (site, again)) in enumerate(spelled.items()):
        folder = saes.save(_sae("relu"), tmp_path / str(i))
        cfg = json.loads((folder / "cfg.json").read_text())
        cfg["metadata"] = {"hook_name": hook}  # as others write it
        (folder / "cfg.json").write_text(json.dumps(cfg))
        loaded = saes.load(folder)
        assert loaded.site == site
        assert hook_of(saes.save(loaded, tmp_path / f"{i}again")) == again
        assert saes.load(tmp_path / f"{i}again").site == site
    for i, site in enumerate(("encoder.blocks.1.resid_post", "ln_final", "a place of my own")):
        folder = saes.save(_sae("relu", metadata={"site": site}), tmp_path / f"own{i}")
        assert hook_of(folder) == site  # they have no name for it
        assert saes.load(folder).site == site
    moved = saes.load(tmp_path / "0")
    moved.metadata["site"] = "blocks.2.mlp_out"
    assert hook_of(saes.save(moved, tmp_path / "moved")) == "blocks.2.hook_mlp_out"
    nowhere = saes.save(_sae("relu", metadata={}), tmp_path / "nowhere")
    assert hook_of(nowhere) is None
    assert saes.load(nowhere).site is None


def test_files_that_are_no_dictionary_are_refused(tmp_path: Path) -> None:
    import json

    from lensbench import saes
    from lensbench.errors import (
        DamagedDataError,
        MismatchError,
        MissingDataError,
        UnknownNameError,
    )

    with pytest.raises(MissingDataError, match="no dictionary in"):
        saes.load(tmp_path)
    saes.save(_sae("topk"), tmp_path)
    path = tmp_path / "cfg.json"
    good = json.loads(path.read_text())
    path.write_text(json.dumps(good | {"architecture": "gated"}))
    with pytest.raises(UnknownNameError, match="gated"):
        saes.load(tmp_path)
    path.write_text(json.dumps(good | {"normalize_activations": "layer_norm"}))
    with pytest.raises(MismatchError, match="layer_norm"):
        saes.load(tmp_path)
    path.write_text(json.dumps(good | {"architecture": "jumprelu"}))
    with pytest.raises(DamagedDataError, match="lacks threshold"):
        saes.load(tmp_path)
    path.write_text(json.dumps(good))
    weights = tmp_path / "sae_weights.safetensors"
    weights.write_bytes(weights.read_bytes()[:-40])
    with pytest.raises(DamagedDataError, match="truncated"):
        saes.load(tmp_path)
