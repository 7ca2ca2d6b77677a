"""Directions to look latents up by: of a token, of two texts, of a file.

All are vectors ``[d_model]`` of any length: ``saes.nearest_latents`` asks for their direction only.
"""

import json
from collections.abc import Sequence
from difflib import get_close_matches
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from lensbench.arguments import whole
from lensbench.errors import ConfigError, DamagedDataError, MissingDataError, NotEnoughDataError
from lensbench.sites import canonical_name
from lensbench.tokens import token_texts

if TYPE_CHECKING:
    from lensbench.models import Model

Kind = Literal["unembedding", "embedding"]
KINDS: tuple[Kind, ...] = ("unembedding", "embedding")


def token_id(model: "Model", token: str | int) -> int:
    """The one token that a text is (its leading space counts), or an id that exists.

    Raises:
        ConfigError: a text of no or several tokens, which are shown, one that is not in the
            vocabulary (all of those share one token for the unknown), or no such id.
    """
    number = whole(token)
    if number is not None:
        if not 0 <= number < model.card.d_vocab:
            raise ConfigError(f"token ids run from 0 to {model.card.d_vocab - 1}; got {number}")
        return number
    if not isinstance(token, str):
        raise ConfigError(f"a token is a text or an id, got {token!r}")
    ids: list[int] = model.tokenizer.encode(token, add_special_tokens=False)
    _refuse_unknown(model.tokenizer, token, ids)
    if len(ids) != 1:
        parts = " ".join(repr(text) for text in token_texts(model.tokenizer, ids)) or "nothing"
        other = token.lstrip(" ") if token.startswith(" ") else f" {token}"
        one = len(model.tokenizer.encode(other, add_special_tokens=False)) == 1
        raise ConfigError(
            f"{token!r} is {len(ids)} tokens for this model ({parts}); give one token"
            + (f", such as {other!r}" if one else "")
        )
    return int(ids[0])


def _refuse_unknown(tokenizer: Any, token: str, ids: Sequence[int]) -> None:
    """Refuse text that the tokenizer knows only as its token for what it does not know."""
    unknown = getattr(tokenizer, "unk_token", None)
    if unknown is None or token.strip() == unknown or tokenizer.unk_token_id not in ids:
        return
    near = get_close_matches(token.strip(), list(tokenizer.get_vocab()), n=3, cutoff=0.6)
    guess = f" Did you mean {' or '.join(map(repr, near))}?" if near else ""
    raise ConfigError(
        f"{token!r} is not in the vocabulary of this model, where every such text is the one token "
        f"{unknown}: its direction would say nothing of the text.{guess}"
    )


def token_direction(
    model: "Model", token: str | int, *, kind: Kind = "unembedding"
) -> Float[Tensor, " d_model"]:
    """The direction of a token, in the residual stream.

    unembedding: the gradient of ``logit_t - mean over the vocabulary of the logits`` in the state
    that leaves the last block, at the state 0: W_U's row of t less the mean row, the final norm's
    gain folded in (and the mean taken out where it is a LayerNorm), up to one positive factor.
    embedding: the output of the token embedding at t, without positions.

    Raises:
        ConfigError: another kind, or no such token; see :func:`token_id`.

    Example:
        >>> towards = saes.token_direction(model, " Lima")  # its column of the unembedding
    """
    if kind not in KINDS:
        raise ConfigError(f"kind must be {' or '.join(KINDS)}, got {kind!r}")
    number = token_id(model, token)
    if kind == "embedding":
        ids = torch.tensor([[number]])
        found = model.run(ids, capture=["embed"], logits="none")
        return found.acts["embed"][0, 0].detach().float().cpu()
    with torch.enable_grad():
        at = torch.zeros(1, model.card.d_model, requires_grad=True)
        logits = model.unembed(at, grad=True)[0].float()
        gain = logits[number] - logits.mean()
        (direction,) = torch.autograd.grad(gain, at)
    return _directed(direction[0].detach().float().cpu(), f"the unembedding of {token!r}")


@torch.no_grad()
def difference_direction(
    model: "Model", site: str, one: str | Sequence[str], other: str | Sequence[str]
) -> Float[Tensor, " d_model"]:
    """Mean activation at ``site`` over the tokens of ``one`` less that over those of ``other``.

    The first position of each text (the token that begins it) is left out where there are others:
    its activations are of another size. Source: difference of means, Marks & Tegmark 2023,
    arXiv:2310.06824; Rimsky et al. 2023, arXiv:2312.06681.

    Raises:
        ConfigError: a text without tokens.
        NotEnoughDataError: two texts with the same mean.

    Example:
        >>> step = saes.difference_direction(
        ...     model, "blocks.3.resid_post", "The king sees the boys", "The kings see the boys"
        ... )
    """
    means = [text_mean(model, site, texts) for texts in (one, other)]
    return _directed(means[0] - means[1], "the difference of the texts")


@torch.no_grad()
def text_mean(model: "Model", site: str, texts: str | Sequence[str]) -> Float[Tensor, " width"]:
    """Mean activation at ``site`` over all tokens of the texts but the first of each.

    Raises:
        ConfigError: no text, or one without tokens.
    """
    site = canonical_name(site)
    listed: list[Any] = [texts] if isinstance(texts, str) else list(texts)
    if not listed or not all(isinstance(t, str) and t.strip() for t in listed):
        raise ConfigError("give at least one text that is not empty on each side")
    total, n = torch.zeros(()), 0
    for text in listed:
        tokens = model.tokens(text)
        acts = model.run(tokens, capture=[site], logits="none").acts[site][0].float().cpu()
        acts = acts.reshape(len(acts), -1)
        kept = acts[1:] if len(acts) > 1 else acts
        total, n = total + kept.sum(0), n + len(kept)
    return total / n


def read_direction(
    path: Path | str, *, content: bytes | None = None, d_model: int | None = None
) -> Float[np.ndarray, " d_model"]:
    """A vector from a file: ``.json`` (a list), ``.npy``, ``.safetensors`` (one tensor), or text.

    So a probe's weights come in. Text holds numbers between spaces, commas or lines; a file with
    several vectors is refused. ``content`` are its bytes, where they are at hand already.

    Raises:
        MissingDataError: no such file.
        DamagedDataError: not one vector of finite numbers.
        ConfigError: not of length ``d_model``.

    Example:
        >>> np.save("probe.npy", np.ones(128))
        >>> saes.read_direction("probe.npy", d_model=128).shape
        (128,)
    """
    path = Path(path)
    try:
        data = path.read_bytes() if content is None else content
    except FileNotFoundError as error:
        raise MissingDataError(f"no file {path}") from error
    try:
        found = np.asarray(_parsed(path, data), np.float64)
    except (ValueError, TypeError, KeyError) as error:
        raise DamagedDataError(f"{path.name} holds no vector of numbers: {error}") from error
    found = found.reshape(-1) if found.size == max(found.shape, default=0) else found
    if found.ndim != 1 or not found.size or not np.isfinite(found).all() or not found.any():
        raise DamagedDataError(
            f"{path.name} must hold one vector of finite numbers that are not all 0, got shape "
            f"{list(found.shape)}"
        )
    if d_model is not None and len(found) != d_model:
        raise ConfigError(f"{path.name} has {len(found)} numbers; the dictionary needs {d_model}")
    return found


def _parsed(path: Path, data: bytes) -> Any:
    ending = path.suffix.lower()
    if ending == ".npy":
        import io as bytes_io

        return np.load(bytes_io.BytesIO(data), allow_pickle=False)
    if ending == ".safetensors":
        from safetensors import SafetensorError
        from safetensors.torch import load

        try:
            tensors = load(data)
        except SafetensorError as error:
            raise ValueError(str(error)) from error
        if len(tensors) != 1:
            raise ValueError(f"{len(tensors)} tensors ({', '.join(tensors)}) instead of one")
        return next(iter(tensors.values())).float().numpy()
    text = data.decode("utf-8")
    if ending == ".json":
        return json.loads(text)
    return [float(part) for part in text.replace(",", " ").replace(";", " ").split()]


def _directed(vector: Float[Tensor, " d_model"], what: str) -> Float[Tensor, " d_model"]:
    if not bool(vector.isfinite().all()) or not bool(vector.any()):
        raise NotEnoughDataError(f"{what} is no direction: all of it is 0, or not finite")
    return vector
