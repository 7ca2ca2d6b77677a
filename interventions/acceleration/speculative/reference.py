"""transformers' own assisted generation, for benchmarks and parity; our engines do not use it.

Measured through the untouched module's ``generate``, with counters at its blocks. Its early exit
shares neither keys nor computation between draft and check, so the layers below the exit run twice
on every drafted token. It sets ``config.num_hidden_layers`` while it drafts and an exception leaves
it there; here both configurations are as before whatever happens.
"""

import copy
import inspect
import time
from collections.abc import Generator
from contextlib import contextmanager
from typing import Any

import torch

from lensbench.arguments import whole_number
from lensbench.errors import ConfigError
from lensbench.interventions.acceleration.decoding import Decoded, check_exit, native, one_prompt
from lensbench.interventions.acceleration.speculative.baseline import (
    DraftedDecoded,
    refuse_other_vocabulary,
)
from lensbench.models.base import Model
from lensbench.models.families import blocks_of
from lensbench.models.huggingface import NativeModel
from lensbench.models.ranges import Counts
from lensbench.tokens import TokensLike

SLICED = "[: self.config.num_hidden_layers]"
"""How a model's forward reads where it runs a prefix of its layers when told to."""


def transformers_early_exit(
    model: Model, prompt: TokensLike, exit_layer: int, draft: int = 4, max_new_tokens: int = 64
) -> Decoded:
    """``generate(assistant_early_exit=exit_layer)`` with drafts of a fixed length, greedy.

    Same text as :func:`fixed_exit`; rounds are not told. Confidence threshold and schedule of
    transformers are off (with scikit-learn installed they change from machine to machine).

    Args:
        model: a decoder-only model whose forward slices its layers.
        prompt: one text.
        exit_layer: layers of the draft, 1 to L - 1.
        draft: tokens drafted per round.
        max_new_tokens: length of the continuation.

    Raises:
        ConfigError: an architecture whose loop runs all layers whatever the configuration says
            (GPT-2, GPT-NeoX, OPT, GPT-J, BLOOM, Falcon ...), a setting out of range, or several
            prompts.

    Example:
        >>> said = acceleration.transformers_early_exit(early, early.tokens(text), 2, 3, 6)
    """
    known = native(model)
    check_exit(exit_layer, known.n_layers, full=False)
    base = type(known.module.base_model)
    if SLICED not in inspect.getsource(inspect.unwrap(base.forward)):
        raise ConfigError(
            f"transformers cannot exit {known.layout.kind} early: its forward runs every layer "
            "whatever config.num_hidden_layers says. It can for llama, mistral, qwen2, qwen3, "
            "gemma2, gemma3, phi, phi3, olmo2 and smollm3; fixed_exit can for every decoder"
        )
    return _generate(known, prompt, draft, max_new_tokens, {"assistant_early_exit": exit_layer})


def transformers_assisted(
    model: Model, prompt: TokensLike, draft_model: Model, draft: int = 4, max_new_tokens: int = 64
) -> DraftedDecoded:
    """``generate(assistant_model=draft_model)`` with drafts of a fixed length, greedy.

    Same text as :func:`speculative_baseline`; rounds are not told.

    Args:
        model: a decoder-only model.
        prompt: one text.
        draft_model: another one with the same vocabulary.
        draft: tokens drafted per round.
        max_new_tokens: length of the continuation.

    Raises:
        ConfigError: models of different vocabularies, a setting out of range, or several prompts.

    Example:
        >>> said = acceleration.transformers_assisted(model, model.tokens(text), early, 3, 6)
    """
    known, small = native(model), native(draft_model)
    refuse_other_vocabulary(known, small)
    with _counted(small) as counts, _restored(small, draft):
        found = _generate(known, prompt, draft, max_new_tokens, {"assistant_model": small.module})
    return DraftedDecoded(**vars(found), draft_counts=counts)


def _generate(
    model: NativeModel, prompt: TokensLike, draft: int, max_new_tokens: int, how: dict[str, Any]
) -> Decoded:
    ids = one_prompt(model, prompt)
    whole_number("draft", draft, least=1)
    new = whole_number("max_new_tokens", max_new_tokens, least=1)
    with model.own_attention(), _counted(model) as counts, _restored(model, draft):
        began = time.process_time()
        with torch.inference_mode():
            out = model.module.generate(
                ids, attention_mask=torch.ones_like(ids), max_new_tokens=new, do_sample=False, **how
            )
        seconds = time.process_time() - began
    n = ids.shape[1]
    return Decoded(tuple(out[0, :n].tolist()), tuple(out[0, n:].tolist()), (), counts, seconds)


@contextmanager
def _restored(model: NativeModel, draft: int) -> Generator[None]:
    """A generation configuration of our own, and the layers that were there before."""
    module: Any = model.module
    kept, n_layers = module.generation_config, module.config.num_hidden_layers
    mine = copy.deepcopy(kept)
    mine.num_assistant_tokens, mine.num_assistant_tokens_schedule = draft, "constant"
    mine.assistant_confidence_threshold = 0.0
    # With a padding id, drafts take tokens of the text for padding wherever they are that id.
    mine.eos_token_id = mine.pad_token_id = None
    module.generation_config = mine
    try:
        yield
    finally:
        module.generation_config = kept
        module.config.num_hidden_layers = n_layers


@contextmanager
def _counted(model: NativeModel) -> Generator[Counts]:
    """Tokens through each block and the head while the context is open; no attended pairs."""
    counts = Counts()
    architecture = model.layout.architecture

    def block(layer: int) -> Any:
        def count(_: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
            h = args[0] if args else kwargs["hidden_states"]
            tokens = h.shape[0] * h.shape[1]
            counts.attention += tokens
            counts.mlp += tokens
            counts.calls += 1
            counts.by_layer[layer] = counts.by_layer.get(layer, 0) + tokens

        return count

    def head(_: Any, args: tuple[Any, ...]) -> None:
        counts.heads += args[0].shape[:-1].numel()

    blocks = blocks_of(model.module, architecture.stacks[architecture.main])
    handles = [
        b.register_forward_pre_hook(block(n), with_kwargs=True) for n, b in enumerate(blocks)
    ]
    handles.append(model.module.get_output_embeddings().register_forward_pre_hook(head))
    try:
        yield counts
    finally:
        for handle in handles:
            handle.remove()
