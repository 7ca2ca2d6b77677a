"""Persistent hooks on an untouched transformers module.

Each hook knows its site and asks the active session whether it is wanted; without a session it
returns at once. Blocks get a replaceable ``forward``, because no hook can keep a module from
running; everything else is an ordinary forward hook. Weights, modules and names stay as they were.
"""

import copy
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from lensbench.models.families import Family, submodule
from lensbench.models.session import ACTIVE, Key, Session, first, replace_first


class BlockForward:
    """A block's ``forward`` that the active session may skip, start at, or stop after."""

    def __init__(self, owner: "Taps", layer: int, original: Callable[..., Any]) -> None:
        self.owner, self.layer, self.original = owner, layer, original

    def __call__(self, hidden_states: Tensor, *args: Any, **kwargs: Any) -> Any:
        """Run the block under the session, or plainly when there is none."""
        session = self.owner.session()
        if session is None:
            return self.original(hidden_states, *args, **kwargs)
        return session.block(self.layer, self.original, hidden_states, args, kwargs)

    def __deepcopy__(self, memo: dict[int, Any]) -> Callable[..., Any]:
        """A copied model gets its plain forward back."""
        return copy.deepcopy(self.original, memo)


class Taps:
    """All hooks of one module, made once."""

    def __init__(self, module: nn.Module, family: Family, n_heads: int) -> None:
        self.family, self._n_heads = family, n_heads
        self._open_attention = bool(getattr(module, "_supports_attention_backend", False))
        blocks = submodule(module, family.blocks)
        self.attention = {id(submodule(b, family.attn)): i for i, b in enumerate(blocks.children())}
        embedding = module.get_input_embeddings()  # pyright: ignore[reportCallIssue] - transformers
        embedding.register_forward_hook(self._embed)
        for layer, block in enumerate(blocks.children()):
            self._tap_block(layer, block)
        norm = submodule(module, family.final_norm)
        norm.register_forward_hook(self._norm(("ln_final.scale", None), norm))
        norm.register_forward_hook(self._output(("ln_final", None)))

    def session(self) -> Session | None:
        """The active session, when it is one of this module."""
        session = ACTIVE.get()
        return session if session is not None and session.owner is self else None

    def _tap_block(self, layer: int, block: nn.Module) -> None:
        family = self.family
        block.forward = BlockForward(self, layer, block.forward)
        for name, path in (("ln1.scale", family.ln1), ("ln2.scale", family.ln2)):
            norm = submodule(block, path)
            norm.register_forward_hook(self._norm((name, layer), norm))
        submodule(block, family.attn_out).register_forward_hook(self._attn_out(layer))
        if not self._open_attention:
            submodule(block, family.o_proj).register_forward_pre_hook(self._z(layer))
        if not family.parallel:
            submodule(block, family.ln2).register_forward_pre_hook(self._resid_mid(layer))
        if family.fused:
            submodule(block, family.up).register_forward_hook(self._gate_and_up(layer))
        else:
            submodule(block, family.up).register_forward_hook(self._output(("mlp.up", layer)))
        if family.gate is not None:
            submodule(block, family.gate).register_forward_hook(self._output(("mlp.gate", layer)))
        submodule(block, family.down).register_forward_pre_hook(self._input(("mlp.post", layer)))
        submodule(block, family.mlp_out).register_forward_hook(self._output(("mlp_out", layer)))

    def _embed(self, module: nn.Module, args: Any, out: Tensor) -> Tensor | None:
        del module, args
        session = self.session()
        if session is None:
            return None
        if session.grad and not out.requires_grad:
            out = out.requires_grad_()  # frozen weights: gradients still need a leaf
        return session.tap(("embed", None), out) if ("embed", None) in session.keys else out

    def _output(self, key: Key) -> Callable[..., Any]:
        def hook(module: nn.Module, args: Any, out: Any) -> Any:
            del module, args
            session = self.session()
            if session is None or key not in session.keys:
                return None
            return replace_first(out, _in_site_layout(session, key, first(out)))

        return hook

    def _input(self, key: Key) -> Callable[..., Any]:
        def hook(module: nn.Module, args: tuple[Tensor, ...]) -> Any:
            del module
            session = self.session()
            if session is None or key not in session.keys:
                return None
            return (_in_site_layout(session, key, args[0]), *args[1:])

        return hook

    def _norm(self, key: Key, norm: nn.Module) -> Callable[..., Any]:
        """The denominator s of y = (x - mean) / s * weight + bias; writing s' scales by s / s'."""

        def hook(module: nn.Module, args: tuple[Tensor, ...], out: Tensor) -> Tensor | None:
            del module
            session = self.session()
            if session is None or key not in session.keys:
                return None
            scale = _denominator(norm, args[0]).to(out.dtype)
            reading = key not in session.edits
            if reading and session.grad:  # a leaf through which the output flows as well
                scale = scale.detach().requires_grad_()
            edited = _in_site_layout(session, key, scale)
            if reading and not session.grad:
                return None
            if reading:
                scale = scale.detach()
            bias = getattr(norm, "bias", None)
            shift = 0 if bias is None else bias
            return (out - shift) * (scale / edited) + shift

        return hook

    def _attn_out(self, layer: int) -> Callable[..., Any]:
        """``attn_out``, and the writing of ``resid_mid``: the change goes through attn_out.

        A block adds attn_out to its own copy of resid_pre, which no hook can reach; so an edited
        resid_mid is handed over as attn_out' = resid_mid' - resid_pre. So is one whose gradient is
        wanted where the block goes on with another view of it.
        """
        out_key, mid_key = ("attn_out", layer), ("resid_mid", layer)

        def hook(module: nn.Module, args: Any, out: Any) -> Any:
            del module, args
            session = self.session()
            if session is None:
                return None
            through = mid_key in session.keys and (
                mid_key in session.edits or (session.grad and self.family.flat_mlp)
            )
            if out_key not in session.keys and not through:
                return None
            x = first(out)
            if out_key in session.keys:
                x = session.tap(out_key, x)
            if through and session.resid_pre is not None:
                x = session.tap(mid_key, session.resid_pre + x) - session.resid_pre
            return replace_first(out, x)

        return hook

    def _z(self, layer: int) -> Callable[..., Any]:
        """``attn.z`` at the input of the output projection, for families without the interface."""
        key: Key = ("attn.z", layer)

        def hook(module: nn.Module, args: tuple[Tensor, ...]) -> Any:
            del module
            session = self.session()
            if session is None or key not in session.keys:
                return None
            x = args[0]
            heads = x.view(
                -1, session.columns.positions.shape[1], self._n_heads, x.shape[-1] // self._n_heads
            )
            return (session.tap(key, heads).reshape(x.shape), *args[1:])

        return hook

    def _resid_mid(self, layer: int) -> Callable[..., Any]:
        """Reading ``resid_mid`` where the norm before the MLP reads it."""
        key: Key = ("resid_mid", layer)

        def hook(module: nn.Module, args: tuple[Tensor, ...]) -> None:
            del module
            session = self.session()
            if session is not None and key in session.keys and key in session.waiting:
                _in_site_layout(session, key, args[0])

        return hook

    def _gate_and_up(self, layer: int) -> Callable[..., Any]:
        gate_key, up_key = ("mlp.gate", layer), ("mlp.up", layer)

        def hook(module: nn.Module, args: Any, out: Tensor) -> Tensor | None:
            del module, args
            session = self.session()
            if session is None or not {gate_key, up_key} & session.keys:
                return None
            gate, up = out.chunk(2, dim=-1)
            gate = session.tap(gate_key, gate) if gate_key in session.keys else gate
            up = session.tap(up_key, up) if up_key in session.keys else up
            return torch.cat((gate, up), dim=-1)

        return hook


def _in_site_layout(session: Session, key: Key, x: Tensor) -> Tensor:
    """Tap ``x`` as ``batch pos d``; OPT flattens batch and position before its MLP."""
    if x.ndim != 2:
        return session.tap(key, x)
    shaped = x.view(-1, session.columns.positions.shape[1], x.shape[-1])
    return session.tap(key, shaped).reshape(x.shape)


def _denominator(norm: nn.Module, x: Tensor) -> Tensor:
    """sqrt(var + eps) of a LayerNorm, sqrt(mean(x^2) + eps) of an RMSNorm; ``[..., 1]``, fp32."""
    x = x.float()
    eps = float(getattr(norm, "variance_epsilon", None) or getattr(norm, "eps", 0.0))
    if isinstance(norm, nn.LayerNorm):
        return (x.var(-1, keepdim=True, unbiased=False) + eps).sqrt()
    return (x.pow(2).mean(-1, keepdim=True) + eps).sqrt()
