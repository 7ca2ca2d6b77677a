"""Dictionaries in the peers' formats, against the owner's own code or its formula written out.

Same weights on both sides, none at its default; tolerance 1e-5, float32, one matmul of 24 terms of
order 0.3 and a sum of at most 96 such terms. ``LENSBENCH_PEERS`` names a folder in which
dictionary_learning 0.1.0 and eai-sparsify 1.3.3 are installed (``pip install --no-deps --target``).
"""

import json
import math
import os
import sys
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

D, F, K, TOLERANCE = 24, 96, 5, 1e-5
PEERS = os.environ.get("LENSBENCH_PEERS", "")
pytestmark = pytest.mark.filterwarnings("ignore")  # what the peers and their imports warn about


def _x() -> Tensor:
    return torch.randn(200, D, generator=torch.Generator().manual_seed(5))


def _randomise(module: torch.nn.Module) -> None:
    rng = torch.Generator().manual_seed(3)
    with torch.no_grad():
        for name, weight in module.named_parameters():
            weight.copy_(0.3 * torch.randn(weight.shape, generator=rng))
            if name == "threshold":
                weight.abs_()


def _same(ours: Any, codes: Tensor, out: Tensor, decoded: Callable[[Tensor], Tensor]) -> None:
    """Codes, reconstruction and decoding agree, some fire and not all; a hundredth off is seen."""
    with torch.no_grad():
        torch.testing.assert_close(ours.encode(_x()), codes, rtol=0, atol=TOLERANCE)
        torch.testing.assert_close(ours(_x()), out, rtol=0, atol=TOLERANCE)
        f = torch.rand(20, F, generator=torch.Generator().manual_seed(7))
        torch.testing.assert_close(ours.decode(f), decoded(f), rtol=0, atol=TOLERANCE)
        assert 0.01 < float((codes != 0).float().mean()) < 0.7
        wrong = ours.encode(_x() + 0.01)
        assert float((wrong - codes).abs().max()) > 100 * TOLERANCE


# --- the owner's own code -------------------------------------------------------------------------


@pytest.fixture
def peers(monkeypatch: pytest.MonkeyPatch) -> None:
    if not (Path(PEERS) / "dictionary_learning").is_dir() or not PEERS:
        pytest.skip("LENSBENCH_PEERS names no folder with dictionary_learning and sparsify")
    monkeypatch.setenv("SPARSIFY_DISABLE_TRITON", "1")
    monkeypatch.setattr(sys, "path", [*sys.path, PEERS])


DL = {
    "AutoEncoder": ("relu", {}),
    "AutoEncoderNew": ("relu", {}),
    "GatedAutoEncoder": ("threshold", {}),
    "AutoEncoderTopK": ("topk", {"k": K}),
    "BatchTopKSAE": ("threshold", {"k": K}),
    "JumpReluAutoEncoder": ("threshold", {}),
    "MatryoshkaBatchTopKSAE": ("threshold", {"k": K, "group_sizes": [16, 32, 48]}),
}


def _dl_owner(name: str) -> Any:
    from dictionary_learning import dictionary, utils

    _, extra = DL[name]
    cls = getattr(utils, name, None) or getattr(dictionary, name)
    owner = cls(D, F, **extra)
    _randomise(owner)
    if isinstance(getattr(owner, "threshold", None), Tensor) and "k" in extra:
        owner.threshold.fill_(0.4)
    return owner


def _dl_save(owner: Any, folder: Path, **trainer: Any) -> Path:
    """What ``trainSAE`` writes."""
    folder.mkdir(parents=True, exist_ok=True)
    torch.save(owner.state_dict(), folder / "ae.pt")
    config: dict[str, Any] = {"dict_class": type(owner).__name__, "activation_dim": D}
    config |= {"dict_size": F, "layer": 3, "lm_name": "EleutherAI/pythia-70m-deduped"}
    config |= {"submodule_name": "resid_post_layer_3"} | trainer
    if hasattr(owner, "k"):
        config.setdefault("k", int(owner.k))
    (folder / "config.json").write_text(json.dumps({"trainer": config}))
    return folder


@pytest.mark.usefixtures("peers")
@pytest.mark.parametrize("name", DL)
def test_every_class_of_dictionary_learning_gives_its_owners_codes(
    name: str, tmp_path: Path
) -> None:
    from dictionary_learning.utils import load_dictionary

    from lensbench import saes

    folder = _dl_save(_dl_owner(name), tmp_path / "trainer_0")
    theirs, _ = load_dictionary(str(folder), "cpu")
    ours = saes.load(folder)
    assert isinstance(ours, saes.SAE)
    assert ours.activation == DL[name][0]
    assert ours.site == "blocks.3.resid_post"
    assert ours.metadata["model_name"] == "EleutherAI/pythia-70m-deduped"
    assert (ours.metadata["source_format"], ours.metadata["architecture"]) == (
        "dictionary_learning", name)  # fmt: skip
    with torch.no_grad():
        _same(ours, theirs.encode(_x()), theirs(_x()), theirs.decode)


@pytest.mark.usefixtures("peers")
def test_a_batch_top_k_without_a_threshold_cuts_at_zero_as_its_owner_does(tmp_path: Path) -> None:
    from lensbench import saes

    theirs = _dl_owner("BatchTopKSAE")
    theirs.threshold.fill_(-1.0)
    ours = saes.load(_dl_save(theirs, tmp_path))
    with torch.no_grad():
        _same(ours, theirs.encode(_x()), theirs(_x()), theirs.decode)


@pytest.mark.usefixtures("peers")
def test_a_gate_that_is_ignored_would_be_seen(tmp_path: Path) -> None:
    from dataclasses import replace

    from lensbench import saes

    theirs = _dl_owner("GatedAutoEncoder")
    ours = saes.load(_dl_save(theirs, tmp_path))
    assert isinstance(ours, saes.SAE)
    with torch.no_grad():
        codes = theirs.encode(_x())
        magnitude_only = replace(ours, activation="relu", threshold=None).encode(_x())
    assert float((magnitude_only - codes).abs().max()) > 0.1


def _ours(kind: Any, unit: bool = False) -> Any:
    from lensbench.saes.sae import SAE

    rng = torch.Generator().manual_seed(0)

    def draw(*shape: int) -> Tensor:
        return 0.3 * torch.randn(*shape, generator=rng)

    weights = {"W_enc": draw(D, F), "b_enc": draw(F), "W_dec": draw(F, D), "b_dec": draw(D)}
    if unit:
        weights["W_dec"] /= weights["W_dec"].norm(dim=1, keepdim=True)
    extra: dict[str, Any] = {"k": K} if kind == "topk" else {}
    if kind == "threshold":
        extra["threshold"] = torch.rand(F, generator=rng)
    metadata = {"site": "blocks.2.resid_post", "model_name": "gpt2", "context_size": 64}
    config = {"architecture": kind, "lr": 1e-3}
    return SAE(**weights, **extra, activation=kind, metadata=metadata, config=config)


@pytest.mark.usefixtures("peers")
@pytest.mark.parametrize(
    ("kind", "unit", "name"),
    [
        ("topk", False, "AutoEncoderTopK"),
        ("relu", True, "AutoEncoder"),
        ("relu", False, "AutoEncoderNew"),
        ("threshold", False, "JumpReluAutoEncoder"),
    ],
)
def test_dictionary_learning_loads_what_we_write(
    kind: str, unit: bool, name: str, tmp_path: Path
) -> None:
    from dictionary_learning.utils import load_dictionary

    from lensbench import saes

    ours = _ours(kind, unit)
    folder = saes.save(ours, tmp_path / "trainer_0", format="dictionary_learning")
    theirs, config = load_dictionary(str(folder), "cpu")
    assert type(theirs).__name__ == name
    assert (config["trainer"]["layer"], config["buffer"]["ctx_len"]) == (2, 64)
    with torch.no_grad():
        _same(ours, theirs.encode(_x()), theirs(_x()), theirs.decode)


@pytest.mark.usefixtures("peers")
@pytest.mark.parametrize("num_latents", [F, 0])
def test_sparsify_dictionaries_give_their_owners_codes(num_latents: int, tmp_path: Path) -> None:
    from sparsify import SparseCoder, SparseCoderConfig

    from lensbench import saes

    config = SparseCoderConfig(num_latents=num_latents, expansion_factor=F // D, k=K)
    _randomise(theirs := SparseCoder(D, config))
    theirs.save_to_disk(tmp_path / "layers.10" / "seed3")
    ours = saes.load(tmp_path / "layers.10" / "seed3")
    assert isinstance(ours, saes.SAE)
    assert (ours.site, ours.metadata["hook_name"]) == ("blocks.10.resid_post", "layers.10")
    _same_as_sparsify(ours, theirs)


@pytest.mark.usefixtures("peers")
@pytest.mark.parametrize("kind", ["skip_connection", "groupmax"])
def test_what_sparsify_writes_and_we_cannot_express_is_refused(kind: str, tmp_path: Path) -> None:
    from sparsify import SparseCoder, SparseCoderConfig

    from lensbench import saes
    from lensbench.errors import LensbenchError

    option: dict[str, Any] = {kind: True} if kind != "groupmax" else {"activation": kind}
    SparseCoder(D, SparseCoderConfig(num_latents=F, k=K, **option)).save_to_disk(tmp_path)
    with pytest.raises(LensbenchError, match=kind):
        saes.load(tmp_path)


@pytest.mark.usefixtures("peers")
def test_sparsify_loads_what_we_write(tmp_path: Path) -> None:
    from sparsify import SparseCoder

    from lensbench import saes

    ours = _ours("topk")
    saes.save(ours, tmp_path, format="sparsify")
    _same_as_sparsify(ours, SparseCoder.load_from_disk(tmp_path))


def _same_as_sparsify(ours: Any, theirs: Any) -> None:
    with torch.no_grad():
        top = theirs.encode(_x())
        codes = torch.zeros(200, F).scatter_(1, top.top_indices, top.top_acts)
        every = torch.arange(F).expand(20, F)
        out = theirs.decode(top.top_acts, top.top_indices)
        _same(ours, codes, out, lambda f: theirs.decode(f, every))


# --- the formula, where the owner is not installable ----------------------------------------------


def _arrays(**shapes: tuple[int, ...]) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(11)
    return {n: (0.3 * rng.standard_normal(s)).astype(np.float32) for n, s in shapes.items()}


def _same_as_numpy(ours: Any, codes: np.ndarray, W_dec: np.ndarray, b_dec: np.ndarray) -> None:
    def decoded(f: Tensor) -> Tensor:
        return torch.from_numpy((f.double().numpy() @ W_dec + b_dec).astype(np.float32))

    f = torch.from_numpy(codes.astype(np.float32))
    _same(ours, f, decoded(f), decoded)


PLAIN = {"W_enc": (D, F), "W_dec": (F, D), "b_enc": (F,), "b_dec": (D,), "threshold": (F,)}


def _gemma_scope(folder: Path) -> dict[str, np.ndarray]:
    folder.mkdir(parents=True, exist_ok=True)
    p = _arrays(**PLAIN)
    p["threshold"] = np.abs(p["threshold"])
    np.savez(folder / "params.npz", **p)  # type: ignore[arg-type]
    return p


@pytest.mark.parametrize(
    ("release", "site"),
    [
        ("models--google--gemma-scope-2b-pt-res/snapshots/abc", "blocks.20.resid_post"),
        ("gemma-scope-2b-pt-mlp", "blocks.20.mlp_out"),
        ("gemma-scope-9b-pt-att", "blocks.20.attn.z"),
        ("a-folder-of-mine", None),
    ],
)
def test_gemma_scope_files_give_the_codes_of_the_paper(
    release: str, site: str | None, tmp_path: Path
) -> None:
    from lensbench import saes

    folder = tmp_path / release / "layer_20" / "width_16k" / "average_l0_71"
    p = _gemma_scope(folder)
    z = _x().double().numpy() @ p["W_enc"] + p["b_enc"]
    codes = np.where(z > p["threshold"], z, 0)
    for place in (folder, folder / "params.npz"):
        ours = saes.load(place)
        assert ours.site == site
        _same_as_numpy(ours, codes, p["W_dec"], p["b_dec"])


def test_a_transcoder_release_of_gemma_scope_reads_before_the_gain_and_does_not_take_b_dec(
    tmp_path: Path,
) -> None:
    from lensbench import saes

    folder = tmp_path / "gemma-scope-2b-pt-transcoders" / "layer_5" / "width_16k"
    p = _gemma_scope(folder)
    z = _x().double().numpy() @ p["W_enc"] + p["b_enc"]
    ours = saes.load(folder)
    assert isinstance(ours, saes.Transcoder)
    assert (ours.site, ours.target) == ("blocks.5.ln2.hook_normalized", "blocks.5.mlp_out")
    _same_as_numpy(ours, np.where(z > p["threshold"], z, 0), p["W_dec"], p["b_dec"])


OPENAI = {
    "pre_bias": (D,),
    "encoder.weight": (F, D),
    "latent_bias": (F,),
    "decoder.weight": (D, F),
}


def _openai(path: Path, **more: Any) -> dict[str, np.ndarray]:
    p = _arrays(**OPENAI)
    buffers = {"stats_last_nonzero": torch.zeros(F, dtype=torch.long), "activation": "ReLU"}
    weights = {n: torch.from_numpy(a) for n, a in p.items()}
    torch.save(weights | buffers | {"activation_state_dict": {}} | more, path)
    return p


def test_relu_files_of_openai_give_their_owners_codes(tmp_path: Path) -> None:
    from lensbench import saes

    p = _openai(tmp_path / "0.pt")
    z = (_x().double().numpy() - p["pre_bias"]) @ p["encoder.weight"].T + p["latent_bias"]
    ours = saes.load(tmp_path / "0.pt")
    _same_as_numpy(ours, np.maximum(z, 0), p["decoder.weight"].T, p["pre_bias"])


def test_top_k_files_of_openai_are_refused_because_every_token_is_normalised(
    tmp_path: Path,
) -> None:
    from lensbench import saes
    from lensbench.errors import MismatchError, UnknownNameError

    state = {"k": 4, "postact_fn": "ReLU"}
    _openai(tmp_path / "0.pt", activation="TopK", activation_state_dict=state)
    with pytest.raises(MismatchError, match="its own standard deviation"):
        saes.load(tmp_path / "0.pt")
    _openai(tmp_path / "1.pt", activation="Identity")
    with pytest.raises(UnknownNameError, match="'Identity'; known: ReLU"):
        saes.load(tmp_path / "1.pt")


LLAMA = {"W_E": (D, F), "b_E": (F,), "W_D": (F, D), "b_D": (D,)}
HOOK = "blocks.4.hook_resid_post"
JUMP = "activation_function.log_jumprelu_threshold"
NORM = f"dataset_average_activation_norm.{HOOK}"


def _llamascopium(folder: Path, act_fn: str, /, **changes: Any) -> dict[str, np.ndarray]:
    folder.mkdir(parents=True, exist_ok=True)
    p = _arrays(**LLAMA, **({JUMP: (F,)} if act_fn == "jumprelu" else {}))
    config = {"sae_type": "sae", "hook_point_in": HOOK, "hook_point_out": HOOK, "d_model": D}
    config |= {"expansion_factor": F // D, "act_fn": act_fn, "top_k": K, "use_decoder_bias": True}
    config |= {"norm_activation": "dataset-wise", "sparsity_include_decoder_norm": True}
    (folder / "config.json").write_text(json.dumps(config | changes))
    tensors = {n: torch.from_numpy(a) for n, a in p.items()} | {NORM: torch.tensor(8.0)}
    if not (config | changes)["use_decoder_bias"]:
        del tensors["b_D"]
    save_file(tensors, folder / "sae_weights.safetensors")
    return p


@pytest.mark.parametrize("act_fn", ["relu", "topk", "jumprelu"])
@pytest.mark.parametrize("norm", ["dataset-wise", "inference"])
@pytest.mark.parametrize("weighed", [True, False])
def test_llamascopium_folders_give_the_codes_of_the_unfolded_formula(
    act_fn: str, norm: str, weighed: bool, tmp_path: Path
) -> None:
    from lensbench import saes

    options = {"norm_activation": norm, "sparsity_include_decoder_norm": weighed}
    p = _llamascopium(tmp_path, act_fn, **options)
    s = math.sqrt(D) / 8.0 if norm == "dataset-wise" else 1.0
    n = np.linalg.norm(p["W_D"], axis=1) if weighed else np.ones(F)
    z = ((s * _x().double().numpy()) @ p["W_E"] + p["b_E"]) * n
    codes = np.maximum(z, 0)
    if act_fn == "topk":
        codes = np.where(codes >= np.sort(codes, axis=1)[:, -K][:, None], codes, 0)
    if act_fn == "jumprelu":
        codes = np.where(z > np.exp(p[JUMP]), z, 0)
    # in the units of x; where norms choose among latents, in those of a decoder of unit norm
    in_units = n if act_fn == "topk" else np.ones(F)
    codes = codes / n / s * in_units
    ours = saes.load(tmp_path)
    assert (ours.site, ours.metadata["hook_name"]) == ("blocks.4.resid_post", HOOK)
    _same_as_numpy(ours, codes, p["W_D"] / in_units[:, None], p["b_D"] / s)


def test_a_decoder_without_a_bias_is_read(tmp_path: Path) -> None:
    from lensbench import saes

    p = _llamascopium(tmp_path, "relu", use_decoder_bias=False, norm_activation="inference")
    z = _x().double().numpy() @ p["W_E"] + p["b_E"]
    _same_as_numpy(saes.load(tmp_path), np.maximum(z, 0), p["W_D"], np.zeros(D))


@pytest.mark.parametrize(
    ("changes", "why"),
    [
        ({"norm_activation": "token-wise"}, "'token-wise'.*weights cannot express"),
        ({"norm_activation": "batch-wise"}, "'batch-wise'.*weights cannot express"),
        ({"sae_type": "crosscoder"}, "no readable sae_type named 'crosscoder'; known: sae"),
        ({"hook_point_out": "blocks.4.hook_mlp_out"}, "hook_mlp_out .* one positive number"),
        ({"act_fn": "batchtopk"}, "whole batch"),
        ({"use_glu_encoder": True}, "use_glu_encoder"),
        ({"hook_point_in": "blocks.5.hook_resid_post"}, "blocks.5.* one positive number"),
        ({"hook_point_in": "other", "hook_point_out": "other"}, "one positive number"),
    ],
)
def test_what_llamascopium_has_and_we_cannot_express_is_refused(
    changes: dict[str, Any], why: str, tmp_path: Path
) -> None:
    from lensbench import saes
    from lensbench.errors import LensbenchError

    _llamascopium(tmp_path, "relu", **changes)
    with pytest.raises(LensbenchError, match=why):
        saes.load(tmp_path)


# --- our own round trips, recognition, bad input --------------------------------------------------


WRITTEN = [
    (f, kind)
    for f in ("sae_lens", "dictionary_learning", "sparsify")
    for kind in ("topk", "relu", "threshold")
    if f != "sparsify" or kind == "topk"
]


@pytest.mark.parametrize(("name", "kind"), WRITTEN)
def test_what_is_written_comes_back_with_its_codes_site_config_and_metadata(
    name: Any, kind: str, tmp_path: Path
) -> None:
    from lensbench import saes
    from lensbench.saes.formats import recognise

    ours = _ours(kind)
    folder = saes.save(ours, tmp_path / "it", format=name)
    assert recognise(folder) == [name]
    for again in (saes.load(folder), saes.load(folder, format=name)):
        assert isinstance(again, saes.SAE)
        assert (again.site, again.config, again.k) == (ours.site, ours.config, ours.k)
        assert again.metadata["context_size"] == 64
        _same(again, ours.encode(_x()), ours(_x()), ours.decode)
    twice = saes.load(saes.save(again, tmp_path / "again"))
    _same(twice, ours.encode(_x()), ours(_x()), ours.decode)


def test_a_dictionary_goes_through_all_written_formats_and_keeps_its_codes(tmp_path: Path) -> None:
    from lensbench import saes

    ours = sae = _ours("topk")
    for i, name in enumerate(("sparsify", "dictionary_learning", "sae_lens", "sparsify")):
        sae = saes.load(saes.save(sae, tmp_path / str(i), format=name))
        assert isinstance(sae, saes.SAE)
    _same(sae, ours.encode(_x()), ours(_x()), ours.decode)
    assert sae.site == ours.site


def test_an_architecture_that_a_format_lacks_is_refused_before_anything_is_written(
    tmp_path: Path,
) -> None:
    from lensbench import saes
    from lensbench.errors import ConfigError, MismatchError, UnknownNameError

    with pytest.raises(MismatchError, match=r"sparsify has TopK dictionaries only.*'relu'"):
        saes.save(_ours("relu"), tmp_path / "it", format="sparsify")
    with pytest.raises(UnknownNameError, match="known: sae_lens, dictionary_learning, spars"):
        saes.save(_ours("topk"), tmp_path / "it", format="sparsifi")  # type: ignore[arg-type]
    with pytest.raises(ConfigError, match="save takes a dictionary"):
        saes.save("a name", tmp_path / "it")  # type: ignore[arg-type]
    assert not (tmp_path / "it").exists()


def test_a_folder_without_a_dictionary_says_what_was_looked_for(tmp_path: Path) -> None:
    from lensbench import saes
    from lensbench.errors import MissingDataError, UnknownNameError
    from lensbench.saes.formats import FORMATS

    with pytest.raises(MissingDataError) as told:
        saes.load(tmp_path)
    assert all(name in str(told.value) for name in FORMATS)
    assert all(file in str(told.value) for one in FORMATS.values() for file in one.files)
    saes.save(_ours("topk"), tmp_path)
    (tmp_path / "sae_weights.safetensors").unlink()
    with pytest.raises(MissingDataError, match=r"of these only cfg\.json is there"):
        saes.load(tmp_path)
    with pytest.raises(MissingDataError, match="no such file or folder"):
        saes.load(tmp_path / "nowhere")
    with pytest.raises(MissingDataError, match="no such file or folder"):
        saes.load(tmp_path / "nowhere", format="sparsify")
    with pytest.raises(UnknownNameError, match="Did you mean 'sparsify'"):
        saes.load(tmp_path, format="sparsifi")  # type: ignore[arg-type]


def test_a_folder_of_two_formats_names_both_and_format_decides(tmp_path: Path) -> None:
    from lensbench import saes
    from lensbench.errors import ConfigError

    topk, relu = _ours("topk"), _ours("relu")
    saes.save(relu, tmp_path, format="dictionary_learning")
    saes.save(topk, tmp_path, format="sparsify")
    with pytest.raises(ConfigError, match=r"dictionary_learning \(.*\) and sparsify \(.*format="):
        saes.load(tmp_path)
    assert saes.load(tmp_path, format="sparsify").activation == "topk"
    assert saes.load(tmp_path, format="dictionary_learning").activation == "relu"
    assert saes.load(tmp_path / "ae.pt").activation == "relu"  # a file of one of them will do
    assert saes.load(tmp_path / "sae.safetensors").activation == "topk"


def _dl_files(folder: Path, **trainer: Any) -> dict[str, Tensor]:
    """A TopK folder of dictionary_learning and its tensors, without its owner."""
    from lensbench import saes

    saes.save(_ours("topk"), folder, format="dictionary_learning")
    config = json.loads((folder / "config.json").read_text())
    config["trainer"] |= trainer
    (folder / "config.json").write_text(json.dumps(config))
    return torch.load(folder / "ae.pt", weights_only=True)


@pytest.mark.parametrize(
    ("name", "value", "why"),
    [
        ("b_dec", None, "lacks b_dec"),
        ("extra", torch.ones(2), "has extra beside"),
        ("encoder.bias", torch.zeros(F + 1), r"encoder\.bias .* shape \[97\].*must be \[96\]"),
        ("decoder.weight", torch.zeros(F, D), r"decoder\.weight .*must be \[24, 96\]"),
        ("b_dec", "text", "b_dec .* is a str, not a tensor"),
        ("k", torch.tensor(F + 1), "k .* of at most 96"),
        ("k", torch.tensor(K + 1), "k is 6 and 5"),
        ("k", torch.tensor(2.5), "k .* positive whole number"),
        ("encoder.bias", torch.full((F,), math.nan), "b_enc .* NaN or infinite in 96 of 96"),
        ("encoder.bias", torch.full((F,), math.inf), "b_enc .* NaN or infinite"),
    ],
)
def test_wrong_tensors_of_a_peer_are_named(name: str, value: Any, why: str, tmp_path: Path) -> None:
    from lensbench import saes
    from lensbench.errors import DataError

    tensors: dict[str, Any] = {**_dl_files(tmp_path), name: value}
    if value is None:
        del tensors[name]
    torch.save(tensors, tmp_path / "ae.pt")
    with pytest.raises(DataError, match=why):
        saes.load(tmp_path)


def test_the_class_that_the_config_names_is_held_against_the_tensors(tmp_path: Path) -> None:
    from lensbench import saes
    from lensbench.errors import DamagedDataError, UnknownNameError

    _dl_files(tmp_path, dict_class="BatchTopKSAE")  # the same tensors, another function
    assert saes.load(tmp_path).activation == "threshold"
    _dl_files(tmp_path, dict_class=None)
    with pytest.raises(DamagedDataError, match=r"AutoEncoderTopK or BatchTopKSAE.*says None"):
        saes.load(tmp_path)
    _dl_files(tmp_path, dict_class="GatedAutoEncoder")
    with pytest.raises(DamagedDataError, match="says GatedAutoEncoder"):
        saes.load(tmp_path)
    _dl_files(tmp_path, dict_class="IdentityDict")
    with pytest.raises(UnknownNameError, match="IdentityDict"):
        saes.load(tmp_path)


def test_an_april_update_that_its_trainer_calls_auto_encoder_is_read(tmp_path: Path) -> None:
    from lensbench import saes

    ours = _ours("relu")
    saes.save(ours, tmp_path, format="dictionary_learning")
    config = tmp_path / "config.json"
    assert "AutoEncoderNew" in config.read_text()
    config.write_text(config.read_text().replace("AutoEncoderNew", "AutoEncoder"))
    _same(saes.load(tmp_path), ours.encode(_x()), ours(_x()), ours.decode)


class _Code:
    def __reduce__(self) -> tuple[Any, tuple[str]]:
        return os.system, (f"touch {os.environ['TOUCHED']}",)


@pytest.mark.parametrize("kind", ["zip", "pickle"])
def test_a_pickle_with_code_in_it_is_refused_and_not_run(
    kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import pickle

    from lensbench import saes
    from lensbench.errors import DamagedDataError

    touched = tmp_path / "touched"
    monkeypatch.setenv("TOUCHED", str(touched))
    tensors = {**_dl_files(tmp_path), "b_dec": _Code()}
    for path in (tmp_path / "ae.pt", tmp_path / "0.pt"):
        if kind == "zip":
            torch.save(tensors, path)
        else:
            path.write_bytes(pickle.dumps({"b_dec": _Code()}, protocol=2))
        with pytest.raises(DamagedDataError, match="not opened"):
            saes.load(path)
        assert not touched.exists()
    with pytest.raises(pickle.UnpicklingError):
        torch.load(path, weights_only=True)
    with suppress(RuntimeError):  # no torch file, as it says after having run the code
        torch.load(path, weights_only=False)  # control: the code is there and would run
    assert touched.exists()


def test_an_npz_with_code_in_it_is_refused_and_not_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from lensbench import saes
    from lensbench.errors import DamagedDataError

    touched = tmp_path / "touched"
    monkeypatch.setenv("TOUCHED", str(touched))
    p: dict[str, Any] = _gemma_scope(tmp_path)
    p["b_dec"] = np.array([_Code()], dtype=object)
    np.savez(tmp_path / "params.npz", **p)
    with pytest.raises(DamagedDataError, match="holds pickles"):
        saes.load(tmp_path)
    assert not touched.exists()
    assert np.load(tmp_path / "params.npz", allow_pickle=True)["b_dec"] is not None
    assert touched.exists()  # control: the code is there and would run


def _written(name: str, folder: Path) -> Path:
    """A good dictionary in ``folder``; the file with its weights."""
    from lensbench import saes

    folder.mkdir(exist_ok=True)
    if name in ("sae_lens", "dictionary_learning", "sparsify"):
        saes.save(_ours("topk"), folder, format=name)  # type: ignore[arg-type]
    elif name == "gemma_scope":
        _gemma_scope(folder)
    elif name == "openai":
        _openai(folder / "0.pt")
    else:
        _llamascopium(folder, "relu")
    files = {"sae_lens": "sae_weights.safetensors", "llamascopium": "sae_weights.safetensors"}
    files |= {"dictionary_learning": "ae.pt", "sparsify": "sae.safetensors"}
    return folder / (files | {"gemma_scope": "params.npz", "openai": "0.pt"})[name]


FORMATS = ("sae_lens", "dictionary_learning", "sparsify", "llamascopium", "gemma_scope", "openai")


@pytest.mark.parametrize("name", FORMATS)
def test_a_cut_file_is_called_truncated_at_whatever_place_it_was_cut(
    name: Any, tmp_path: Path
) -> None:
    from lensbench import saes
    from lensbench.errors import DamagedDataError

    path = _written(name, tmp_path)
    whole = path.read_bytes()
    saes.load(path, format=name)
    for keep in (0, 1, 9, 100, 1000, len(whole) // 2, len(whole) - 200, len(whole) - 10):
        path.write_bytes(whole[:keep])
        with pytest.raises(DamagedDataError, match="truncated"):
            saes.load(path, format=name)
    path.write_bytes(b"<html>not found</html>" * 20)
    with pytest.raises(DamagedDataError, match="truncated"):
        saes.load(path, format=name)


@pytest.mark.parametrize("name", FORMATS)
def test_nan_weights_are_refused_in_every_format(name: Any, tmp_path: Path) -> None:
    from lensbench import saes
    from lensbench.errors import NonFiniteError

    path = _written(name, tmp_path)
    if path.suffix == ".npz":
        arrays = dict(np.load(path))
        arrays["W_dec"][0, 0] = np.nan
        np.savez(path, **arrays)  # type: ignore[arg-type]
    else:
        torch_file = path.suffix == ".pt"
        tensors = torch.load(path, weights_only=True) if torch_file else load_file(path)
        wide = next(n for n in ("W_dec", "W_D", "decoder.weight") if n in tensors)
        tensors[wide][0, 0] = math.nan
        torch.save(tensors, path) if torch_file else save_file(tensors, path)
    with pytest.raises(NonFiniteError, match=r"W_dec .* NaN or infinite in \d+ of 2304"):
        saes.load(path, format=name)


@pytest.mark.parametrize("name", ["sae_lens", "dictionary_learning", "sparsify", "llamascopium"])
def test_a_config_that_is_no_object_is_named(name: Any, tmp_path: Path) -> None:
    from lensbench import saes
    from lensbench.errors import DamagedDataError

    path = _written(name, tmp_path)
    config = next(tmp_path.glob("*.json"))
    for text, why in (("[1]", "must hold a JSON object"), ("{", "not valid JSON")):
        config.write_text(text)
        with pytest.raises(DamagedDataError, match=why):
            saes.load(path.parent, format=name)


def test_widths_of_sparsify_are_held_against_its_config(tmp_path: Path) -> None:
    from lensbench import saes
    from lensbench.errors import DataError

    saes.save(_ours("topk"), tmp_path, format="sparsify")
    path = tmp_path / "cfg.json"
    good = json.loads(path.read_text())
    path.write_text(json.dumps(good | {"num_latents": 0, "expansion_factor": F // D}))
    assert saes.load(tmp_path).d_sae == F
    for wrong, why in (
        ({"num_latents": F + 1}, "97 latents, .* holds 24 and 96"),
        ({"num_latents": 0, "expansion_factor": 5}, "120 latents"),
        ({"d_in": None}, "d_in .* must be a positive whole number"),
        ({"k": 0}, "k .* must be a positive whole number"),
        ({"k": F + 1}, "of at most 96"),
        ({"signed": True}, "both signs"),
        ({"skip_connection": True}, "skip_connection"),
        ({"activation": "groupmax"}, "groupmax"),
    ):
        path.write_text(json.dumps(good | wrong))
        with pytest.raises((DataError, ValueError), match=why):
            saes.load(tmp_path)


def test_the_command_line_takes_a_dictionary_of_any_format(tmp_path: Path) -> None:
    from lensbench.app.workflows.dictionaries import open_dictionary

    for name in FORMATS:
        path = _written(name, tmp_path / name)
        place = path if name == "openai" else path.parent
        assert open_dictionary(str(place)).d_sae == F
