"""Transcoders and crosscoders on disk, against the owner's own code; tolerance 1e-5, float32.

Control of each comparison: an input a hundredth off is seen.
"""

import os
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

D, OUT, F, K, TOLERANCE = 24, 18, 96, 5, 1e-5
PEERS = os.environ.get("LENSBENCH_PEERS", "")
pytestmark = pytest.mark.filterwarnings("ignore")  # what the peers and their imports warn about


def _rand(*shape: int, seed: int) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed)) * 0.3


def _transcoder(activation: Any, *, skip: bool, d_out: int = OUT) -> Any:
    from lensbench import saes

    return saes.Transcoder(
        W_enc=_rand(D, F, seed=1),
        b_enc=_rand(F, seed=2),
        W_dec=_rand(F, d_out, seed=3),
        b_dec=_rand(d_out, seed=4),
        W_skip=_rand(D, d_out, seed=5) if skip else None,
        activation=activation,
        k=K if activation == "topk" else None,
        threshold=_rand(F, seed=6).abs() if activation == "threshold" else None,
        metadata={"site": "blocks.3.mlp.in", "target": "blocks.3.mlp_out"},
    )


def _crosscoder() -> Any:
    from lensbench import saes

    return saes.Crosscoder(
        W_enc=_rand(D, F, seed=1),
        b_enc=_rand(F, seed=2),
        W_dec=_rand(F, D, seed=3),
        b_dec=_rand(D, seed=4),
        activation="relu",
        sites=("a", "b"),
        widths=(10, 14),
        scales=(1.0, 2.0),
    )


def _x() -> Tensor:
    return torch.randn(200, D, generator=torch.Generator().manual_seed(5))


def _same(ours: Any, codes: Tensor, out: Tensor) -> None:
    with torch.no_grad():
        torch.testing.assert_close(ours.encode(_x()), codes, rtol=0, atol=TOLERANCE)
        torch.testing.assert_close(ours(_x()), out, rtol=0, atol=TOLERANCE)
        assert 0.01 < float((codes != 0).float().mean()) < 0.7
        assert float((ours(_x() + 0.01) - out).abs().max()) > 100 * TOLERANCE


KINDS = [(a, s) for a in ("relu", "threshold") for s in (False, True)]


@pytest.mark.parametrize(("activation", "skip"), KINDS)
def test_sae_lens_reads_transcoders_that_we_write(
    activation: str, skip: bool, tmp_path: Path
) -> None:
    from sae_lens import SAE as Theirs

    from lensbench import saes

    ours = _transcoder(activation, skip=skip)
    saes.save(ours, tmp_path, format="sae_lens")
    theirs: Any = Theirs.load_from_disk(str(tmp_path))
    with torch.no_grad():
        _same(ours, theirs.encode(_x()), theirs(_x()))
    assert theirs.cfg.metadata.hook_name_out == "blocks.3.hook_mlp_out"


@pytest.mark.parametrize(("activation", "skip"), KINDS)
def test_transcoders_of_sae_lens_give_their_owners_codes(
    activation: str, skip: bool, tmp_path: Path
) -> None:
    from sae_lens.saes import transcoder as theirs_module

    from lensbench import saes

    name = f"{'JumpReLU' * (activation == 'threshold')}{'Skip' * skip}Transcoder"
    config = getattr(theirs_module, f"{name}Config")(
        d_in=D, d_out=OUT, d_sae=F, apply_b_dec_to_input=False
    )
    config.metadata.hook_name = "blocks.3.mlp.hook_in"
    config.metadata.hook_name_out = "blocks.3.hook_mlp_out"
    theirs = getattr(theirs_module, name)(config)
    with torch.no_grad():
        for i, (part, weight) in enumerate(theirs.named_parameters()):
            weight.copy_(_rand(*weight.shape, seed=i))
            if part == "threshold":
                weight.abs_()
    theirs.save_model(str(tmp_path))
    ours = saes.load(tmp_path)
    assert isinstance(ours, saes.Transcoder)
    assert (ours.site, ours.target) == ("blocks.3.mlp.in", "blocks.3.mlp_out")
    with torch.no_grad():
        _same(ours, theirs.encode(_x()), theirs(_x()))


@pytest.fixture
def peers(monkeypatch: pytest.MonkeyPatch) -> None:
    if not PEERS or not (Path(PEERS) / "sparsify").is_dir():
        pytest.skip("LENSBENCH_PEERS names no folder with sparsify")
    monkeypatch.setenv("SPARSIFY_DISABLE_TRITON", "1")
    monkeypatch.setattr(sys, "path", [*sys.path, PEERS])


@pytest.mark.usefixtures("peers")
@pytest.mark.parametrize("skip", [False, True])
@pytest.mark.parametrize("way", ["theirs", "ours"])
def test_transcoders_of_sparsify_give_the_same_codes(way: str, skip: bool, tmp_path: Path) -> None:
    from sparsify import SparseCoder, SparseCoderConfig

    from lensbench import saes

    folder = tmp_path / "layers.3.mlp"
    if way == "theirs":
        config = SparseCoderConfig(num_latents=F, k=K, transcode=True, skip_connection=skip)
        theirs = SparseCoder(D, config)
        with torch.no_grad():
            for i, (_, weight) in enumerate(theirs.named_parameters()):
                weight.copy_(_rand(*weight.shape, seed=i))
        theirs.save_to_disk(folder)
        ours: Any = saes.load(folder)
        assert (ours.site, ours.target) == ("blocks.3.mlp.in", "blocks.3.mlp_out")
    else:
        ours = _transcoder("topk", skip=skip, d_out=D)
        saes.save(ours, folder, format="sparsify")
        theirs = SparseCoder.load_from_disk(folder)
    with torch.no_grad():
        top = theirs.encode(_x())
        codes = torch.zeros(200, F).scatter_(1, top.top_indices, top.top_acts)
        out = theirs.decode(top.top_acts, top.top_indices)
        _same(ours, codes, out if not skip else out + _x() @ theirs.W_skip.mT)


@pytest.mark.parametrize("role", ["topk", "threshold", "crosscoder"])
def test_our_own_format_holds_everything(role: str, tmp_path: Path) -> None:
    from lensbench import saes
    from lensbench.errors import DamagedDataError

    ours = _crosscoder() if role == "crosscoder" else _transcoder(role, skip=True)
    back: Any = saes.load(saes.save(ours, tmp_path))
    assert type(back) is type(ours)
    assert torch.equal(back(_x()), ours(_x()))
    assert back.metadata == ours.metadata
    if role == "crosscoder":
        assert (back.sites, back.widths, back.scales) == (ours.sites, ours.widths, ours.scales)
    weights = tmp_path / "dictionary.safetensors"
    raw = bytearray(weights.read_bytes())
    raw[-1] ^= 1
    weights.write_bytes(raw)
    with pytest.raises(DamagedDataError, match="sha256"):
        saes.load(tmp_path)


@pytest.mark.parametrize(
    ("make", "format"),
    [
        (lambda: _transcoder("topk", skip=False), "sae_lens"),
        (lambda: _transcoder("relu", skip=False), "sparsify"),
        (lambda: _transcoder("topk", skip=False), "sparsify"),
        (lambda: _transcoder("relu", skip=False), "dictionary_learning"),
        (_crosscoder, "sae_lens"),
        (_crosscoder, "sparsify"),
        (_crosscoder, "dictionary_learning"),
    ],
)
def test_a_format_that_has_no_such_thing_says_which_has(
    make: Any, format: Any, tmp_path: Path
) -> None:
    from lensbench import saes
    from lensbench.errors import MismatchError

    with pytest.raises(MismatchError, match=r"lensbench|sae_lens"):
        saes.save(make(), tmp_path / "x", format=format)
    assert not (tmp_path / "x").exists()


def _circuit_tracer(folder: Path, *, skip: bool, jumps: bool, **config: Any) -> dict[str, Tensor]:
    from safetensors.torch import save_file

    p = {"W_enc": _rand(F, D, seed=1), "b_enc": _rand(F, seed=2), "W_dec": _rand(F, OUT, seed=3)}
    p["b_dec"] = _rand(OUT, seed=4)
    if skip:
        p["W_skip"] = _rand(OUT, D, seed=5)
    if jumps:
        p["activation_function.threshold"] = _rand(F, seed=6).abs()
    folder.mkdir(exist_ok=True)
    save_file(p, folder / "layer_7.safetensors")
    hooks = {"feature_input_hook": "mlp.hook_in", "feature_output_hook": "hook_mlp_out"}
    told = {"model_kind": "transcoder_set", "model_name": "Qwen/Qwen3-4B"} | hooks | config
    text = "".join(f"{name}: {value}\n" for name, value in told.items())
    (folder / "config.yaml").write_text(text)
    return p


@pytest.mark.parametrize(("jumps", "skip"), [(j, s) for j in (False, True) for s in (False, True)])
def test_transcoders_of_circuit_tracer_give_the_codes_of_its_formula(
    jumps: bool, skip: bool, tmp_path: Path
) -> None:
    from lensbench import saes

    p = _circuit_tracer(tmp_path, skip=skip, jumps=jumps)
    z = _x() @ p["W_enc"].T + p["b_enc"]
    codes = z * (z > p["activation_function.threshold"]) if jumps else z.relu()
    out = codes @ p["W_dec"] + p["b_dec"]
    ours: Any = saes.load(tmp_path / "layer_7.safetensors")
    assert (ours.site, ours.target) == ("blocks.7.mlp.in", "blocks.7.mlp_out")
    assert ours.metadata["model_name"] == "Qwen/Qwen3-4B"
    _same(ours, codes, out + _x() @ p["W_skip"].T if skip else out)


def test_what_a_file_of_circuit_tracer_does_not_say_is_not_guessed(tmp_path: Path) -> None:
    from lensbench import saes
    from lensbench.errors import DamagedDataError, MismatchError, MissingDataError

    path, told = tmp_path / "layer_7.safetensors", tmp_path / "config.yaml"
    for config, why in (
        ({"activation": "topk", "k": 4}, "keeps negative codes"),
        ({"model_kind": "cross_layer_transcoder"}, "is a cross_layer_transcoder"),
        ({"activation": "relu"}, "has thresholds"),
    ):
        _circuit_tracer(tmp_path, skip=False, jumps=True, **config)
        with pytest.raises(MismatchError, match=why):
            saes.load(path)
    told.unlink()
    assert saes.load(path).site is None  # a threshold says what it is, nothing says where
    _circuit_tracer(tmp_path, skip=False, jumps=False)
    told.unlink()
    with pytest.raises(MissingDataError, match=r"no config\.yaml beside .* ReLU or TopK"):
        saes.load(path)
    told.write_text("- a\n")
    with pytest.raises(DamagedDataError, match="must hold a mapping"):
        saes.load(path)
