"""Kangaroo: untrained it is the lens, trained it drafts better, and live equals stored."""

import numpy as np
import pytest
import torch

import lensbench
from lensbench.errors import ConfigError, DamagedDataError, MismatchError
from lensbench.interventions.acceleration import greedy
from lensbench.interventions.acceleration.speculative import kangaroo_training
from lensbench.interventions.acceleration.speculative.kangaroo import kangaroo
from lensbench.interventions.acceleration.speculative.kangaroo_adapter import KangarooAdapter
from lensbench.interventions.acceleration.speculative.kangaroo_report import kangaroo_report
from lensbench.interventions.acceleration.speculative.kangaroo_training import train_kangaroo
from lensbench.interventions.acceleration.speculative.schedules import ConfidenceStop
from lensbench.interventions.acceleration.study.own import capture_own
from lensbench.models.ranges.buffers import Buffers
from lensbench.results import load
from tests.helpers import random_ids, tiny

PROMPT = random_ids(1, 7, seed=2)
N = 20
SETTINGS = {"steps": 60, "batch_size": 8, "learning_rate": 3e-3, "holdout": 0.25}


def tiny_model(kind: str = "llama", **changes):
    return lensbench.load_model(tiny(kind, seed=3, **changes), certify=False)


@pytest.fixture(scope="module")
def model():
    return tiny_model()


@pytest.fixture(scope="module")
def store(model, tmp_path_factory):
    prompts = [row[None] for row in random_ids(40, 4, seed=8)]
    prompts = torch.cat(prompts)
    return capture_own(model, prompts, tmp_path_factory.mktemp("own") / "store", 24)


@pytest.fixture(scope="module")
def trained(model, store):
    return train_kangaroo(store, model, 2, SETTINGS)


def shaken(model, exit_layer: int, spread: float = 1.0) -> KangarooAdapter:
    """An adapter whose every weight does something."""
    adapter = KangarooAdapter.new(model, exit_layer, seed=1)
    with torch.no_grad():
        adapter.out.weight.normal_(std=spread, generator=torch.Generator().manual_seed(5))
    return adapter


@pytest.mark.parametrize("kind", ["llama", "gpt2", "gpt_neox", "gemma2", "opt", "bloom"])
def test_an_untrained_adapter_is_the_lens_of_its_exit(kind) -> None:
    known = tiny_model(kind)
    h = known.run(PROMPT, capture="blocks.1.resid_post").acts["blocks.1.resid_post"]
    with torch.inference_mode():
        logits = KangarooAdapter.new(known, 2).logits(h)
    torch.testing.assert_close(logits, known.unembed(h))


def test_with_nothing_written_above_the_exit_every_draft_is_kept() -> None:
    module = tiny("llama", seed=3)
    with torch.no_grad():
        module.model.layers[2].self_attn.o_proj.weight.zero_()
        module.model.layers[2].mlp.down_proj.weight.zero_()
    known = lensbench.load_model(module, certify=False)
    always = ConfidenceStop(0.0, 6)
    found = kangaroo(known, PROMPT, KangarooAdapter.new(known, 2), N, schedule=always)
    assert found.acceptance == 1.0
    assert [r.drafted for r in found.rounds] == [6, 6, 5]
    other = kangaroo(known, PROMPT, shaken(known, 2), N, schedule=always)
    assert other.acceptance < 1.0
    assert other.new == found.new == greedy(known, PROMPT, N).new


def test_the_adapter_reads_a_text_in_pieces_as_it_does_at_once(model) -> None:
    adapter, h = shaken(model, 2), torch.randn(1, 9, 32)
    with torch.inference_mode():
        whole, cache = adapter(h), Buffers(1, 9)
        parts = [adapter(h[:, a:b], a, cache) for a, b in ((0, 4), (4, 5), (5, 9))]
    torch.testing.assert_close(torch.cat(parts, 1), whole)


@pytest.mark.parametrize("threshold", [0.0, 0.15])
def test_what_is_accepted_live_is_what_the_stored_states_say(threshold) -> None:
    module = tiny("llama", seed=3)
    with torch.no_grad():  # a last layer that changes some tokens: drafts are partly right
        module.model.layers[2].self_attn.o_proj.weight.mul_(0.2)
        module.model.layers[2].mlp.down_proj.weight.mul_(0.2)
    near = lensbench.load_model(module, certify=False)
    fully = refused = 0
    for adapter in (KangarooAdapter.new(near, 2), shaken(near, 2, 0.2)):
        schedule = ConfidenceStop(threshold, 5)
        found = kangaroo(near, PROMPT, adapter, 40, schedule=schedule)
        assert found.new == greedy(near, PROMPT, 40).new
        text = torch.tensor([[*found.prompt, *found.new]])
        h = near.run(text, capture="blocks.1.resid_post").acts["blocks.1.resid_post"]
        with torch.inference_mode():
            said = adapter.logits(h)[0]
        right = (said.argmax(-1)[:-1] == text[0, 1:]).tolist()
        at = len(found.prompt) - 1
        for r in found.rounds:
            ahead = right[at : at + r.drafted]
            agreed = ahead.index(False) if False in ahead else len(ahead)
            assert r.accepted == agreed
            fully += r.drafted > 0 and agreed == r.drafted
            refused += agreed < r.drafted
            at += r.accepted + 1
    assert fully  # after these the adapter has a token to catch up on
    assert refused


def test_training_beats_the_bare_lens_on_held_out_text_and_live(tmp_path) -> None:
    """With intervals that do not meet; an untrained adapter equals the lens."""
    from lensbench.worlds.atlas import Atlas

    atlas = lensbench.load_model("atlas-dense", certify=False)
    sites = ["blocks.1.resid_post", "blocks.5.resid_post"]
    texts = lensbench.capture(atlas, Atlas().sample(160, "train", 7), sites, out=tmp_path / "text")
    adapter = train_kangaroo(texts, atlas, 2, {"steps": 100, "holdout": 0.25})
    assert adapter.losses[-10:].mean() < adapter.losses[:10].mean()
    rows = kangaroo_report(adapter, texts, atlas).to_frame().set_index(["draft", "measure"])
    for measure in ("agreement", "overlap"):
        assert rows.loc[("adapter", measure), "low"] > rows.loc[("lens", measure), "high"]
    always = ConfidenceStop(0.0, 4)
    fresh = KangarooAdapter.new(atlas, 2)
    untrained = kangaroo_report(fresh, texts, atlas).summary()
    assert untrained["agreement"] == pytest.approx(untrained["lens_agreement"])
    rates = []
    for one in (adapter, fresh):
        prompts = [texts.sequence_of(row).tokens.ids[:, :8] for row in (0, 500, 1000, 1500)]
        runs = [kangaroo(atlas, p, one, 24, schedule=always) for p in prompts]
        assert all(r.new == greedy(atlas, [list(r.prompt)], 24).new for r in runs)
        rates.append(sum(r.accepted for r in runs) / sum(r.drafted for r in runs))
    assert rates[0] > rates[1]


def test_a_report_survives_a_round_trip(model, store, trained, tmp_path) -> None:
    report = kangaroo_report(trained, store, model)
    # A quarter of 40 texts; each of 24 new tokens and the one after are predicted.
    assert report.summary()["tokens"] == 10 * 25
    assert load(report.save(tmp_path)) == report
    assert set(report.to_frame()["draft"]) == {"adapter", "lens"}
    assert report.plot().data


def test_training_leaves_the_model_as_it_was_and_runs_none_of_its_blocks(model, store) -> None:
    before = {k: v.clone() for k, v in model.module.state_dict().items()}
    calls = []
    handles = [
        b.register_forward_pre_hook(lambda *_: calls.append(1)) for b in model.module.model.layers
    ]
    adapter = train_kangaroo(store, model, 1, {**SETTINGS, "steps": 3})
    for handle in handles:
        handle.remove()
    assert not calls
    assert all(torch.equal(v, before[k]) for k, v in model.module.state_dict().items())
    assert all(p.grad is None for p in model.module.parameters())
    assert not torch.equal(adapter.final_norm.weight, model.module.model.norm.weight)


def test_a_killed_run_goes_on_and_ends_with_the_same_weights(model, store, tmp_path) -> None:
    settings = {**SETTINGS, "steps": 12, "checkpoint_every": 5}
    wanted = train_kangaroo(store, model, 2, settings)

    class Killed(Exception):
        pass

    def kill(step: int, _: float) -> None:
        if step == 7:
            raise Killed

    with pytest.raises(Killed):
        train_kangaroo(store, model, 2, settings, tmp_path, progress=kill)
    told = []
    found = train_kangaroo(
        store, model, 2, settings, tmp_path, progress=lambda s, _: told.append(s)
    )
    assert told == [6, 7, 8, 9, 10, 11, 12]
    for name, value in wanted.state_dict().items():
        assert torch.equal(found.state_dict()[name], value), name
    np.testing.assert_array_equal(found.losses, wanted.losses)
    again = train_kangaroo(store, model, 2, settings, tmp_path, progress=lambda *_: told.append(0))
    assert 0 not in told
    assert torch.equal(again.out.weight, wanted.out.weight)
    assert not list(tmp_path.glob("checkpoint*"))
    with pytest.raises(MismatchError, match="other settings"):
        train_kangaroo(store, model, 2, {**settings, "seed": 4}, tmp_path)
    weights = tmp_path / "adapter.safetensors"
    weights.write_bytes(weights.read_bytes()[:-4] + b"abcd")
    with pytest.raises(DamagedDataError, match="sha256"):
        KangarooAdapter.load(tmp_path, model)


def test_what_does_not_fit_is_refused_in_words(model, store, trained, tmp_path) -> None:
    other = tiny_model("gpt2")
    with pytest.raises(MismatchError, match="another model"):
        kangaroo(other, PROMPT, trained, N)
    with pytest.raises(MismatchError, match="another model"):
        KangarooAdapter.load(trained.save(tmp_path), other)
    with pytest.raises(ConfigError, match="1 to 2"):
        train_kangaroo(store, model, 3)
    with pytest.raises(ConfigError, match="n_heads"):
        KangarooAdapter.new(model, 1, n_heads=5)
    with pytest.raises(ConfigError, match="learning_rate"):
        train_kangaroo(store, model, 1, {"learning_rate": -1.0})
    assert kangaroo_training.KangarooConfig(steps=100, warmup=10).rate(0) == pytest.approx(1e-4)
