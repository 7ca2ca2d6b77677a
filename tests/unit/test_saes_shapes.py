"""Dictionaries take activations as a model gives them: any leading axes, any float type."""

import warnings
from typing import Any

import numpy as np
import pytest
import torch

from lensbench.errors import ConfigError

D, F, K = 6, 20, 3
KINDS = ("topk", "relu", "threshold", "wrapped")
LEADING = ((), (4,), (2, 3), (2, 3, 2), (0,), (2, 0))


def made(kind: str) -> Any:
    from lensbench.saes import SAE, WrappedSAE

    rng = torch.Generator().manual_seed(3)
    encoder = torch.randn(D, F, generator=rng)
    if kind == "wrapped":
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # what sae_lens and its imports warn about
            import sae_lens
        inner = sae_lens.StandardSAE(
            sae_lens.StandardSAEConfig(d_in=D, d_sae=F, device="cpu", dtype="float32")
        )
        with torch.no_grad():
            inner.W_enc.copy_(encoder)
            inner.W_dec.copy_(encoder.T)
        return WrappedSAE(inner.requires_grad_(False), {"architecture": "standard"})
    return SAE(
        W_enc=encoder, b_enc=torch.zeros(F), W_dec=encoder.T.contiguous(), b_dec=torch.ones(D),
        activation=kind, k=K if kind == "topk" else None,  # type: ignore[arg-type]
        threshold=torch.full((F,), 0.5) if kind == "threshold" else None,
    )  # fmt: skip


def acts_of(leading: tuple[int, ...]) -> torch.Tensor:
    return torch.randn(*leading, D, generator=torch.Generator().manual_seed(5))


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("leading", LEADING)
def test_any_leading_axes_come_back(kind: str, leading: tuple[int, ...]) -> None:
    sae, x = made(kind), acts_of(leading)
    flat = x.reshape(-1, D)
    codes = sae.encode(x)
    assert codes.shape == (*leading, F)
    torch.testing.assert_close(codes.reshape(-1, F), sae.encode(flat))
    again = sae.decode(codes)
    assert again.shape == x.shape
    torch.testing.assert_close(again.reshape(-1, D), sae.decode(codes.reshape(-1, F)))
    assert sae(x).shape == x.shape
    torch.testing.assert_close(sae.forward(x), again)
    values, indices = sae.encode_sparse(x)
    assert values.shape == indices.shape
    assert values.shape[:-1] == leading
    torch.testing.assert_close(torch.zeros_like(codes).scatter_add(-1, indices, values), codes)
    torch.testing.assert_close(sae.decode_sparse(values, indices), again)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("dtype", [torch.float64, torch.float16, torch.bfloat16])
def test_any_float_type_is_read_in_the_dictionarys_own(kind: str, dtype: torch.dtype) -> None:
    sae, x = made(kind), acts_of((2, 3)).to(dtype)
    assert sae.encode(x).dtype == sae.W_dec.dtype
    torch.testing.assert_close(sae.encode(x), sae.encode(x.float()))
    codes = sae.encode(x).to(dtype)
    torch.testing.assert_close(sae.decode(codes), sae.decode(codes.float()))


@pytest.mark.illtyped
@pytest.mark.parametrize("kind", KINDS)
def test_what_is_no_activation_of_its_width_is_named(kind: str) -> None:
    sae = made(kind)
    wide, many = torch.ones(2, 3, D + 1), torch.ones(2, 3, F - 1)
    for call in (sae.encode, sae.encode_sparse, sae, sae.forward):
        with pytest.raises(
            ConfigError, match=rf"activations \[\.\.\., {D}\].*got \[2, 3, {D + 1}\]"
        ):
            call(wide)
        with pytest.raises(ConfigError, match=r"torch\.as_tensor.*got a numpy array"):
            call(np.ones((2, D), np.float32))
        with pytest.raises(ConfigError, match=r"floating.*got torch\.int64"):
            call(torch.ones(2, D, dtype=torch.long))
    with pytest.raises(ConfigError, match=rf"latents \[\.\.\., {F}\].*got \[2, 3, {F - 1}\]"):
        sae.decode(many)
    with pytest.raises(ConfigError, match=r"got a numpy array"):
        sae.decode(np.ones((2, F), np.float32))
    with pytest.raises(ConfigError, match=r"got a list"):
        sae.encode([[1.0] * D])
    with pytest.raises(ConfigError, match=r"activations.*got \[\]"):
        sae.encode(torch.tensor(1.0))
    values, indices = sae.encode_sparse(torch.ones(2, D))
    with pytest.raises(ConfigError, match=r"values and indices.*one shape"):
        sae.decode_sparse(values[:1], indices)


def test_activations_go_to_the_device_of_the_dictionary() -> None:
    away = made("relu").to("meta")  # a device without values, which every machine has
    codes = away.encode(acts_of((2, 3)))
    assert codes.device.type == "meta"
    assert away.decode(torch.ones(2, 3, F)).shape == (2, 3, D)
    assert away.decode(torch.ones(2, 3, F)).device.type == "meta"


def test_two_axes_are_read_without_a_copy() -> None:
    from lensbench.saes.shapes import flattened

    x = acts_of((4,))
    assert flattened(x, D, "activations", made("relu").W_dec) is x


def test_one_line_says_what_a_dictionary_is() -> None:
    from dataclasses import replace

    sae = replace(made("topk"), metadata={"site": "blocks.1.resid_post", "name": "mine"})
    assert repr(sae) == "SAE('mine' at blocks.1.resid_post: topk, d_model 6, d_sae 20, k 3, cpu)"
    assert repr(made("relu")) == "SAE(relu, d_model 6, d_sae 20, cpu)"
    assert repr(made("wrapped")) == "WrappedSAE(standard, d_model 6, d_sae 20, cpu)"


@pytest.mark.illtyped
@pytest.mark.parametrize("path", [3, None, b"x", ""])
def test_what_is_no_path_is_named(path: Any) -> None:
    from lensbench import saes

    with pytest.raises(ConfigError, match=r"folder.*sae_lens:.*got"):
        saes.load(path)
