"""What we write for OpenAI, Gemma Scope and Llamascopium, against their formulas in numpy.

The owners cannot be installed here, so each formula is written out, in float64, from the arrays on
disk alone. Tolerance 1e-5, as in ``test_saes_formats``; a hundredth off in the input is seen.
"""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

D, F, K, TOLERANCE = 24, 96, 5, 1e-5
X = torch.randn(200, D, generator=torch.Generator().manual_seed(5))
CODES = torch.rand(20, F, generator=torch.Generator().manual_seed(7))
NEW = ("openai", "gemma_scope", "llamascopium")


def _weights(role: str = "sae", kind: Any = "relu", **more: Any) -> Any:
    from lensbench import saes

    rng = torch.Generator().manual_seed(0)

    def draw(*shape: int) -> Tensor:
        return 0.3 * torch.randn(*shape, generator=rng)

    made: dict[str, Any] = {"W_enc": draw(D, F), "b_enc": draw(F), "W_dec": draw(F, D)}
    made |= {"b_dec": draw(D), "activation": kind, "k": K if kind == "topk" else None}
    made["config"] = {"architecture": kind, "lr": 1e-3}
    made["metadata"] = {"site": "blocks.2.resid_post", "model_name": "gpt2", "context_size": 64}
    if kind == "threshold":
        made["threshold"] = torch.rand(F, generator=rng)
    if role == "sae":
        return saes.SAE(**made | more)
    made["metadata"] |= {"site": "blocks.2.mlp.in", "target": "blocks.2.mlp_out"}
    return saes.Transcoder(**made | more)


def _crosscoder() -> Any:
    from lensbench import saes

    plain = _weights()
    tensors = {n: getattr(plain, n) for n in ("W_enc", "b_enc", "W_dec", "b_dec")}
    return saes.Crosscoder(
        **tensors, activation="relu", sites=("a", "b"), widths=(10, 14), scales=(1.0, 2.0)
    )


def _agrees(ours: Any, encode: Any, W_dec: np.ndarray, b_dec: np.ndarray) -> None:
    """Codes, reconstruction and decoding of ours are the owner's; another input is seen."""
    x = X.double().numpy()
    codes = encode(x)
    for mine, theirs in (
        (ours.encode(X), codes),
        (ours(X), codes @ W_dec + b_dec),
        (ours.decode(CODES), CODES.double().numpy() @ W_dec + b_dec),
    ):
        assert np.abs(mine.double().numpy() - theirs).max() < TOLERANCE
    assert 0.01 < (codes != 0).mean() < 0.7
    assert np.abs(encode(x + 0.01) - codes).max() > 100 * TOLERANCE


def _largest(z: np.ndarray) -> np.ndarray:
    return np.where(z >= np.sort(z, axis=1)[:, -K][:, None], np.maximum(z, 0), 0)


# --- the owners' formulas -------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["relu", "threshold"])
def test_gemma_scope_computes_our_codes_from_what_we_write(kind: str, tmp_path: Path) -> None:
    from lensbench import saes

    ours = _weights(kind=kind)
    saes.save(ours, tmp_path, format="gemma_scope")
    with np.load(tmp_path / "params.npz", allow_pickle=False) as file:
        p = {name: file[name] for name in file.files}
    assert {n: (a.shape, a.dtype.name) for n, a in p.items()} == {
        "W_enc": ((D, F), "float32"),
        "W_dec": ((F, D), "float32"),
        "b_enc": ((F,), "float32"),
        "b_dec": ((D,), "float32"),
        "threshold": ((F,), "float32"),
    }

    def encode(x: np.ndarray) -> np.ndarray:
        z = x @ p["W_enc"].astype(float) + p["b_enc"]
        return np.where(z > p["threshold"], np.maximum(z, 0), 0)

    _agrees(ours, encode, p["W_dec"].astype(float), p["b_dec"].astype(float))


class _OpenAI(nn.Module):
    """The names and shapes of its autoencoder, to be loaded strictly."""

    def __init__(self) -> None:
        super().__init__()
        self.pre_bias = nn.Parameter(torch.empty(D))
        self.latent_bias = nn.Parameter(torch.empty(F))
        self.encoder = nn.Linear(D, F, bias=False)
        self.decoder = nn.Linear(F, D, bias=False)
        self.register_buffer("stats_last_nonzero", torch.zeros(F, dtype=torch.long))
        self.register_buffer("latents_activation_frequency", torch.ones(F))
        self.register_buffer("latents_mean_square", torch.zeros(F))


def test_openais_autoencoder_takes_our_state_and_computes_our_codes(tmp_path: Path) -> None:
    from lensbench import saes

    ours = _weights()
    saes.save(ours, tmp_path / "0.pt", format="openai")
    state = torch.load(tmp_path / "0.pt", weights_only=True)
    assert state.pop("activation") == "ReLU"
    nn.ReLU().load_state_dict(state.pop("activation_state_dict"), strict=True)
    theirs = _OpenAI()
    theirs.load_state_dict(state, strict=True)
    p = {name: t.detach().double().numpy() for name, t in theirs.named_parameters()}

    def encode(x: np.ndarray) -> np.ndarray:
        return np.maximum((x - p["pre_bias"]) @ p["encoder.weight"].T + p["latent_bias"], 0)

    _agrees(ours, encode, p["decoder.weight"].T, p["pre_bias"])


@pytest.mark.parametrize("kind", ["relu", "topk", "threshold"])
@pytest.mark.parametrize("role", ["sae", "transcoder"])
def test_llamascopium_computes_our_codes_from_what_we_write(
    role: str, kind: str, tmp_path: Path
) -> None:
    from lensbench import saes

    ours = _weights(role, kind)
    saes.save(ours, tmp_path, format="llamascopium")
    told = json.loads((tmp_path / "config.json").read_text())
    p = {n: t.double().numpy() for n, t in load_file(tmp_path / "sae_weights.safetensors").items()}
    names = {"relu": "relu", "topk": "topk", "threshold": "jumprelu"}
    assert (told["sae_type"], told["act_fn"], told["d_model"]) == ("sae", names[kind], D)
    assert int(told["d_model"] * told["expansion_factor"]) == F
    # neither of its two rescalings is in use, so the formula below is the whole of it
    assert (told["norm_activation"], told["sparsity_include_decoder_norm"]) == ("inference", False)
    assert not told["use_glu_encoder"]
    assert told["use_decoder_bias"]
    hooks = ["blocks.2.hook_resid_post"] * 2
    if role == "transcoder":
        hooks = ["blocks.2.mlp.hook_in", "blocks.2.hook_mlp_out"]
    assert [told["hook_point_in"], told["hook_point_out"]] == hooks
    log = p.pop("activation_function.log_jumprelu_threshold", None)
    assert set(p) == {"W_E", "b_E", "W_D", "b_D"}

    def encode(x: np.ndarray) -> np.ndarray:
        z = x @ p["W_E"] + p["b_E"]
        if kind == "topk":
            assert told["top_k"] == K
            return _largest(z)
        return np.where(z > (0 if log is None else np.exp(log)), z, 0)

    assert (log is not None) == (kind == "threshold")
    _agrees(ours, encode, p["W_D"], p["b_D"])


@pytest.mark.parametrize("kind", ["relu", "topk", "threshold"])
def test_transcoders_of_llamascopium_give_the_codes_of_the_unfolded_formula(
    kind: str, tmp_path: Path
) -> None:
    from lensbench import saes

    saes.save(_weights("transcoder", kind), tmp_path, format="llamascopium")
    path, told = tmp_path / "sae_weights.safetensors", tmp_path / "config.json"
    config = json.loads(told.read_text())
    del config["lensbench"]
    changed = {"norm_activation": "dataset-wise", "sparsity_include_decoder_norm": True}
    told.write_text(json.dumps(config | changed))
    norms = {config["hook_point_in"]: 8.0, config["hook_point_out"]: 3.0}
    tensors = load_file(path)
    stored = {f"dataset_average_activation_norm.{h}": torch.tensor(v) for h, v in norms.items()}
    save_file(tensors | stored, path)
    p = {n: t.double().numpy() for n, t in tensors.items()}
    one, other = (np.sqrt(D) / v for v in norms.values())
    n = np.linalg.norm(p["W_D"], axis=1)

    def encode(x: np.ndarray) -> np.ndarray:
        z = (one * x @ p["W_E"] + p["b_E"]) * n
        if kind == "topk":
            return _largest(z) / n
        cut = np.exp(p["activation_function.log_jumprelu_threshold"]) if kind != "relu" else 0
        return np.where(z > cut, z, 0) / n

    ours = saes.load(tmp_path)
    assert isinstance(ours, saes.Transcoder)
    assert (ours.site, ours.target) == ("blocks.2.mlp.in", "blocks.2.mlp_out")
    # codes in the units of x; where norms choose among latents, of a decoder of unit norm
    unit = n * one / other if kind == "topk" else np.ones(F)
    scaled = p["W_D"] * (one / other) / unit[:, None]
    _agrees(ours, lambda x: encode(x) / one * unit, scaled, p["b_D"] / other)


@pytest.mark.parametrize("format", ["gemma_scope", "llamascopium"])
def test_a_bias_that_is_not_folded_would_be_seen(format: Any, tmp_path: Path) -> None:
    from lensbench import saes

    ours = _weights()
    saes.save(ours, tmp_path, format=format)
    if format == "gemma_scope":
        with np.load(tmp_path / "params.npz") as file:
            bias = torch.from_numpy(file["b_enc"])
    else:
        bias = load_file(tmp_path / "sae_weights.safetensors")["b_E"]
    assert float((bias - ours.b_enc).abs().max()) > 1000 * TOLERANCE


# --- back through our own readers -----------------------------------------------------------------

KINDS = [
    ("openai", "sae", "relu"),
    ("gemma_scope", "sae", "relu"),
    ("gemma_scope", "sae", "threshold"),
    *(("llamascopium", r, k) for r in ("sae", "transcoder") for k in ("relu", "topk", "threshold")),
]


@pytest.mark.parametrize(("format", "role", "kind"), KINDS)
def test_what_is_written_comes_back_with_codes_site_config_and_metadata(
    format: Any, role: str, kind: str, tmp_path: Path
) -> None:
    from lensbench import saes
    from lensbench.saes.formats import recognise

    ours = _weights(role, kind)
    folder = saes.save(ours, tmp_path / "it", format=format)
    assert recognise(folder) == [format]
    assert not [p.name for p in folder.iterdir() if ".tmp" in p.name]
    for again in (saes.load(folder), saes.load(folder, format=format)):
        assert type(again) is type(ours)
        torch.testing.assert_close(again.encode(X), ours.encode(X), rtol=0, atol=TOLERANCE)
        torch.testing.assert_close(again(X), ours(X), rtol=0, atol=TOLERANCE)
        assert (again.site, again.config, again.k) == (ours.site, ours.config, ours.k)
        assert getattr(again, "target", None) == getattr(ours, "target", None)
        assert again.metadata == ours.metadata | {"source_format": format}


def test_a_dictionary_goes_through_all_formats_that_hold_it_and_keeps_its_codes(
    tmp_path: Path,
) -> None:
    from lensbench import saes

    ways: tuple[Any, ...] = ("openai", "gemma_scope", "llamascopium", "dictionary_learning")
    ours = sae = _weights()
    for i, name in enumerate((*ways, "openai", "sae_lens", "gemma_scope", "openai")):
        sae: Any = saes.load(saes.save(sae, tmp_path / str(i), format=name))
    torch.testing.assert_close(sae.encode(X), ours.encode(X), rtol=0, atol=TOLERANCE)
    torch.testing.assert_close(sae(X), ours(X), rtol=0, atol=TOLERANCE)
    assert (sae.site, sae.config["lr"]) == (ours.site, 1e-3)


@pytest.mark.parametrize(("format", "name"), [("openai", "7.pt"), ("gemma_scope", "7.npz")])
def test_several_single_files_lie_in_one_folder_each_with_its_note(
    format: Any, name: str, tmp_path: Path
) -> None:
    from lensbench import saes

    for layer in (7, 8):
        ours = _weights(metadata={"site": f"blocks.{layer}.resid_post"})
        place = tmp_path / name.replace("7", str(layer))
        assert saes.save(ours, place, format=format) == place
        assert place.is_file()
    assert [saes.load(tmp_path / name.replace("7", n)).site for n in "78"] == [
        "blocks.7.resid_post",
        "blocks.8.resid_post",
    ]


@pytest.mark.parametrize("format", ["openai", "gemma_scope"])
def test_a_note_is_not_believed_beside_other_weights(format: Any, tmp_path: Path) -> None:
    from lensbench import saes

    saes.save(_weights(), tmp_path / "a", format=format)
    saes.save(_weights(b_enc=torch.ones(F)), tmp_path / "b", format=format)
    (file,) = (p for p in (tmp_path / "a").iterdir() if p.suffix != ".json")
    file.write_bytes((tmp_path / "b" / file.name).read_bytes())
    again = saes.load(tmp_path / "a")
    assert (again.site, again.config) == (None, {})
    assert saes.load(tmp_path / "b").site == "blocks.2.resid_post"  # control: there it is


@pytest.mark.parametrize("format", ["gemma_scope", "llamascopium"])
def test_thresholds_at_the_edges_keep_their_meaning(format: Any, tmp_path: Path) -> None:
    from lensbench import saes

    values = [-1.0, 0.0, 1e-30, float("inf"), 0.5, 300.0]  # -1: BatchTopK whose threshold was unset
    ours = _weights(kind="threshold", threshold=torch.tensor(values).repeat(F // 6))
    again = saes.load(saes.save(ours, tmp_path, format=format))
    torch.testing.assert_close(again.encode(X), ours.encode(X), rtol=0, atol=TOLERANCE)
    fires = (again.encode(X) > 0).float().mean(0).reshape(-1, 6).mean(0)
    assert (fires[:3] > 0.2).all()
    assert fires[3] == fires[5] == 0
    unset = _weights(kind="threshold", threshold=torch.full((F,), -1.0))
    torch.testing.assert_close(
        saes.load(saes.save(unset, tmp_path / "0.pt", format="openai")).encode(X), unset.encode(X)
    )


def test_llamascopium_finds_the_width_from_the_expansion_factor() -> None:
    from lensbench.saes.formats.llamascopium import _factor

    wrong = [(d, f) for d in (7, 24, 48, 49, 768, 2304) for f in range(1, 3000)
             if int(d * _factor(d, f)) != f]  # fmt: skip
    assert not wrong
    assert [f for f in range(1, 3000) if int(49 * (f / 49)) != f]  # control: plain division fails


# --- what a format cannot hold --------------------------------------------------------------------

REFUSED = [
    *((f, _crosscoder, r"crosscoder.*'lensbench'") for f in NEW),
    *((f, lambda: _weights("transcoder"), r"transcoder.*'sae_lens'") for f in NEW[:2]),
    ("openai", lambda: _weights("transcoder", "topk"), r"transcoder.*'sparsify'"),
    ("openai", lambda: _weights(kind="topk"), r"its own standard deviation.*'sparsify'"),
    ("openai", lambda: _weights(kind="threshold"), r"no thresholds.*'gemma_scope'"),
    ("gemma_scope", lambda: _weights(kind="topk"), r"JumpReLU.*'llamascopium'"),
    ("llamascopium", lambda: _weights("transcoder", W_skip=torch.ones(D, D)), r"skip.*'sae_lens'"),
    (
        "llamascopium",
        lambda: _weights("transcoder", W_dec=torch.ones(F, 3), b_dec=torch.ones(3)),
        r"from 24 to 3 numbers.*'sae_lens'",
    ),
    ("llamascopium", lambda: _weights(metadata={}), r"metadata\['site'\]"),
    (
        "llamascopium",
        lambda: _weights("transcoder", metadata={"site": "a", "target": "a"}),
        r"to itself.*'sae_lens'",
    ),
]


@pytest.mark.parametrize(("format", "make", "why"), REFUSED)
def test_what_a_format_cannot_hold_is_refused_before_anything_is_written(
    format: Any, make: Any, why: str, tmp_path: Path
) -> None:
    from lensbench import saes
    from lensbench.errors import MismatchError

    with pytest.raises(MismatchError, match=why):
        saes.save(make(), tmp_path / "it", format=format)
    assert not (tmp_path / "it").exists()


@pytest.mark.parametrize("format", NEW)
def test_a_failed_write_leaves_what_was_there(
    format: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from lensbench import saes
    from lensbench.errors import DataError

    saes.save(_weights(), tmp_path, format=format)
    before = {p.name: p.read_bytes() for p in tmp_path.iterdir()}

    def full(_: Any, __: Any) -> Any:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Path, "replace", full)
    with pytest.raises(DataError, match="No space left"):
        saes.save(_weights(b_enc=torch.ones(F)), tmp_path, format=format)
    assert {p.name: p.read_bytes() for p in tmp_path.iterdir()} == before
