"""Persistent hooks on an untouched transformers module: which hook stands where.

Blocks (and experts) get a replaceable ``forward``, because no hook can keep a module from running;
everything else is an ordinary forward hook. Weights, modules and names stay as they were.
"""

from typing import Any

from torch import Tensor, nn

from lensbench.models import hooks
from lensbench.models.families import (
    Architecture,
    Cross,
    Family,
    StateSpace,
    blocks_of,
    mlp_reader,
    part,
)
from lensbench.models.hooks import session_of
from lensbench.models.mixture import hook_experts
from lensbench.models.session import Key, Place
from lensbench.models.streams import BlockForward, added, seen


class Taps:
    """All hooks of one module, made once."""

    def __init__(
        self, module: nn.Module, architecture: Architecture, n_heads: int, *, opened: bool
    ) -> None:
        self.architecture, self._n_heads, self._opened = architecture, n_heads, opened
        self.attention: dict[int, Place] = {}
        embedding = module.get_input_embeddings()  # pyright: ignore[reportCallIssue] - transformers
        embedding.register_forward_hook(self._embed)
        for stack, family in architecture.stacks.items():
            for layer, block in enumerate(blocks_of(module, family)):
                self._tap_block(family, layer, stack, block)
            if family.final_norm is not None:
                norm = module.get_submodule(family.final_norm)
                self._tap_norm(norm, ("ln_final.scale", None, stack))
                self._tap_output(norm, ("ln_final", None, stack))

    def _tap_block(self, family: Family, layer: int, stack: str, block: nn.Module) -> None:
        block.forward = BlockForward(self, family, layer, stack, block)
        self._tap_norm(part(block, family.ln1), ("ln1.scale", layer, stack))
        self._tap_norm(part(block, family.ln2), ("ln2.scale", layer, stack))
        if family.ssm is not None:
            self._tap_ssm(family.ssm, layer, stack, block)
            return
        self._tap_attention(family, layer, stack, block)
        if family.cross is not None:
            self._tap_cross(family, family.cross, layer, stack, block)
        self._tap_mlp(family, layer, stack, block)
        if family.moe is not None:
            hook_experts(self, layer, stack, block, family.moe)

    def _tap_attention(self, family: Family, layer: int, stack: str, block: nn.Module) -> None:
        place = Place("attn", layer, stack)
        self.attention[id(part(block, family.attn))] = place
        if not self._opened:
            projection = block.get_submodule(family.o_proj)
            projection.register_forward_pre_hook(self._z(place.key("z")))
        mid: Key | None = None if family.parallel else ("resid_mid", layer, stack)
        through = None if family.mid_out is not None else mid
        out = added(self, ("attn_out", layer, stack), through, "resid_pre", view=family.flat_mlp)
        block.get_submodule(family.attn_out).register_forward_hook(out)
        if mid is None:
            return
        if family.mid_out is not None:
            self._tap_output(block.get_submodule(family.mid_out), mid)
            return
        reader = family.cross.ln if family.cross is not None else family.mid_in or family.ln2
        assert reader is not None  # a block that is not parallel has a norm before its MLP
        keep = family.cross is not None
        block.get_submodule(reader).register_forward_pre_hook(seen(self, mid, keep=keep))

    def _tap_cross(
        self, family: Family, cross: Cross, layer: int, stack: str, block: nn.Module
    ) -> None:
        self.attention[id(part(block, cross.attn))] = Place("xattn", layer, stack)
        self._tap_norm(part(block, cross.ln), ("xln.scale", layer, stack))
        mid: Key = ("resid_xmid", layer, stack)
        through = None if cross.mid_out is not None else mid
        out = added(self, ("xattn_out", layer, stack), through, "resid_mid", view=False)
        block.get_submodule(cross.out).register_forward_hook(out)
        if cross.mid_out is not None:
            self._tap_output(block.get_submodule(cross.mid_out), mid)
        elif family.ln2 is not None:
            reader = block.get_submodule(family.ln2)
            reader.register_forward_pre_hook(seen(self, mid, keep=False))

    def _tap_mlp(self, family: Family, layer: int, stack: str, block: nn.Module) -> None:
        up, gate, reader = (
            part(block, family.up),
            part(block, family.gate),
            mlp_reader(block, family),
        )
        if reader is not None:
            reader.register_forward_pre_hook(hooks.entry(self, ("mlp.in", layer, stack)))
        if up is not None and family.fused:
            keys: tuple[Key, Key] = (("mlp.gate", layer, stack), ("mlp.up", layer, stack))
            up.register_forward_hook(hooks.halves(self, *keys))
        else:
            self._tap_output(up, ("mlp.up", layer, stack))
            self._tap_output(gate, ("mlp.gate", layer, stack))
        down = part(block, family.down)
        if down is not None:
            down.register_forward_pre_hook(hooks.entry(self, ("mlp.post", layer, stack)))
        hook = hooks.output(self, ("mlp_out", layer, stack), copied=family.in_place)
        block.get_submodule(family.mlp_out).register_forward_hook(hook)

    def _tap_ssm(self, paths: StateSpace, layer: int, stack: str, block: nn.Module) -> None:
        keys: tuple[Key, Key] = (("ssm.in", layer, stack), ("ssm.gate", layer, stack))
        block.get_submodule(paths.in_proj).register_forward_hook(hooks.halves(self, *keys))
        self._tap_output(block.get_submodule(paths.x_proj), ("ssm.params", layer, stack))
        post = hooks.entry(self, ("ssm.post", layer, stack))
        block.get_submodule(paths.out_proj).register_forward_pre_hook(post)
        self._tap_output(block.get_submodule(paths.mixer), ("ssm_out", layer, stack))

    def _tap_norm(self, module: nn.Module | None, key: Key) -> None:
        if module is not None:
            module.register_forward_hook(hooks.norm(self, key, module))

    def _tap_output(self, module: nn.Module | None, key: Key) -> None:
        if module is not None:
            module.register_forward_hook(hooks.output(self, key))

    def _embed(self, module: nn.Module, args: Any, out: Tensor) -> Tensor | None:
        del module, args
        session = session_of(self)
        if session is None:
            return None
        if session.grad and not out.requires_grad:
            out = out.requires_grad_()  # frozen weights: gradients still need a leaf
        key: Key = ("embed", None, "")
        return session.tap(key, out) if key in session.keys else out

    def _z(self, key: Key) -> hooks.Hook:
        """``attn.z`` at the input of the output projection, for families without the interface."""

        def hook(module: nn.Module, args: tuple[Tensor, ...]) -> Any:
            del module
            session = session_of(self)
            if session is None or key not in session.keys:
                return None
            x, n = args[0], self._n_heads
            heads = x.view(-1, session.grids[key[2]].width, n, x.shape[-1] // n)
            return (session.tap(key, heads).reshape(x.shape), *args[1:])

        return hook
