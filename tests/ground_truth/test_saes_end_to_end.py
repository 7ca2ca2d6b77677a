"""End-to-end objectives: gradients through the model written out, runs that resume, the effect."""

import copy
from typing import Any

import pytest
import torch
from torch import Tensor

from tests.helpers import tiny

CONTEXT, ROWS, F = 8, 4, 64
SITE, TARGET = "blocks.0.resid_post", "blocks.1.mlp_out"


class _Text:
    """Random ids, as a text given as ids."""

    def __new__(cls, n: int = 40, seed: int = 0) -> Any:
        rng = torch.Generator().manual_seed(seed)
        return [torch.randint(3, 60, (30,), generator=rng).tolist() for _ in range(n)]


def _model() -> Any:
    import lensbench

    return lensbench.load_model(tiny("llama", seed=3), certify=False)


def _source(model: Any, sites: list[str], **options: Any) -> Any:
    from lensbench.harvest import sequence_source

    return sequence_source(model, _Text(), sites, context=CONTEXT, bos=False, **options)


def _entry(objective: str, **more: Any) -> dict[str, Any]:
    return {"architecture": "topk", "k": 4, "d_sae": F, "objective": objective, **more}


def _group(model: Any, entry: dict[str, Any]) -> tuple[Any, Any, dict[str, Tensor]]:
    from lensbench.saes.architectures import TopKConfig
    from lensbench.saes.ends import Ends
    from lensbench.saes.training.downstream import downstream_of
    from lensbench.saes.training.groups import started

    config = TopKConfig(**{"name": "a", "site": SITE} | entry)
    ends = Ends.of(config)
    source = _source(model, list(ends.sites))
    batch = next(iter(source.batches(ROWS * CONTEXT)))
    downstream = downstream_of(source, [config], [ends])
    assert downstream is not None
    batch = downstream.take(batch)
    scales = dict(zip(ends.sites, (1.5, 0.6), strict=False))
    return started([config], ends, batch, scales), downstream, batch


def _written_out(
    module: Any, ids: Tensor, where: Any, values: Tensor | None
) -> tuple[Tensor, list[Tensor]]:
    """Log-probabilities of a plain module with one submodule's output replaced; states above."""
    states: list[Tensor] = []

    def put(_m: Any, _a: Any, out: Any) -> Any:
        first = out[0] if isinstance(out, tuple) else out
        new = values.view(first.shape)  # pyright: ignore
        return (new, *out[1:]) if isinstance(out, tuple) else new

    def see(_m: Any, _a: Any, out: Any) -> None:
        states.append(out[0] if isinstance(out, tuple) else out)

    handles = [] if values is None else [where.register_forward_hook(put)]
    handles += [block.register_forward_hook(see) for block in module.model.layers[1:]]
    try:
        logits = module(input_ids=ids, use_cache=False).logits
    finally:
        for handle in handles:
            handle.remove()
    return logits.float().log_softmax(-1), states


def _cost(objective: str, coefficient: float, runs: Any, ids: Tensor, unit: float) -> Tensor:
    (clean, below), (logp, above) = runs
    if objective == "kl":
        lost = (clean.exp() * (clean - logp)).sum(-1).mean()
    else:
        nll = [-t[:, :-1].gather(-1, ids[:, 1:, None]).mean() for t in (logp, clean)]
        lost = nll[0] - nll[1]
    shares = [
        (b - a).square().sum() / (a - a.mean((0, 1))).square().sum()
        for a, b in zip(below, above, strict=True)
    ]
    return lost / unit + coefficient * torch.stack(shares).mean()


@pytest.mark.parametrize("target", [None, TARGET])
@pytest.mark.parametrize(("objective", "coefficient"), [("kl", 0.0), ("kl", 0.5), ("ce", 0.0)])
def test_gradients_equal_those_through_the_model_written_out(
    objective: str, coefficient: float, target: str | None
) -> None:
    from lensbench.saes.step.looped import Looped
    from lensbench.saes.step.rules.base import Now

    model = _model()
    entry = _entry(objective, downstream_coefficient=coefficient, target=target)
    group, downstream, batch = _group(model, entry)
    ids = downstream._ids.view(ROWS, CONTEXT)
    x, y = group.seen(group.ends.x(batch), group.ends.y(batch))
    objective_of = downstream.objective(group, 0, batch)
    ours = Looped(screened=False).one(group, 0, x, Now(), y, objective_of)
    assert ours is not None

    module = copy.deepcopy(tiny("llama", seed=3))
    where = module.model.layers[0] if target is None else module.model.layers[1].mlp
    leaves = {name: p[0].clone().requires_grad_() for name, p in group.params.items()}
    goal = batch[group.ends.writes[0]]
    with torch.no_grad():
        clean = _written_out(module, ids, where, None)
        gone = _written_out(module, ids, where, goal.mean(0).expand_as(goal))
        unit = float(_cost(objective, 0.0, (clean, gone), ids, 1.0))
    assert float(group.state["unit"][0]) == pytest.approx(unit, rel=1e-4)
    read = x - (leaves["b_dec"] if y is None else group.state["centre"][0])
    pre = read @ leaves["W_enc"].t() + leaves["b_enc"]
    values, indices = pre.topk(4, dim=1)
    acts = torch.zeros_like(pre).scatter(1, indices, values.relu())
    rebuilt = (acts @ leaves["W_dec"] + leaves["b_dec"]) / group.out_scale
    cost = _cost(
        objective, coefficient, (clean, _written_out(module, ids, where, rebuilt)), ids, unit
    )
    loss = cost * goal.shape[1]
    loss.backward()
    assert float(ours.loss) == pytest.approx(float(loss.detach()), rel=1e-4)
    for name, leaf in leaves.items():
        assert leaf.grad is not None
        off = float((ours.of[name] - leaf.grad).abs().max() / leaf.grad.abs().max())
        assert off < 1e-3, name
    # Control: the mean square has other gradients.
    plain = Looped(screened=False).one(group, 0, x, Now(), y)
    assert plain is not None
    a, b = plain.of["W_dec"].flatten(), ours.of["W_dec"].flatten()
    assert float(torch.nn.functional.cosine_similarity(a, b, dim=0)) < 0.9


def test_a_model_in_half_precision_trains_dictionaries_in_single() -> None:
    import lensbench
    from lensbench import saes

    model = lensbench.load_model(tiny("llama", seed=3).bfloat16(), certify=False)
    train = {"tokens": 6 * ROWS * CONTEXT, "batch_size": ROWS * CONTEXT, "log_every": 1}
    sweep = {"train": train, "source": {"site": SITE}, "sweep": [_entry("kl", lr=3e-3)]}
    (run,) = saes.train(_source(model, [SITE]), sweep, device="cpu", progress=False)
    assert run.sae.W_dec.dtype == torch.float32
    assert all(loss > 0 for loss in run.history["loss"])


def _sweep(steps: int) -> dict[str, Any]:
    train = {"tokens": steps * ROWS * CONTEXT, "batch_size": ROWS * CONTEXT, "log_every": 5}
    entries = [_entry(o, lr=3e-3) for o in ("reconstruction", "kl", "ce")]
    train |= {"checkpoint_every": 5, "engine": "dense"}  # a measured one may differ between runs
    return {"train": train, "source": {"site": SITE}, "sweep": entries}


def test_a_run_resumes_to_the_same_weights(tmp_path: Any, monkeypatch: Any) -> None:
    from lensbench import saes
    from lensbench.errors import StoppedError
    from lensbench.saes.training import trainer

    model = _model()
    whole = saes.train(_source(model, [SITE]), _sweep(14), device="cpu", progress=False)
    assert [r.config["objective"] for r in whole] == ["reconstruction", "kl", "ce"]
    advance = trainer._Training._advance

    def cut(self: Any, batch: Any) -> None:
        if self._step == 8:
            raise StoppedError("killed")
        advance(self, batch)

    monkeypatch.setattr(trainer._Training, "_advance", cut)
    with pytest.raises(StoppedError):
        saes.train(
            _source(model, [SITE]), _sweep(14), out=tmp_path / "r", device="cpu", progress=False
        )
    monkeypatch.undo()
    again = saes.train(
        _source(model, [SITE]),
        _sweep(14),
        out=tmp_path / "r",
        resume=True,
        device="cpu",
        progress=False,
    )
    for a, b in zip(whole, again, strict=True):
        assert all((a.weights[n] == b.weights[n]).all() for n in a.weights)


def test_a_source_without_a_model_is_refused_and_nothing_is_written(tmp_path: Any) -> None:
    from lensbench import saes
    from lensbench.errors import ConfigError

    data = [torch.randn(ROWS * CONTEXT, 16) for _ in range(40)]
    with pytest.raises(ConfigError, match="sequence_source"):
        saes.train(data, _sweep(14), out=tmp_path / "r", device="cpu", progress=False)
    assert not (tmp_path / "r").exists()


def test_a_weight_of_blocks_that_do_not_follow_is_refused(tmp_path: Any) -> None:
    from lensbench import saes
    from lensbench.errors import ConfigError

    model = _model()
    last = f"blocks.{model.n_layers - 1}.resid_post"
    entry = _entry("kl", downstream_coefficient=0.5, site=last)
    train = {"tokens": 10 * ROWS * CONTEXT, "batch_size": ROWS * CONTEXT}
    with pytest.raises(ConfigError, match="no block ends above"):
        saes.train(
            _source(model, [last]),
            {"train": train, "sweep": [entry]},
            out=tmp_path / "r",
            device="cpu",
            progress=False,
        )
    assert not (tmp_path / "r").exists()


def test_sites_with_a_head_axis_are_replaced_in_their_own_shape() -> None:
    """The clean values put back through the objective's own reshaping change nothing."""
    from lensbench.saes.training.downstream import Downstream

    model = _model()
    site = "blocks.1.attn.z"
    source = _source(model, [site])
    downstream = Downstream(source)
    batch = downstream.take(next(iter(source.batches(ROWS * CONTEXT))))
    clean = downstream._seen(site)
    assert len(clean.shape) == 4
    config: Any = type("C", (), {"objective": "kl", "downstream_coefficient": 1.0})()
    with torch.no_grad():
        lost, above = downstream._lost(config, site, clean, batch[site])
        turned, off = downstream._lost(config, site, clean, batch[site].flip(1))
    assert float(lost) == pytest.approx(0, abs=1e-6)
    assert float(above) == pytest.approx(0, abs=1e-6)
    assert float(turned) > 1e-4  # control: heads in another order
    assert float(off) > 1e-4


@pytest.mark.parametrize(
    ("entry", "why"),
    [
        ({"architecture": "matryoshka", "k": 4, "objective": "kl"}, "several reconstructions"),
        ({"architecture": "gated", "objective": "ce"}, "several reconstructions"),
        ({"architecture": "topk", "sites": ["a", "b"], "objective": "kl"}, "several sites"),
        ({"architecture": "topk", "downstream_coefficient": 1.0}, "belongs to objective"),
        ({"architecture": "topk", "objective": "kll"}, "objective"),
    ],
)
def test_what_cannot_be_trained_end_to_end_is_refused(entry: dict[str, Any], why: str) -> None:
    from lensbench.errors import ConfigError
    from lensbench.saes.configs import SweepConfig

    with pytest.raises(ConfigError, match=why):
        SweepConfig.parse({"train": {"tokens": 4096}, "sweep": [{"d_sae": 64} | entry]})


def test_batches_are_whole_sequences_and_positions_come_back() -> None:
    from lensbench.errors import ConfigError, MismatchError

    model = _model()
    source = _source(model, [SITE])
    stream = source.batches(ROWS * CONTEXT)
    first, second = next(stream), next(stream)
    ids = first["tokens"].view(ROWS, CONTEXT)
    acts = model.run(ids, capture=[SITE]).acts[SITE]
    torch.testing.assert_close(first[SITE].view(acts.shape), acts)
    state = source.state_dict()
    third = next(stream)
    other = _source(model, [SITE])
    other.load_state_dict(state)
    assert torch.equal(next(other.batches(ROWS * CONTEXT))["tokens"], third["tokens"])
    assert not torch.equal(second["tokens"], third["tokens"])
    with pytest.raises(ConfigError, match="multiple of 8"):
        next(_source(model, [SITE]).batches(12))
    with pytest.raises(MismatchError, match="belongs"):
        other.load_state_dict(state | {"text": "x"})


@pytest.mark.slow
def test_end_to_end_the_model_loses_less_than_after_reconstruction() -> None:
    """Braun et al. 2024: at the same number of latents per token. Written before the first run."""
    import lensbench
    from lensbench import saes
    from lensbench.app.workflows.texts import find_text
    from lensbench.harvest import sequence_source
    from lensbench.plan import Replace, edit

    model = lensbench.load_model("atlas-dense")
    site = "blocks.1.resid_post"
    entries = [_entry(o, lr=2e-3, d_sae=192) for o in ("reconstruction", "kl")]
    train = {"tokens": 150 * 1024, "batch_size": 1024}
    source = sequence_source(model, find_text("atlas"), [site], context=64)
    sweep = {"train": train, "source": {"site": site}, "sweep": entries}
    runs = saes.train(source, sweep, device="cpu", progress=False)
    batch = next(source.batches(1024))  # of tokens that training has not seen
    ids = batch["tokens"].view(-1, 64)
    clean = model.run(ids, capture=[site])
    logp = clean.logits.log_softmax(-1)

    def lost(run: Any) -> float:
        rebuilt = run.sae(batch[site]).view(clean.acts[site].shape)
        got = model.run(ids, edit(site, Replace(rebuilt))).logits.log_softmax(-1)
        return float((logp.exp() * (logp - got)).sum(-1).mean())

    local, through = (lost(run) for run in runs)
    assert through < 0.8 * local
