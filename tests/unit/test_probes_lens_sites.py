"""The lens at any site: the k best, prediction depth, memory, and what is refused."""

import weakref
from typing import Any

import numpy as np
import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_iter

from tests.helpers import random_ids, tiny


@pytest.fixture(scope="module")
def model() -> Any:
    import lensbench

    return lensbench.load_model(tiny("llama"), certify=False)


class Peak(TorchDispatchMode):
    """Bytes of tensors that are alive at a time, at most, of those made inside."""

    def __init__(self) -> None:
        super().__init__()
        self.now = self.most = 0
        self.known: dict[int, int] = {}

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = func(*args, **(kwargs or {}))
        old = {x.untyped_storage().data_ptr() for x in tree_iter((args, kwargs))
               if isinstance(x, torch.Tensor)}  # fmt: skip
        for x in tree_iter(out):
            if isinstance(x, torch.Tensor):
                store = x.untyped_storage()
                if store.data_ptr() not in old | self.known.keys():
                    self.known[store.data_ptr()] = store.nbytes()
                    self.now += store.nbytes()
                    self.most = max(self.most, self.now)
                    weakref.finalize(store, self._gone, store.data_ptr())
        return out

    def _gone(self, pointer: int) -> None:
        self.now -= self.known.pop(pointer, 0)


@pytest.mark.parametrize(("d_vocab", "k"), [(50, 5), (4096, 1), (5000, 3), (50257, 5), (300, 300)])
def test_the_k_best_are_those_of_torch(d_vocab: int, k: int) -> None:
    from lensbench.probes.lenses.measures import top_k

    logits = torch.randn(7, d_vocab, generator=torch.Generator().manual_seed(0))
    logits[0, -1] = 99.0  # behind the last whole block
    logits[1, :k] = 50.0 + torch.arange(k).flip(0)  # all in one block
    values, ids = top_k(logits, k)
    wanted = logits.topk(k, -1)
    assert torch.equal(values, wanted.values)
    assert torch.equal(ids, wanted.indices)


def test_tiles_cover_all_tokens_once_and_evenly() -> None:
    from lensbench.probes.lenses.measures import TILE, tiles

    for n, d_vocab in ((0, 50), (1, 50), (512, 50257), (5000, 64), (7, 2 * TILE), (513, 128_000)):
        found = list(tiles(n, d_vocab))
        assert [i for part in found for i in range(part.start, part.stop)] == list(range(n))
        sizes = [part.stop - part.start for part in found]
        assert all(size * d_vocab <= max(TILE, d_vocab) and size <= 2048 for size in sizes)
        assert not sizes or sizes[-1] > max(sizes) - len(sizes)


def test_prediction_depth_is_the_first_row_that_agrees_for_good() -> None:
    from lensbench.probes.lenses.measures import prediction_depth

    agrees = np.array([[1, 0, 1, 0], [1, 1, 0, 0], [1, 1, 1, 0], [1, 1, 1, 1]], dtype=bool)
    assert prediction_depth(agrees).tolist() == [0, 1, 2, 3]
    assert prediction_depth(agrees.astype(np.float32)).tolist() == [0, 1, 2, 3]


def test_every_row_of_the_stream_is_the_unembedding_of_its_state(model: Any) -> None:
    from lensbench.probes.lenses.measures import METRICS, measure
    from lensbench.probes.lenses.sites import site_lens

    ids = random_ids(1, 9)
    lens = site_lens(model, ids, "stream", k=3)
    names = ["resid_pre", "resid_mid", "resid_post"]
    assert list(lens.places) == ["blocks.0.resid_pre"] + [
        f"blocks.{n}.{s}" for n in range(3) for s in names[1:]
    ]
    run = model.run(ids, capture=lens.places)
    for row, place in enumerate(lens.places):
        logits = model.unembed(run.acts[place][0])
        best = logits.softmax(-1).topk(3, -1)
        assert lens.top_ids[row].tolist() == best.indices.tolist()
        np.testing.assert_allclose(lens.top_prob[row], best.values, atol=1e-6)
        found = measure(logits[:-1], run.logits[0, :-1], ids[0, 1:])
        np.testing.assert_allclose(lens.values[:, row, :-1], found, atol=2e-5)
    assert (lens.values[list(METRICS).index("kl_to_final"), -1] == 0).all()
    assert np.isnan(lens.values[3:, :, -1]).all(), "nothing follows the last token"
    bare = site_lens(model, ids, ["blocks.1.resid_mid"], k=3, metrics=False)
    assert bare.places == ("blocks.1.resid_mid", "blocks.2.resid_post")
    assert (bare.top_ids == lens.top_ids[[3, 6]]).all()
    with pytest.raises(ValueError, match="metrics=True"):
        bare.depth()


@pytest.mark.parametrize("norm", ["own", "held"])
def test_what_a_block_adds_is_read_by_itself(model: Any, norm: Any) -> None:
    from lensbench.probes.lenses.sites import site_lens

    ids = random_ids(1, 9)
    lens = site_lens(model, ids, ["attn_out", "blocks.1.mlp_out"], k=3, norm=norm)
    assert lens.reads == "writes"
    assert lens.places == ("blocks.0.attn_out", "blocks.1.attn_out", "blocks.1.mlp_out",
                           "blocks.2.attn_out", "blocks.2.resid_post")  # fmt: skip
    run = model.run(ids, capture=[*lens.places, "ln_final.scale"])
    gain, table = model.module.model.norm.weight.detach(), model.module.lm_head.weight.detach()
    for row, place in enumerate(lens.places[:-1]):
        c = run.acts[place][0]
        size = c.pow(2).mean(-1, keepdim=True).add(model.module.config.rms_norm_eps).sqrt()
        scale = size if norm == "own" else run.acts["ln_final.scale"][0]
        logits = (c / scale * gain) @ table.T
        best = logits.softmax(-1).topk(3, -1)
        assert lens.top_ids[row].tolist() == best.indices.tolist()
        np.testing.assert_allclose(lens.top_prob[row], best.values, atol=1e-5)
    assert lens.top_ids[-1].tolist() == run.logits[0].topk(3, -1).indices.tolist()
    other = site_lens(model, ids, "attn_out", norm="held" if norm == "own" else "own")
    assert float(np.abs(other.top_prob[0] - lens.top_prob[0, :, :1]).max()) > 1e-3
    assert set(lens.summary()) == {"places", "tokens"}
    with pytest.raises(ValueError, match="prediction depth"):
        lens.depth()


def test_memory_does_not_grow_with_layers_times_tokens_at_a_vocabulary_of_128_k() -> None:
    import lensbench
    from lensbench.probes.lenses.measures import TILE
    from lensbench.probes.lenses.sites import site_lens

    module = tiny("llama", vocab_size=128_000, max_position_embeddings=512)
    model = lensbench.load_model(module, certify=False)
    peaks = []
    for tokens in (128, 192):  # two tiles and three
        with Peak() as peak:
            site_lens(model, random_ids(1, tokens))
        peaks.append(peak.most)
    everything = 3 * 192 * 128_000 * 4
    assert peaks[1] < 1.1 * peaks[0], "more tokens, the same tiles"
    assert peaks[1] < 6 * TILE * 4 < everything
    with Peak() as peak:  # the control: what a lens that holds everything takes is seen
        acts = model.run(random_ids(1, 192), capture=["blocks.2.resid_post"], logits="none").acts
        state = acts["blocks.2.resid_post"]
        kept = [model.unembed(state) for _ in range(3)]
    assert peak.most >= everything
    del kept


def test_results_come_back_and_draw_themselves(model: Any, tmp_path: Any) -> None:
    from lensbench import results
    from lensbench.probes.lenses.components import component_lens
    from lensbench.probes.lenses.sites import site_lens

    for name, lens in {
        "stream": site_lens(model, random_ids(1, 6), "stream"),
        "components": component_lens(model, random_ids(1, 6)),
    }.items():
        assert results.load(lens.save(tmp_path / name)) == lens
        assert len(lens.to_frame()) == len(lens.places) * 6
        for metric, span in (("top_prob", (0, 1)), ("target_rank", (1, model.card.d_vocab)),
                             ("entropy", (0, np.log(model.card.d_vocab)))):  # fmt: skip
            heat = lens.plot(metric).data[0]
            assert (heat.zmin, heat.zmax) == pytest.approx(span), "one range for every text"
        axis = lens.plot("entropy").layout.yaxis
        assert set(axis.ticktext) <= set(lens.places)
        with pytest.raises(LookupError, match="entropy"):
            lens.plot("entropie")


def test_what_cannot_be_read_is_refused(model: Any) -> None:
    import lensbench
    from lensbench.errors import ConfigError, MismatchError, UnknownNameError
    from lensbench.probes.lenses.logit import UnembedReadout
    from lensbench.probes.lenses.sites import site_lens

    ids = random_ids(1, 5)
    with pytest.raises(UnknownNameError, match="component_lens"):
        site_lens(model, ids, "attn.z")
    with pytest.raises(UnknownNameError, match=r"blocks\.2\.resid_post"):
        site_lens(model, ids, "blocks.3.resid_post")
    with pytest.raises(ConfigError, match="one text at a time"):
        site_lens(model, random_ids(2, 5))
    with pytest.raises(ConfigError, match=r"1\.\.61"):
        site_lens(model, ids, k=62)
    with pytest.raises(ConfigError, match="next token"):
        site_lens(lensbench.load_model(tiny("bert"), certify=False), ids)
    with pytest.raises(UnknownNameError, match="held"):
        site_lens(model, ids, "attn_out", norm="holds")  # pyright: ignore[reportArgumentType] - the slip
    with pytest.raises(UnknownNameError, match="held"):
        site_lens(model, ids, "attn_out", norm=None)  # pyright: ignore[reportArgumentType] - the slip
    translated = lambda state, layer: model.unembed(state)  # noqa: ARG005, E731
    with pytest.raises(ConfigError, match="added to one"):
        site_lens(model, ids, "mlp_out", readout=translated)
    other = lensbench.load_model(tiny("llama", seed=5), certify=False)
    with pytest.raises(MismatchError, match="was made for"):
        site_lens(model, ids, readout=UnembedReadout(other))
    inner = lambda state, layer: model.unembed(state)  # noqa: ARG005, E731
    with pytest.raises(ConfigError, match="inside"):
        site_lens(model, ids, "resid_mid", readout=inner)
