"""Contrastive rules inside transformers' own generate, token for token those of our decoding.

transformers 5 has no DoLa of its own any more (``dola_layers`` fetches code from the hub), so DoLa
is held against the formula on transformers' hidden states instead.
"""

import math
from typing import Any

import pytest
import torch

from lensbench import load_model
from lensbench.errors import ConfigError
from lensbench.models.session import ACTIVE
from lensbench.probes import SH2, ContextAware, ContrastiveDecoding, DeCo, DoLa
from tests.helpers import random_ids, tiny

STEPS = 6
ROWS = random_ids(2, 7, seed=8).tolist()
ROWS[1] = ROWS[1][3:]
OTHER = [[5, 9, 2], [7, 3, 3, 8, 1]]
IDS = torch.tensor([ROWS[0], [0, 0, 0, *ROWS[1]]])
MASK = torch.tensor([[1] * 7, [0] * 3 + [1] * 4])


@pytest.fixture(scope="module", params=["llama", "gpt2"])
def model(request: Any) -> Any:
    return load_model(tiny(request.param, seed=3), certify=False)


def rules(model: Any) -> dict[str, Any]:
    amateur = load_model(tiny("gpt2", seed=4), certify=False)
    return {
        "dola": DoLa(model, (0, 1, 2)),
        "dola of the embeddings": DoLa(model, (0,), norm_intermediate=False),
        "deco": DeCo(model, (1, 2), alpha=3.0, top_p=0.8, top_k=10),
        "context": ContextAware(model, OTHER, alpha=1.5),
        "sh2": SH2(model, OTHER, alpha=2.0),
        "contrastive": ContrastiveDecoding(model, amateur, temperature=0.5),
    }


def theirs(model: Any, processors: list[Any], ids: Any = IDS, mask: Any = MASK, **more: Any) -> Any:
    options = {"max_new_tokens": STEPS, "do_sample": False, "pad_token_id": 0} | more
    out = model.module.generate(ids, attention_mask=mask, logits_processor=processors, **options)
    return out[:, ids.shape[1] :].tolist()


@pytest.mark.parametrize("name", ["dola", "dola of the embeddings", "deco", "context", "sh2",
                                  "contrastive"])  # fmt: skip
@pytest.mark.parametrize("use_cache", [True, False])
def test_a_rule_writes_the_same_inside_transformers(model: Any, name: str, use_cache: bool) -> None:
    rule = rules(model)[name]
    ours = model.generate(ROWS, max_new_tokens=STEPS, stop_ids=[], choose=rule)
    plain = theirs(model, [], eos_token_id=-1)
    assert plain == model.generate(ROWS, max_new_tokens=STEPS, stop_ids=[])
    processor = rule.processor(MASK)
    assert theirs(model, [processor], eos_token_id=-1, use_cache=use_cache) == ours != plain
    # A second text through the same processor begins anew.
    assert theirs(model, [processor], eos_token_id=-1) == ours


def test_dola_is_its_formula_on_the_hidden_states_of_transformers() -> None:
    from lensbench.probes.lenses.contrastive.divergence import divergence

    model = load_model(tiny("llama", seed=3), certify=False)
    hf, ids = model.module, list(ROWS[0])
    found = theirs(model, [DoLa(model, (0, 1, 2)).processor()], IDS[:1], None, eos_token_id=-1)
    for _ in range(STEPS):
        with torch.no_grad():
            out = hf(torch.tensor([ids]), output_hidden_states=True)
            final = out.logits[0, -1].log_softmax(-1)
            read = [hf.model.norm(h[0, -1]) for h in out.hidden_states[:3]]
            early = [hf.lm_head(h).log_softmax(-1) for h in read]
        far = max(early, key=lambda q: float(divergence("paper_jsd", final, q)))
        scores = final - far
        scores[final < final.max() + math.log(0.1)] = -torch.inf
        ids.append(int(scores.argmax()))
    assert found == [ids[len(ROWS[0]) :]]


def test_rows_that_end_and_other_processors_keep_their_say(model: Any) -> None:
    rule = DoLa(model, (0, 1, 2))
    ours = model.generate(ROWS, max_new_tokens=STEPS, stop_ids=[], choose=rule)
    stop = ours[0][1]
    ended = model.generate(ROWS, max_new_tokens=STEPS, stop_ids=[stop], choose=rule)
    found = theirs(model, [rule.processor(MASK)], eos_token_id=stop, pad_token_id=1)
    assert [row[: len(mine)] for row, mine in zip(found, ended, strict=True)] == ended
    forbidden = theirs(model, [rule.processor(MASK)], eos_token_id=-1,
                       bad_words_ids=[[ours[0][0]]])  # fmt: skip
    assert ours[0][0] not in forbidden[0]


def test_the_model_is_left_as_found_when_a_step_fails(model: Any) -> None:
    class Broken(DoLa):
        steps = 0

        def of_step(self, step: Any) -> Any:
            Broken.steps += 1
            if Broken.steps == 3:
                raise RuntimeError("broken on purpose")
            return super().of_step(step)

    def hooks() -> list[int]:
        return [len(m._forward_hooks) + len(m._forward_pre_hooks) for m in model.module.modules()]

    before, plain = hooks(), theirs(model, [])
    forwards = [type(m.forward) for m in model.module.modules()]
    processor = Broken(model, (0, 1)).processor(MASK)
    with pytest.raises(RuntimeError, match="on purpose"):
        theirs(model, [processor], eos_token_id=-1)
    assert hooks() == before
    assert [type(m.forward) for m in model.module.modules()] == forwards
    assert ACTIVE.get() is None
    assert theirs(model, []) == plain
    rule = DoLa(model, (0, 1))  # the processor itself goes on, too
    ours = model.generate(ROWS, max_new_tokens=STEPS, stop_ids=[], choose=rule)
    assert theirs(model, [processor], eos_token_id=-1) == ours


def test_a_step_that_failed_can_be_asked_again(model: Any) -> None:
    class Broken(DoLa):
        fails = 0

        def of_step(self, step: Any) -> Any:
            Broken.fails += 1
            if Broken.fails == 2:
                raise RuntimeError("broken on purpose")
            return super().of_step(step)

    longer = torch.cat([IDS[:1], torch.tensor([[5]])], 1)
    first, scores = (model.run(ids, logits="last").logits[:, -1] for ids in (IDS[:1], longer))
    processor = Broken(model, (0, 1)).processor()
    processor(IDS[:1], first)
    with pytest.raises(RuntimeError, match="on purpose"):
        processor(longer, scores)
    fresh = DoLa(model, (0, 1)).processor()(longer, scores)
    torch.testing.assert_close(processor(longer, scores), fresh, atol=1e-5, rtol=1e-5)


def test_no_block_above_the_deepest_candidate_runs_again(model: Any, monkeypatch: Any) -> None:
    scores = model.run(IDS[:1], logits="last").logits[:, -1]
    plain, ran = type(model).run, list[int]()

    def told(*args: Any, **more: Any) -> Any:
        out = plain(*args, **more)
        ran.append(out.layers_run)
        return out

    monkeypatch.setattr(type(model), "run", told)
    for depths in ((0, 1), (0, 2)):
        DoLa(model, depths).processor()(IDS[:1], scores)
    assert ran == [1, 2]


def test_what_a_processor_cannot_know_is_asked_for(model: Any) -> None:
    rule = DoLa(model, (0, 1))
    with pytest.raises(ConfigError, match=r"2 rows.*rule\.processor\(attention_mask\)"):
        theirs(model, [rule.processor()])
    with pytest.raises(ConfigError, match="beams are not supported"):
        theirs(model, [rule.processor()], IDS[:1], MASK[:1], num_beams=3)
    with pytest.raises(ConfigError, match=r"\[2, 7\].*\[1, 7\]"):
        theirs(model, [rule.processor(MASK)], IDS[:1], MASK[:1])
    with pytest.raises(ConfigError, match="padded on the left"):
        rule.processor(MASK.flip(1))
    with pytest.raises(ConfigError, match="scores are of 50 tokens"):
        rule.processor()(IDS[:1], torch.zeros(1, 50))
    sh2 = SH2(model, OTHER[:1], plausibility=1.0)
    allowed = int(model.run(OTHER[:1], logits="last").logits.argmax())
    nothing = torch.full((1, model.card.d_vocab), -torch.inf)
    nothing[0, (allowed + 1) % model.card.d_vocab] = 0.0
    with pytest.raises(ConfigError, match="forbidden by another"):
        sh2.processor()(IDS[:1], nothing)
    code = DoLa(model, (0, 1), divergence="code_reverse").processor()
    with pytest.raises(ConfigError, match="divergence='paper_jsd'"):
        theirs(model, [code], IDS[:1], None, bad_words_ids=[[3]])
    from lensbench.models.transformer_lens import to_transformer_lens

    other = DoLa(to_transformer_lens(model), (0, 1))
    with pytest.raises(ConfigError, match="reached through transformer_lens"):
        other.processor()


@pytest.mark.illtyped
def test_a_mask_that_is_no_tensor_is_told(model: Any) -> None:
    with pytest.raises(ConfigError, match=r"a tensor \[batch, pos\], got \[\[1, 1\]\]"):
        DoLa(model, (0, 1)).processor([[1, 1]])  # pyright: ignore[reportArgumentType] - the slip
