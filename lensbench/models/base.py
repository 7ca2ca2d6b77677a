"""The waist of lensbench: one way to run a network, whatever lies behind it.

``Model.run`` is the only forward call. Capturing, editing, skipping and stopping early are its
arguments. A back end implements the abstract methods in its own file; nothing outside ``models/``
calls a module.
"""

from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal

from jaxtyping import Bool, Float, Int
from torch import Tensor

from lensbench.errors import ConfigError, UnknownSiteError
from lensbench.models.told import forward_line, model_line
from lensbench.plan import Plan
from lensbench.sites import Site
from lensbench.tokens import Tokens, TokensLike
from lensbench.types import LogitsMode

if TYPE_CHECKING:
    from lensbench.models.steps import DecodingRule


class Acts(Mapping[str, Tensor]):
    """Captured activations by site; any accepted spelling of a site is a key."""

    def __init__(self, values: Mapping[Site, Tensor]) -> None:
        self._values = {str(site): values[site] for site in sorted(values)}

    def __getitem__(self, site: str | Site) -> Tensor:
        """The tensor captured at ``site``."""
        name = str(Site.parse(site))
        if name not in self._values:
            raise UnknownSiteError(name, known=tuple(self._values), hint="Pass run(capture=...).")
        return self._values[name]

    def __contains__(self, site: object) -> bool:
        """Was this site captured, whichever way it is spelled?"""
        if not isinstance(site, (str, Site)):
            return False
        try:
            return str(Site.parse(site)) in self._values
        except ConfigError:  # no site at all, so not a captured one
            return False

    def get(self, site: str | Site, default: Any = None) -> Any:
        """The tensor captured at ``site``, or ``default``."""
        try:
            return self[site]
        except UnknownSiteError:
            return default

    def __iter__(self) -> Iterator[str]:
        """Site names in execution order."""
        return iter(self._values)

    def __len__(self) -> int:
        """Number of captured sites."""
        return len(self._values)

    def __repr__(self) -> str:
        """Names and shapes."""
        return "Acts(" + ", ".join(f"{k}: {list(v.shape)}" for k, v in self._values.items()) + ")"


class Past:
    """Keys and values of the tokens seen so far; opaque. ``Past()`` asks ``run`` to keep them.

    A past is used up by the call it is given to (keys are appended in place); using it twice is an
    error. Take the next one from ``Forward.past``.
    """

    def __init__(self, state: Any = None, real: Any = None) -> None:
        self._state, self._real, self._spent = state, real, False

    def take(self) -> tuple[Any, Any]:
        """Back ends only: the state and the mask of past real tokens, once."""
        if self._spent:
            raise ConfigError("this past was already used; continue from the newest Forward.past")
        self._spent = True
        return self._state, self._real


@dataclass(frozen=True, eq=False, repr=False)
class Forward:
    """What one run gives: logits (None with ``logits="none"``), captured acts, and the past."""

    logits: Float[Tensor, "batch pos d_vocab"] | None
    acts: Acts
    past: Past | None = None
    layers_run: int = field(default=0)
    """Blocks whose computation really ran, times batch rows (layer-forwards)."""

    def __repr__(self) -> str:
        """Shapes in one line."""
        return forward_line(self)


@dataclass(frozen=True, kw_only=True)
class Shape:
    """Sizes of a model."""

    n_layers: int
    d_model: int
    n_heads: int
    n_kv_heads: int
    d_head: int
    d_mlp: int
    d_vocab: int
    n_ctx: int
    d_head_v: int = 0
    """Width of a head of values and z; that of queries and keys where it is 0."""
    n_experts: int = 0
    top_k: int = 0
    """Experts per token."""
    d_ssm_params: int = 0


@dataclass(frozen=True, kw_only=True)
class ModelCard(Shape):
    """Identity and sizes of a model."""

    name: str
    family: str
    revision: str | None
    dtype: str
    fingerprint: str
    backend: str = "native"
    source: str = ""
    """What ``load_model`` was given: bundled name, folder or hub id; empty for one in memory."""


class Model(ABC):
    """A language model that can be asked anything in one way."""

    card: ModelCard
    tokenizer: Any

    def __repr__(self) -> str:
        """Name, sizes and fingerprint in one line."""
        return model_line(type(self).__name__, self.card)

    @abstractmethod
    def run(
        self,
        tokens: TokensLike,
        plan: Plan = Plan(),  # noqa: B008 - frozen value
        capture: str | Site | Sequence[str | Site] = (),
        *,
        logits: LogitsMode = "all",
        grad: bool = False,
        past: Past | None = None,
    ) -> Forward:
        """Run the network once, under ``plan``, and keep the activations at ``capture``.

        ``logits="last"`` gives ``[batch, 1, d_vocab]`` at the last real token of each row;
        ``"none"`` stops after the deepest captured or edited site and never unembeds.

        Raises:
            ConfigError: ids out of range, padded ids without a mask, a selection that does not fit.
            UnknownSiteError: a site this model has not, or that did not fire.
        """

    @abstractmethod
    def run_many(
        self,
        tokens: TokensLike,
        plans: Sequence[Plan],
        capture: str | Site | Sequence[str | Site] = (),
        *,
        logits: LogitsMode = "all",
        batch_size: int = 64,
    ) -> Forward:
        """Run ``plans[i]`` on row ``i`` (or every plan on the one row given), batched.

        Row ``i`` of the answer belongs to ``plans[i]``. Blocks before the first edited one run
        once per prompt. The plans must not name ``rows``.
        """

    @abstractmethod
    def generate(
        self,
        tokens: TokensLike,
        plan: Plan = Plan(),  # noqa: B008 - frozen value
        max_new_tokens: int = 32,
        *,
        temperature: float = 0.0,
        seed: int = 0,
        stop_ids: Sequence[int] | None = None,
        choose: "DecodingRule | None" = None,
    ) -> list[list[int]]:
        """New token ids per row, decoded with a key-value cache under ``plan``.

        ``temperature=0`` is greedy. Edits without positions apply to prompt and new tokens alike.
        ``choose`` scores each step by its states and logits (:mod:`lensbench.models.steps`).
        """

    @abstractmethod
    def run_layers(
        self,
        h: Float[Tensor, "batch pos d_model"],
        start: int,
        stop: int,
        past: Past | None = None,
        positions: Int[Tensor, "batch pos"] | None = None,
        *,
        mask: Bool[Tensor, "batch pos"] | None = None,
        grad: bool = False,
    ) -> tuple[Float[Tensor, "batch pos d_model"], Past | None]:
        """Residual stream after blocks ``start .. stop-1`` from ``h``, the input of ``start``.

        ``positions`` are those of the tokens of ``h``; left out, real tokens are counted on from
        the past. ``mask`` is False under padding. With ``grad`` the answer is differentiable in
        ``h``.

        Raises:
            ConfigError: a range outside the model, or shapes that do not fit ``h``.
        """

    @abstractmethod
    def unembed(
        self, resid: Float[Tensor, "... d_model"], *, grad: bool = False
    ) -> Float[Tensor, "... d_vocab"]:
        """Logits the model would give if ``resid`` left its last block (final norm included).

        With ``grad`` they are differentiable in ``resid``.
        """

    @abstractmethod
    def sites(self) -> tuple[Site, ...]:
        """Every site this model has, in execution order."""

    @abstractmethod
    def width(self, site: str | Site) -> int:
        """Size of the last axis of a site (0 where it is the number of keys)."""

    def heads(self, site: str | Site) -> int:
        """Number of heads at an attention site: key-value heads of keys and values."""
        shared = Site.parse(site).name in ("attn.k", "attn.v")
        return self.card.n_kv_heads if shared else self.card.n_heads

    def source_of(self, site: str | Site) -> str:
        """Fingerprint of the dictionary that a ``.sae.*`` site is of; empty for the model's own."""
        del site
        return ""

    @abstractmethod
    def tokens(self, text: str | Sequence[str], *, bos: bool = True) -> Tokens:
        """Token ids of text; ``bos`` prepends the BOS token where the tokenizer has one.

        Encoders and encoder-decoders get all special tokens of their tokenizer instead
        (``[CLS] ... [SEP]``, ``... </s>``), as they were trained.
        """

    def with_saes(self, saes: Any, *, error: str = "keep") -> "Model":
        """This model with dictionaries spliced in: their latents are sites like any other.

        ``saes`` is a dictionary (or a sequence of them) that knows its site, or ``{site: sae}``.
        Sites gained: ``<site>.sae.acts`` ``[batch, pos, d_sae]``, ``<site>.sae.recons`` and
        ``<site>.sae.error`` ``[batch, pos, d_in]``. With ``error="keep"`` what the dictionary does
        not reconstruct is added back, so the logits move only where a plan edits; ``"drop"`` lets
        the reconstruction alone flow on.

        Raises:
            ConfigError: no dictionary, one without a site, or two at one site.
            MismatchError: a dictionary of another model, site or width.
        """
        from lensbench.models.spliced import SplicedModel

        return SplicedModel(self, saes, error)

    @property
    def kind(self) -> Literal["decoder", "encoder", "encoder-decoder"]:
        """What the architecture predicts with: the next token, any token, or a second text."""
        from lensbench.models.catalogue import ARCHITECTURES

        found = ARCHITECTURES.get(self.card.family)
        if found is None or (found.causal and not found.two_stacks):
            return "decoder"
        return "encoder-decoder" if found.two_stacks else "encoder"

    def require_next_token(self, what: str) -> None:
        """Refuse ``what`` where the model does not predict a text's next token.

        Raises:
            ConfigError: the model is an encoder, or an encoder and a decoder.
        """
        if self.kind != "decoder":
            raise ConfigError(
                f"{what} is about the prediction of the next token, which {self.card.name!r} (a "
                f"{self.card.family} model, {self.kind}) does not make"
            )

    @property
    def n_layers(self) -> int:
        """Number of blocks."""
        return self.card.n_layers
