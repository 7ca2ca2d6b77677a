"""Where nnsight reaches each site of a model: from module paths (``families.py``) to visits.

The visits of a forward pass come in an order that differs between architectures (norms before or
after a branch, shared experts before or after the others), and nnsight cannot go back. So the order
is measured once, on two tokens, with ordinary hooks that are removed again.
"""

from collections.abc import Generator, Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any

import torch
from torch import nn

from lensbench.models.families import Architecture, Cross, Family, blocks_of, mlp_reader, part
from lensbench.models.nnsight import visits
from lensbench.models.nnsight.attention import ATTRIBUTE, PARTS
from lensbench.models.nnsight.visits import Reach, Side
from lensbench.models.session import Key


class Atlas:
    """How each site of one twin is reached, and in what order its modules are visited."""

    def __init__(self, module: Any, architecture: Architecture, n_heads: int) -> None:
        self._module: Any = module
        self._n_heads = n_heads
        self.architecture = architecture
        self._path = {id(m): path for path, m in module.named_modules()}
        self.blocks = {
            (layer, stack): self._path[id(block)]
            for stack, family in architecture.stacks.items()
            for layer, block in enumerate(blocks_of(module, family))
        }
        self.embedding = self._path[id(module.get_input_embeddings())]
        self.reaches = list(self._all())
        self.order = self._measure()
        self._module, self._path = None, {}  # paths are all that a run needs

    def _all(self) -> Iterator[Reach]:
        if not self.architecture.two_stacks:
            yield self._whole(self._module.get_input_embeddings(), ("embed", None, ""))
        for stack, family in self.architecture.stacks.items():
            for layer, block in enumerate(blocks_of(self._module, family)):
                yield from self._block(family, block, layer, stack)
            if family.final_norm is not None:
                norm = self._module.get_submodule(family.final_norm)
                yield from self._norm(norm, ("ln_final.scale", None, stack))
                yield self._whole(norm, ("ln_final", None, stack))

    def _block(self, family: Family, block: nn.Module, layer: int, stack: str) -> Iterator[Reach]:
        key = partial(_key, layer, stack)
        yield from self._norm(part(block, family.ln1), key("ln1.scale"))
        yield from self._norm(part(block, family.ln2), key("ln2.scale"))
        if family.ssm is not None:
            at = block.get_submodule
            pair = (key("ssm.in"), key("ssm.gate"))
            yield self._out(at(family.ssm.in_proj), pair, visits.halves(*pair))
            yield self._whole(at(family.ssm.x_proj), key("ssm.params"))
            yield self._whole(at(family.ssm.out_proj), key("ssm.post"), side="input")
            yield self._whole(at(family.ssm.mixer), key("ssm_out"))
            return
        yield from self._attention(family, block, layer, stack)
        if family.cross is not None:
            yield from self._cross(family, family.cross, block, layer, stack)
        yield from self._mlp(family, block, layer, stack)
        yield from self._experts(family, block, layer, stack)

    def _attention(
        self, family: Family, block: nn.Module, layer: int, stack: str
    ) -> Iterator[Reach]:
        key = partial(_key, layer, stack)
        yield from self._parts(part(block, family.attn), "attn", layer, stack)
        if not hasattr(part(block, family.attn), ATTRIBUTE):
            z = visits.heads(key("attn.z"), self._n_heads)
            projection = block.get_submodule(family.o_proj)
            yield Reach(keys=(key("attn.z"),), path=self._at(projection), side="input", show=z)
        mid = None if family.parallel else key("resid_mid")
        yield from self._sum(
            block.get_submodule(family.attn_out),
            key("attn_out"),
            mid if family.mid_out is None else None,
            "resid_pre",
        )
        if mid is None:
            return
        if family.mid_out is not None:
            yield self._whole(block.get_submodule(family.mid_out), mid)
            return
        reader = family.cross.ln if family.cross is not None else family.mid_in or family.ln2
        assert reader is not None  # a block that is not parallel has a norm before its MLP
        yield self._seen(block.get_submodule(reader), mid, keep=family.cross is not None)

    def _cross(
        self, family: Family, cross: Cross, block: nn.Module, layer: int, stack: str
    ) -> Iterator[Reach]:
        key = partial(_key, layer, stack)
        yield from self._parts(part(block, cross.attn), "xattn", layer, stack)
        yield from self._norm(part(block, cross.ln), key("xln.scale"))
        mid = key("resid_xmid")
        out = block.get_submodule(cross.out)
        if cross.mid_out is not None:
            yield self._whole(out, key("xattn_out"))
            yield self._whole(block.get_submodule(cross.mid_out), mid)
            return
        yield from self._sum(out, key("xattn_out"), mid, "resid_mid")
        if family.ln2 is not None:
            yield self._seen(block.get_submodule(family.ln2), mid, keep=False)

    def _mlp(self, family: Family, block: nn.Module, layer: int, stack: str) -> Iterator[Reach]:
        key = partial(_key, layer, stack)
        up, gate, down = (part(block, p) for p in (family.up, family.gate, family.down))
        reader = mlp_reader(block, family)
        if reader is not None:
            yield self._whole(reader, key("mlp.in"), side="input")
        if up is not None and family.fused:
            pair = (key("mlp.gate"), key("mlp.up"))
            yield self._out(up, pair, visits.halves(*pair))
        else:
            if gate is not None:
                yield self._whole(gate, key("mlp.gate"))
            if up is not None:
                yield self._whole(up, key("mlp.up"))
        if down is not None:
            yield self._whole(down, key("mlp.post"), side="input")
        out = key("mlp_out")
        show = visits.whole(out, copied=family.in_place)
        yield self._out(block.get_submodule(family.mlp_out), (out,), show)

    def _experts(self, family: Family, block: nn.Module, layer: int, stack: str) -> Iterator[Reach]:
        moe, key = family.moe, partial(_key, layer, stack)
        if moe is None:
            return
        router, experts = part(block, moe.router), part(block, moe.experts)
        if router is None or experts is None:
            return
        keys = (key("router.logits"), key("router.weights"), key("router.indices"))
        n_experts: Any = experts.num_experts
        yield self._out(router, keys, visits.router(keys, int(n_experts), moe.rule))
        path, out = self._at(experts), key("experts.out")
        show = visits.experts(out)
        yield Reach(keys=(out,), path=path, side="input", show=show, skips=True)
        shared = part(block, moe.shared)
        if shared is not None:
            yield self._whole(shared, key("experts.shared_out"))

    def _parts(self, attn: nn.Module | None, kind: str, layer: int, stack: str) -> Iterator[Reach]:
        parts: Any = getattr(attn, ATTRIBUTE, None)
        if parts is not None:
            for name in PARTS:
                yield self._whole(getattr(parts, name), (f"{kind}.{name}", layer, stack))

    def _norm(self, norm: nn.Module | None, key: Key) -> Iterator[Reach]:
        if norm is not None:
            show = visits.denominator(key)
            path = self._at(norm)
            yield Reach(keys=(key,), path=path, side="output", show=show, needs_input=True)

    def _sum(self, module: nn.Module, out: Key, mid: Key | None, base: str) -> Iterator[Reach]:
        show, path = visits.added(out, mid, base), self._at(module)
        keys = (out,) if mid is None else (out, mid)
        yield Reach(keys=keys, path=path, side="output", show=show, writes_through=mid is not None)

    def _seen(self, module: nn.Module, key: Key, *, keep: bool) -> Reach:
        show = visits.seen(key, keep=keep)
        keys = (key, ("resid_xmid", *key[1:])) if keep else (key,)
        return Reach(keys=keys, path=self._at(module), side="input", show=show)

    def _whole(self, module: nn.Module, key: Key, *, side: Side = "output") -> Reach:
        return Reach(keys=(key,), path=self._at(module), side=side, show=visits.whole(key))

    def _out(self, module: nn.Module, keys: tuple[Key, ...], show: visits.Show) -> Reach:
        return Reach(keys=keys, path=self._at(module), side="output", show=show)

    def _at(self, module: nn.Module) -> str:
        return self._path[id(module)]

    def _measure(self) -> dict[tuple[str, Side], int]:
        """Rank of every visit that a site or a block needs, in one forward pass of two tokens."""
        order: dict[tuple[str, Side], int] = {}

        def note(visit: tuple[str, Side], *_: Any) -> None:
            order.setdefault(visit, len(order))

        paths = {r.path for r in self.reaches} | {*self.blocks.values(), self.embedding}
        opened = [m for m in self._module.modules() if hasattr(m, "opened")]
        handles: list[Any] = []
        for path in paths:
            module = self._module.get_submodule(path)
            handles.append(module.register_forward_pre_hook(partial(note, (path, "input"))))
            handles.append(module.register_forward_hook(partial(note, (path, "output"))))
        ids = torch.zeros(1, 2, dtype=torch.long, device=self._embedding_device())
        given = {"decoder_input_ids": ids} if self.architecture.two_stacks else {}
        try:
            for each in opened:
                each.opened = True
            with torch.no_grad(), self._weightless_experts():
                self._module.base_model(input_ids=ids, **given)
        finally:
            for each in opened:
                each.opened = False
            for handle in handles:
                handle.remove()
        return order

    @contextmanager
    def _weightless_experts(self) -> Generator[None]:
        """On the meta device experts give their input: grouped kernels know no float32 there."""
        found: list[Any] = []
        if self._embedding_device().type == "meta":
            for family in self.architecture.stacks.values():
                path = None if family.moe is None else family.moe.experts
                blocks = blocks_of(self._module, family)
                found += [m for b in blocks if (m := part(b, path)) is not None]
        try:
            for experts in found:
                experts.forward = lambda states, *_, **__: states
            yield
        finally:
            for experts in found:
                del experts.forward

    def _embedding_device(self) -> torch.device:
        return self._module.get_input_embeddings().weight.device


def envoy_at(root: Any, path: str) -> Any:
    """The envoy of the module at ``path``; its attributes may have moved (``E_output``)."""
    for name in path.split(".") if path else ():
        root = root._child_map[name]
    return root


@contextmanager
def unobserved(root: Any) -> Generator[None]:
    """Calls of modules made in here are not visits of the forward pass."""
    interleaver = root.interleaver
    before, interleaver.interleaving = interleaver.interleaving, False
    try:
        yield
    finally:
        interleaver.interleaving = before


def _key(layer: int, stack: str, name: str) -> Key:
    return (name, layer, stack)
