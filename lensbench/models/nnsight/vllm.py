"""Plans in a vLLM engine, through nnsight's workers inside it.

vLLM computes with modules of its own: activations come flat, ``[tokens, d]``, a request is one
sequence, a block gives ``(branch, residual)`` whose sum is the residual stream, and logits exist
for the last position only. This is the translation of sites and plans into that layout, for the
families whose blocks vLLM builds like Llama's. Engine options go to vLLM unchanged.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from lensbench.errors import BackendUnavailableError, ConfigError
from lensbench.models.base import Acts, Forward, ModelCard
from lensbench.models.edits import Columns, apply_edits
from lensbench.models.families import architecture_of, shape_of
from lensbench.models.layout import Layout
from lensbench.models.nnsight import tool
from lensbench.models.nnsight.served import ServedModel
from lensbench.plan import Edit, Plan
from lensbench.sites import Site
from lensbench.tokens import Tokens
from lensbench.types import LogitsMode

FAMILIES = ("llama", "mistral", "qwen2", "qwen3")
"""Model types whose vLLM blocks give ``(branch, residual)`` and name their parts as here."""
_PLACES = {  # in execution order: site -> (path in the block, side, how)
    "attn.z": ("self_attn.o_proj", "input", "heads"),
    "attn_out": ("self_attn", "output", "plain"),
    "mlp.post": ("mlp.down_proj", "input", "plain"),
    "mlp_out": ("mlp", "output", "plain"),
    "resid_post": ("", "output", "sum"),
}


@dataclass(frozen=True)
class Step:
    """One place of the forward pass: where, how it is laid out, what is done there."""

    site: str
    path: str
    side: str
    how: str
    edits: tuple[Edit, ...]
    kept: bool


def walk(root: Any, steps: Sequence[Step], n_heads: int) -> dict[str, Tensor]:
    """Read and write every step of one request, in order; runs inside the engine's worker."""
    kept: dict[str, Tensor] = {}
    for step in steps:
        envoy = root.get(step.path)
        value = envoy.input if step.side == "input" else envoy.output
        x = value[0] + value[1] if step.how == "sum" else value
        shaped = x.reshape(1, x.shape[0], n_heads, -1) if step.how == "heads" else x[None]
        positions = torch.arange(x.shape[0], device=x.device)[None]
        columns = Columns(positions, torch.ones_like(positions, dtype=torch.bool), lenient=False)
        new = apply_edits(shaped, step.edits, columns, attention=False, grad=False)
        if step.kept:
            kept[step.site] = new.detach().clone().cpu()
        if step.edits:
            flat = new.reshape(x.shape)
            # The residual goes on as it was, so the whole change is carried by the branch.
            written = (flat - value[1], value[1]) if step.how == "sum" else flat
            setattr(envoy, step.side, written)
    return kept


class VllmModel(ServedModel):
    """A model in a vLLM engine. Made by ``load_model(..., backend="nnsight", vllm=True)``.

    Raises:
        BackendUnavailableError: vLLM is not installed, or its engine does not start.
        ConfigError: a family that vLLM builds otherwise.
    """

    def __init__(self, source: str, revision: str | None, **options: Any) -> None:
        from transformers import AutoConfig, AutoModelForCausalLM

        named = {} if revision is None else {"revision": revision}
        config = AutoConfig.from_pretrained(source, **named)
        architecture_of(config)
        if config.model_type not in FAMILIES:
            raise ConfigError(
                f"vLLM's blocks of {config.model_type} are not translated; those of "
                f"{', '.join(FAMILIES)} are. Open the model natively"
            )
        self.root = _engine(source, {**named, **options})
        self.tokenizer = self.root.tokenizer
        with torch.device("meta"):
            module = AutoModelForCausalLM.from_config(config)
        self.layout = Layout(module, self.tokenizer)
        self.card = ModelCard(
            name=source,
            family=str(config.model_type),
            revision=revision,
            dtype=str(options.get("dtype", "auto")),
            fingerprint=f"vllm:{source}@{revision or 'main'}",
            backend="nnsight-vllm",
            source=source,
            **vars(shape_of(config)),
        )

    def _why_not(self, site: Site) -> str:
        if site.name in _PLACES or site.name == "logits":
            return ""
        return "vLLM fuses or never makes it; the sites listed are what its modules give out."

    def _serve(
        self, batch: Tokens, plan: Plan, sites: Sequence[Site], logits: LogitsMode
    ) -> Forward:
        if logits == "all" or Site("logits") in sites:
            raise ConfigError('vLLM makes logits of the last position only; pass logits="last"')
        if plan.skips or plan.stop is not None:
            raise ConfigError("vLLM's engine runs every block; skips and stops are for other ones")
        rows = [self._row(batch, row, plan, sites) for row in range(batch.n_rows)]
        names = [str(site) for site in sites]
        acts = {Site.parse(n): _padded([kept[n] for kept, _ in rows], batch) for n in names}
        found = torch.stack([last for _, last in rows])[:, None] if logits == "last" else None
        return Forward(found, Acts(acts), None, batch.n_rows * self.n_layers)

    def _row(
        self, batch: Tokens, row: int, plan: Plan, sites: Sequence[Site]
    ) -> tuple[dict[str, Tensor], Tensor]:
        ids = batch.ids[row][batch.real[row]].tolist()
        mine = [e for e in plan.edits if e.rows is None or row in e.rows]
        edits = [_alone(e, row, batch.n_rows) for e in mine]
        steps = self.steps(edits, sites)
        root, n_heads = self.root, self.card.n_heads
        ship: Any = walk  # nnsight gives every object its save
        kept, last = dict[str, Tensor](), torch.empty(0)
        with root.trace(ids, temperature=0.0, max_tokens=1):
            kept = ship(root, steps, n_heads).save()
            last = root.logits.save()
        last = last.reshape(-1, last.shape[-1])[-1].float().cpu()
        for edit in edits:
            if edit.site.name == "logits":
                one = Columns(torch.tensor([[0]]), torch.tensor([[True]]), lenient=False)
                given = replace(edit, positions=None)
                last = apply_edits(last[None, None], [given], one, attention=False, grad=False)[
                    0, 0
                ]
        return kept, last

    def steps(self, edits: Sequence[Edit], sites: Sequence[Site]) -> list[Step]:
        """The places that edits and captures need, in execution order."""
        wanted = sorted({*sites, *(e.site for e in edits)} - {Site("logits")})
        found: list[Step] = []
        for site in wanted:
            path, side, how = _PLACES[site.name]
            whole = f"model.layers.{site.layer}" + (f".{path}" if path else "")
            own = tuple(e for e in edits if e.site == site)
            found.append(Step(str(site), whole, side, how, own, site in sites))
        return found


def _engine(source: str, options: dict[str, Any]) -> Any:
    """Model of nnsight over a vLLM engine that has started."""
    tool.load()
    try:
        from nnsight.modeling.vllm import VLLM

        return VLLM(source, dispatch=True, **options)
    except ImportError as error:
        raise BackendUnavailableError(
            f"vLLM is not installed ({error}); pip install 'nnsight[vllm]' on a machine with a GPU"
        ) from error
    except (RuntimeError, OSError, NotImplementedError) as error:
        raise BackendUnavailableError(f"vLLM's engine did not start: {error}") from error


def _alone(edit: Edit, row: int, n_rows: int) -> Edit:
    """The edit as one request sees it: its row is the only one, of values by row as well."""
    rows = list(range(n_rows) if edit.rows is None else edit.rows)
    at, changed = rows.index(row), dict[str, Tensor]()
    for name, value in vars(edit.op).items():
        if isinstance(value, Tensor) and value.ndim > 2 and value.shape[0] == len(rows):
            changed[name] = value[at : at + 1]
    op = replace(edit.op, **changed) if changed else edit.op
    return replace(edit, rows=None, op=op)


def _padded(rows: Sequence[Tensor], batch: Tokens) -> Tensor:
    """Rows of real tokens back in the columns of the batch; zeros under the padding."""
    out = torch.zeros(*batch.ids.shape, *rows[0].shape[2:], dtype=rows[0].dtype)
    for row, x in enumerate(rows):
        out[row, batch.real[row]] = x[0]
    return out
