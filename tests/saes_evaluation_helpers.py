"""Small models, stores with known content and dictionaries with hand-set weights."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch


class HandSet:
    """A dictionary with the given weights: ``relu(x W_enc + b_enc)``, then ``a W_dec + b_dec``."""

    def __init__(self, w_enc, w_dec, b_enc=0.0, b_dec=0.0) -> None:
        self.W_enc, self.W_dec = w_enc.float(), w_dec.float()
        self.d_sae, self.d_model = self.W_dec.shape
        self.b_enc = torch.zeros(self.d_sae) + b_enc
        self.b_dec = torch.zeros(self.d_model) + b_dec

    def encode(self, x):
        return (x @ self.W_enc + self.b_enc).relu()

    def decode(self, acts):
        return acts @ self.W_dec + self.b_dec


def identity(d: int) -> HandSet:
    """relu(x) - relu(-x) = x: two latents per dimension, exactly."""
    eye = torch.eye(d)
    return HandSet(torch.cat([eye, -eye], 1), torch.cat([eye, -eye]))


def constant(value: torch.Tensor) -> HandSet:
    """Always predicts ``value``; its one latent never fires."""
    d = len(value)
    return HandSet(torch.zeros(d, 1), torch.zeros(1, d), b_dec=value)


def tiny_llama(vocab: int, *, n_layers: int = 4, d: int = 16, seed: int = 0):
    """A random transformers Llama, its norms randomised too."""
    from transformers import LlamaConfig, LlamaForCausalLM

    torch.manual_seed(seed)
    config = LlamaConfig(
        vocab_size=vocab,
        hidden_size=d,
        intermediate_size=2 * d,
        num_hidden_layers=n_layers,
        num_attention_heads=2,
        num_key_value_heads=1,
        max_position_embeddings=128,
        initializer_range=0.3,
    )
    model = LlamaForCausalLM(config).eval()
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "norm" in name:
                parameter.add_(0.3 * torch.randn_like(parameter))
    return model


def run_corpus(model, corpus, sites) -> dict[str, torch.Tensor]:
    """Activations of every token, one document per sequence, rows in the corpus's order."""
    found: dict[str, list[torch.Tensor]] = {site: [] for site in sites}
    for i in range(corpus.n_docs):
        acts = model.run(corpus.document(i).astype(np.int64), capture=list(sites)).acts
        for site in sites:
            found[site].append(acts[site][0].flatten(1))
    return {site: torch.cat(rows) for site, rows in found.items()}


def write_store(
    folder: Path,
    corpus: Any,
    acts: Mapping[str, torch.Tensor],
    *,
    card: Any = None,
    spec: Mapping[str, Any] | None = None,
    skip_first: bool = False,
    dtype: torch.dtype = torch.float32,
):
    """An activation store of these rows (one per token of ``corpus``), one document a sequence."""
    from lensbench.store import open_store
    from lensbench.store.folder import open_folder
    from lensbench.store.manifest import Manifest, SiteEntry
    from lensbench.store.writer import ShardTokens, StoreWriter, begin, finish

    place = open_folder(folder)
    header = Manifest(
        model={"name": "test", "fingerprint": card.fingerprint if card else "none"},
        tokenizer={"fingerprint": "none"},
        text={"kind": "corpus", "fingerprint": "x", "spec": dict(spec or corpus.spec)},
        settings={"dtype": str(dtype).removeprefix("torch."), "batch_size": 16},
    )
    entries = {s: SiteEntry((a.shape[1],), "tokens d_model") for s, a in acts.items()}
    writer = StoreWriter(place, begin(place, header, entries))
    batches = [range(a, min(a + 16, corpus.n_docs)) for a in range(0, corpus.n_docs, 16)]
    for number, docs in enumerate(batches):
        longest = max(int(corpus.lengths[i]) for i in docs)
        ids = np.zeros((len(docs), longest), np.int32)
        real = np.zeros(ids.shape, bool)
        doc_ids = np.full(ids.shape, -1, np.int64)
        rows: list[np.ndarray] = []
        for row, i in enumerate(docs):
            n = int(corpus.lengths[i])
            ids[row, :n], real[row, :n], doc_ids[row, :n] = corpus.document(i), True, i
            rows.append(np.arange(corpus.offsets[i] + int(skip_first), corpus.offsets[i + 1]))
        kept = real.copy()
        kept[:, 0] &= not skip_first
        tokens = ShardTokens(ids, real, kept, doc_ids, len(docs))
        index = np.concatenate(rows)
        part = {s: a[index].to(dtype).contiguous() for s, a in acts.items()}
        writer.submit(number, tokens, part)
    writer.close()
    finish(place, len(batches), {})
    return open_store(folder)
