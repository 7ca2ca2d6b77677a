"""The same network behind lensbench, plain hooks and the peers, and their ways to capture.

Every function returns ``{name: callable}``; a callable takes token ids ``[batch, pos]`` and returns
the activations it captured, so that a benchmark can first check that all of them agree.
"""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

Capture = Callable[[Tensor], Any]


def gpt2(n_layer: int = 12, n_embd: int = 768, n_head: int = 12, vocab: int = 50257) -> Any:
    """A GPT-2 of the given shape with random weights (GPT-2 small by default)."""
    from transformers import GPT2Config, GPT2LMHeadModel

    torch.manual_seed(0)
    config = GPT2Config(
        n_layer=n_layer,
        n_embd=n_embd,
        n_head=n_head,
        vocab_size=vocab,
        n_positions=1024,
        attn_implementation="sdpa",
    )
    return GPT2LMHeadModel(config).eval()


def tokens(rows: int = 16, pos: int = 128, vocab: int = 50257, seed: int = 0) -> Tensor:
    """Random token ids."""
    return torch.randint(0, vocab, (rows, pos), generator=torch.Generator().manual_seed(seed))


def hooked_transformer(hf: Any) -> Any:
    """The same weights as a TransformerLens HookedTransformer, nothing folded."""
    import transformer_lens

    c = hf.config
    config = transformer_lens.HookedTransformerConfig(
        n_layers=c.n_layer,
        d_model=c.n_embd,
        n_heads=c.n_head,
        d_head=c.n_embd // c.n_head,
        d_mlp=4 * c.n_embd,
        d_vocab=c.vocab_size,
        n_ctx=c.n_positions,
        act_fn="gelu_new",
        normalization_type="LN",
        eps=c.layer_norm_epsilon,
        default_prepend_bos=False,
    )
    model = transformer_lens.HookedTransformer(config)
    convert = transformer_lens.pretrained.weight_conversions.convert_gpt2_weights
    model.load_state_dict(convert(hf, config), strict=False)
    return model.eval()


def hook_and_stop(hf: Any, layer: int) -> Capture:
    """What one writes by hand: a hook that keeps the output and ends the pass."""

    class Stop(Exception):
        pass

    def capture(ids: Tensor) -> Tensor:
        kept: list[Tensor] = []

        def hook(module: Any, args: Any, out: Any) -> None:
            del module, args
            kept.append(out[0] if isinstance(out, tuple) else out)
            raise Stop

        handle = hf.transformer.h[layer].register_forward_hook(hook)
        try:
            with torch.no_grad():
                hf(input_ids=ids)
        except Stop:
            pass
        finally:
            handle.remove()
        return kept[0]

    return capture


def nnsight_stop(wrapped: Any, layer: int) -> Capture:
    """nnsight: save the block's output and stop the tracer."""

    def capture(ids: Tensor) -> Tensor:
        with torch.no_grad(), wrapped.trace(ids) as tracer:
            kept = wrapped.transformer.h[layer].output.save()
            tracer.stop()
        return kept if isinstance(kept, Tensor) else kept[0]

    return capture


def nnsight_all(wrapped: Any, n_layers: int) -> Capture:
    """nnsight: save the output of every block."""

    def capture(ids: Tensor) -> list[Tensor]:
        with torch.no_grad(), wrapped.trace(ids):
            kept = [wrapped.transformer.h[i].output.save() for i in range(n_layers)].save()
        return [k if isinstance(k, Tensor) else k[0] for k in kept]

    return capture


def transformer_lens_stop(model: Any, layer: int) -> Capture:
    """TransformerLens: run_with_cache with a filter and stop_at_layer."""
    name = f"blocks.{layer}.hook_resid_post"

    def capture(ids: Tensor) -> Tensor:
        with torch.no_grad():
            _, cache = model.run_with_cache(ids, names_filter=name, stop_at_layer=layer + 1)
        return cache[name]

    return capture


def transformer_lens_all(model: Any) -> Capture:
    """TransformerLens: run_with_cache with a filter on every block's output."""

    def capture(ids: Tensor) -> list[Tensor]:
        with torch.no_grad():
            _, cache = model.run_with_cache(
                ids, names_filter=lambda name: name.endswith("hook_resid_post")
            )
        return list(cache.values())

    return capture


def sae_lens_store(hf: Any, layer: int, ids: Tensor) -> Capture:
    """SAELens' ActivationsStore.get_activations over the untouched Hugging Face model."""
    from datasets import Dataset
    from sae_lens.load_model import HookedProxyLM
    from sae_lens.training.activations_store import ActivationsStore

    name = f"transformer.h.{layer}"
    store = ActivationsStore(
        model=HookedProxyLM(hf, tokenizer=None, hook_names=[name]),  # pyright: ignore
        dataset=Dataset.from_dict({"tokens": ids.tolist()}),
        streaming=False,
        hook_name=name,
        hook_head_index=None,
        context_size=ids.shape[1],
        d_in=hf.config.n_embd,
        n_batches_in_buffer=2,
        total_training_tokens=ids.numel(),
        store_batch_size_prompts=ids.shape[0],
        train_batch_size_tokens=ids.numel(),
        prepend_bos=False,
        normalize_activations="none",
        device=torch.device("cpu"),
        dtype="float32",
    )

    def capture(batch: Tensor) -> Tensor:
        with torch.no_grad():
            return store.get_activations(batch)

    return capture


def lensbench_run(model: Any, sites: list[str]) -> Capture:
    """lensbench: Model.run with nothing past the deepest site."""

    def capture(ids: Tensor) -> Any:
        acts = model.run(ids, capture=sites, logits="none").acts
        return acts[sites[0]] if len(sites) == 1 else [acts[s] for s in sites]

    return capture
