"""What a live decoding run gives: tokens, rounds of drafting, and what really ran.

A round drafts some tokens, checks them with the full model in one run, and emits those that agree
and one token of the full model: ``accepted + 1`` tokens. A round never drafts more than
``remaining - 1`` tokens, so the last one is not cut; plain decoding is rounds without a draft.
"""

import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from lensbench.arguments import whole_number
from lensbench.errors import ConfigError
from lensbench.interventions.acceleration.sampling import Sampler, Warp
from lensbench.models.base import Model
from lensbench.models.huggingface import NativeModel
from lensbench.models.ranges import Counts, LayerRunner
from lensbench.plan import Plan
from lensbench.tokens import TokensLike


@dataclass(frozen=True)
class Round:
    """One round of drafting and checking."""

    exit_layer: int
    """Layers of the draft; 0 where the draft is no prefix of the layers, or nothing was drafted."""
    drafted: int
    accepted: int
    """Drafted tokens before the first one that the full model did not choose itself."""


@dataclass(frozen=True)
class Decoded:
    """New tokens of one prompt, and what it took to get them."""

    prompt: tuple[int, ...]
    new: tuple[int, ...]
    rounds: tuple[Round, ...]
    counts: Counts = field(repr=False)
    seconds: float
    """CPU time of the process (``time.process_time``), prompt included."""
    kv_bytes: int = 0
    """Bytes of keys and values held at the end."""
    exits: tuple[int, ...] = ()
    """Layers run for each new token, of methods that exit and do not check."""

    def __repr__(self) -> str:
        """Counts in one line; ``new`` has the ids, ``exits`` or ``rounds`` what ran for each."""
        told = f"prompt {len(self.prompt)} tokens, new {len(self.new)}, rounds {len(self.rounds)}"
        if self.drafted:
            told += f", drafted {self.drafted}, accepted {self.accepted}"
        if self.exits:
            told += f", layers per token {sum(self.exits) / len(self.exits):.3g}"
        return f"Decoded({told}, {self.seconds:.3g} s of CPU, kv_bytes {self.kv_bytes})"

    @property
    def drafted(self) -> int:
        """Tokens drafted in all rounds."""
        return sum(r.drafted for r in self.rounds)

    @property
    def accepted(self) -> int:
        """Drafted tokens that were kept."""
        return sum(r.accepted for r in self.rounds)

    @property
    def acceptance(self) -> float:
        """Accepted tokens over drafted ones; NaN where nothing was drafted."""
        return self.accepted / self.drafted if self.drafted else float("nan")

    @property
    def tokens_per_round(self) -> float:
        """New tokens over rounds; NaN without a round."""
        return len(self.new) / len(self.rounds) if self.rounds else float("nan")


class Decoding:
    """A text being decoded: its tokens so far, the runner, and the clock."""

    def __init__(
        self,
        model: Model,
        prompt: TokensLike,
        max_new_tokens: int,
        warp: Warp,
        seed: int,
        plan: Plan,
        stop_ids: Sequence[int] = (),
    ) -> None:
        self.model = native(model)
        self.prompt = one_prompt(self.model, prompt)
        self.max_new_tokens = whole_number("max_new_tokens", max_new_tokens, least=1)
        self.stops = frozenset(whole_number("each of stop_ids", i) for i in stop_ids)
        if not isinstance(warp, Warp):  # pyright: ignore[reportUnnecessaryIsInstance] - users
            raise ConfigError(f"warp must be Warp(temperature=...), got {warp!r}")
        self.sampler = Sampler(warp, seed)
        self.runner: LayerRunner = self.model.layers(
            self.prompt.shape[1] + self.max_new_tokens, plan=plan
        )
        self.ids: list[int] = self.prompt[0].tolist()
        self.rounds: list[Round] = []
        self.exits: list[int] = []
        self._start = time.process_time()

    @property
    def remaining(self) -> int:
        """New tokens still to come."""
        return self.max_new_tokens - (len(self.ids) - self.prompt.shape[1])

    @property
    def done(self) -> bool:
        """Is the text as long as asked for, or did it end by itself?"""
        new = self.ids[self.prompt.shape[1] :]
        return self.remaining <= 0 or any(i in self.stops for i in new[-1:])

    def emit(self, tokens: Sequence[int], entry: Round | None = None) -> None:
        """Append tokens, up to the first that ends the text."""
        for token in tokens:
            self.ids.append(int(token))
            if int(token) in self.stops:
                break
        if entry is not None:
            self.rounds.append(entry)

    def tensor(self, start: int, end: int | None = None) -> Tensor:
        """Tokens ``start .. end - 1`` of prompt and continuation, ``[1, n]``."""
        return torch.tensor([self.ids[start:end]], device=self.model.device)

    def result(self, counts: Counts | None = None) -> Decoded:
        """What came out."""
        seconds = time.process_time() - self._start
        n = self.prompt.shape[1]
        return Decoded(
            tuple(self.ids[:n]),
            tuple(self.ids[n:]),
            tuple(self.rounds),
            self.runner.counts if counts is None else counts,
            seconds,
            self.runner.cache.bytes_held(),
            tuple(self.exits),
        )


def greedy(
    model: Model,
    prompt: TokensLike,
    max_new_tokens: int = 64,
    *,
    plan: Plan = Plan(),  # noqa: B008
    warp: Warp = Warp(),  # noqa: B008
    seed: int = 0,
    stop_ids: Sequence[int] = (),
) -> Decoded:
    """Decode token by token through all layers: what every other method is compared with.

    A ``warp`` with a temperature samples. A round without a draft stands for each token.

    Raises:
        ConfigError: more than one prompt, no room in the context, or an architecture whose layers
            cannot be run one by one.

    Example:
        >>> said = acceleration.greedy(early, early.tokens(text), 4)
        >>> early.tokenizer.decode(said.new)
    """
    state = Decoding(model, prompt, max_new_tokens, warp, seed, plan, stop_ids)
    runner, at = state.runner, 0
    while not state.done:
        h = runner.run(runner.embed(state.tensor(at), at), 0, runner.n_layers, at)
        at = len(state.ids)
        token = state.sampler.draw(runner.logits(h[:, -1:])[0, -1])
        state.emit([token], Round(0, 0, 0))
    return state.result()


def native(model: Model) -> NativeModel:
    """The model, where its layers can be run one by one.

    Raises:
        ConfigError: a model of another back end.
    """
    if not isinstance(model, NativeModel):
        given = type(model).__name__
        raise ConfigError(
            f"acceleration runs layers one by one, which {given} cannot; load the model with "
            'load_model(..., backend="native")'
        )
    return model


def one_prompt(model: NativeModel, prompt: TokensLike) -> Tensor:
    """Ids ``[1, n]`` of a single prompt without padding.

    Raises:
        ConfigError: several prompts, or padding.
    """
    batch = model.layout.batch(prompt, model.device)
    if batch.n_rows != 1 or not bool(batch.real.all()):
        raise ConfigError(
            f"this method decodes one prompt without padding at a time, got {batch.n_rows} rows; "
            "call it once per prompt"
        )
    return batch.ids


def check_exit(exit_layer: Any, n_layers: int, *, full: bool = True) -> int:
    """A number of layers to execute.

    Raises:
        ConfigError: not a whole number of 1 to L (or to L - 1 where ``full`` is False).
    """
    most = n_layers if full else n_layers - 1
    found = whole_number("exit_layer", exit_layer, least=1)
    if found > most:
        raise ConfigError(
            f"exit_layer is the number of layers executed, 1 to {most} for this model of "
            f"{n_layers} layers; got {found}"
        )
    return found
