"""DecoderLens: let the decoder read an earlier encoder layer, and see what it says.

Steps, numbered in the body:

1. Run the encoder once and keep H_0 (embeddings) to H_n (its last block's output).
2. For every layer i a plan puts H_i in the place of H_n. The encoder's own final norm comes after
   it, so it is applied once; ``norm=False`` puts H_i behind that norm instead.
3. Teacher-forced: the right tokens before each, how probable is the right one? And greedily.
4. Controls: the encoder re-initialised (the model's own embeddings below), and the states of
   another sentence of the same sub-task. Layer 0 is a control too: what the words alone give.

The decoder was trained on H_n only: a poor score at layer i says that it cannot read that layer,
not that the layer knows nothing. It learns nothing here, so a good score needs no control for what
a probe might have learnt, but it does need one for what the decoder guesses without a sentence.
Source: Langedijk et al. 2024, "DecoderLens: Layerwise Interpretation of Encoder-Decoder
Transformers", arXiv:2310.03686. Whether the norm is applied there we could not find stated.
"""

import time
from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from lensbench import provenance
from lensbench.arguments import whole_number
from lensbench.errors import ConfigError
from lensbench.probes.lenses.decoder.measure import Settings, measure
from lensbench.probes.lenses.decoder.result import FORCED, GENERATED, DecoderLens
from lensbench.probes.lenses.decoder.sentences import Sentences, Texts, as_text, read_sentences
from lensbench.probes.lenses.decoder.states import (
    chosen_layers,
    donors,
    encoder_depth,
    reinitialised_encoder,
)
from lensbench.results import Controls

if TYPE_CHECKING:
    from lensbench.models import Model

T5_CONTEXT = 512
UNBOUNDED = 10**6
"""Tokenizers that know no longest text say a huge number."""


def decoder_lens(
    model: "Model",
    sources: Texts,
    targets: Sequence[str] | Sequence[Sequence[int]] | None = None,
    *,
    tasks: Sequence[str] | None = None,
    scored: Sequence[Sequence[int]] | None = None,
    layers: Sequence[int] | None = None,
    norm: bool = True,
    generate: bool = True,
    max_new_tokens: int | None = None,
    stop_ids: Sequence[int] | None = None,
    start: Sequence[int] | None = None,
    controls: bool = True,
    shuffle_within: Sequence[str] | None = None,
    batch_size: int = 64,
    seed: int = 0,
) -> DecoderLens:
    """What the decoder of an encoder-decoder says when it reads encoder layer i instead of n.

    p_i(y_t | y_<t, x) = decoder(y_<t, norm(H_i(x))), for i = 0 (embeddings) .. n (the model).
    With ``targets`` (texts, or token ids that end as they should) the teacher-forced metrics;
    with ``generate`` what it writes greedily.

    Args:
        model: an encoder-decoder (T5, BART, mBART, Marian, M2M-100).
        sources: what the encoder reads: texts, ids, or ``Tokens`` (whose ``decoder_ids`` are then
            what the decoder begins with).
        targets: what is right.
        tasks: sub-task of each sentence; scores are kept apart by it.
        scored: positions of each target that count (default all, the end included).
        layers: encoder layers, 0 .. n; the last is always among them.
        norm: apply the encoder's final norm to H_i (see the module).
        generate: let the decoder write by itself, greedily.
        max_new_tokens: longest output; low layers may repeat themselves without end. Default: the
            longest target, or 32.
        stop_ids: tokens that end an output (default: the tokenizer's EOS).
        start: tokens the decoder begins with (default: the model's own; models of many languages
            need the code of the language).
        controls: score the controls of step 4 too (three times the work).
        shuffle_within: labels inside which sentences are exchanged (default: ``tasks``).
        batch_size: sentences at a time; logits of one batch and two layers are held at once.
        seed: of the re-initialised encoder and of the exchange.

    Raises:
        ConfigError: a model without an encoder for its decoder, nothing asked for, lists that do
            not fit each other, a layer that is not there, more new tokens than the context holds.

    Example:
        >>> found = probes.decoder_lens(translate, ["the fish sees the dog"], max_new_tokens=6)
        >>> found.texts(0)
    """
    began = time.monotonic()
    depth = encoder_depth(model)
    seed = whole_number("seed", seed, least=0)
    given = read_sentences(
        model, sources, targets, scored=scored, tasks=tasks, within=shuffle_within, start=start
    )
    if given.targets is None and not generate:
        raise ConfigError("nothing to measure: give targets, or leave generate on")
    new = _room(model, given, max_new_tokens) if generate else 0
    settings = Settings(
        metrics=_metrics(given, generate),
        layers=chosen_layers(layers, depth),
        depth=depth,
        norm=norm,
        new=new,
        stops=_stops(model, stop_ids),
        batch=whole_number("batch_size", batch_size, least=1),
    )
    kinds: dict[str, tuple[Model, Sequence[int]]] = {"model": (model, range(len(given)))}
    if controls:
        kinds |= _controls(model, given, seed)  # 4
    found = measure(model, given, kinds, settings)
    values = np.stack(list(found.values.values()), axis=1)
    return DecoderLens(
        layers=settings.layers,
        metrics=settings.metrics,
        states=tuple(kinds),
        values=values,
        tasks=given.tasks,
        sources=_texts(model, given.sources),
        targets=_texts(model, given.targets or ()),
        outputs=tuple(_texts(model, row) for row in found.written) if new else (),
        first_equal=np.array(settings.layers)[found.equal.argmax(0)].astype(np.int64),
        config={
            "norm": norm,
            "generate": generate,
            "max_new_tokens": new,
            "seed": seed,
            "start": list(given.prefix[0]),
        },
        controls=_told(settings.metrics[0], tuple(kinds), values),
        provenance=provenance.record(
            model=vars(model.card), seed=seed, seconds=time.monotonic() - began
        ),
    )


def _room(model: "Model", given: Sentences, asked: int | None) -> int:
    """Tokens that may be written.

    T5 has relative positions and no end of its own; what its tokenizer says of the longest text, or
    the 512 tokens T5 was trained on, stands for its context.

    Raises:
        ConfigError: more than the context has room for.
    """
    if asked is None:
        return max(map(len, given.targets)) if given.targets else 32
    new = whole_number("max_new_tokens", asked, least=1)
    longest = int(getattr(model.tokenizer, "model_max_length", None) or UNBOUNDED)
    context = model.card.n_ctx or (longest if longest < UNBOUNDED else T5_CONTEXT)
    begun = max(map(len, given.prefix))
    if new > context - begun:
        raise ConfigError(
            f"max_new_tokens is {new:,}; the decoder of {model.card.name} has a context of "
            f"{context:,} tokens, of which {begun} are begun with, so ask for at most "
            f"{context - begun:,}"
        )
    return new


def _stops(model: "Model", stop_ids: Sequence[int] | None) -> frozenset[int]:
    from lensbench.models.generation import stop_set

    if stop_ids is not None:
        return stop_set(stop_ids)
    end = getattr(model.tokenizer, "eos_token_id", None)
    return frozenset() if end is None else frozenset((int(end),))


def _metrics(given: Sentences, generate: bool) -> tuple[str, ...]:
    if given.targets is None:
        return ("same_output",)
    return (*FORCED, *(GENERATED if generate else ()))


def _texts(model: "Model", rows: Sequence[Sequence[int]]) -> tuple[str, ...]:
    return tuple(as_text(model, ids) for ids in rows)


def _controls(
    model: "Model", given: Sentences, seed: int
) -> "dict[str, tuple[Model, Sequence[int]]]":
    """Name of a control to whose encoder reads which sources."""
    found: dict[str, tuple[Model, Sequence[int]]] = {}
    others = donors(given.within, seed)
    if others is not None:
        found["shuffled"] = (model, others)
    found["reinitialised"] = (reinitialised_encoder(model, seed), range(len(given)))
    return found


def _told(metric: str, kinds: tuple[str, ...], values: np.ndarray) -> Controls:
    """Headline of the controls: the first metric at layer 0, and of each kind at its best layer."""
    means = values[0].mean(-1)
    best = means.min if metric in ("cross_entropy", "kl_to_final") else means.max
    scores = {name: float(best(axis=1)[k]) for k, name in enumerate(kinds) if k}
    return Controls(
        {"layer_0": float(means[0, 0]), **scores} if scores else {},
        note=f"{metric} over all sentences: at the first layer; of controls at their best layer",
    )
