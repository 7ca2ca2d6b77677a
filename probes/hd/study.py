"""The whole study: prompts of the atlas, states, encoder, readings, and every baseline.

1. Deal prompts to training, validation and test (:mod:`lensbench.probes.hd.atlas`).
2. Run the model once over each side; keep the upper half of the layers and layer 0 at the last
   token, and what the model says at the test prompts.
3. Fit the encoder on the ingested layers, stopped by validation; read the test prompts.
4. Beside it, on the same prompts: the *constant vector* most like all training targets; an *MLP
   classifier* with as many parameters that is told the answers; the same probe on *layer 0*, on a
   *re-initialised* model, and with *shuffled labels* (pairs dealt to other prompts).
5. Scores are over test prompts that the model gets right, intervals over entity and relation.
"""

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from lensbench import provenance
from lensbench.errors import ConfigError, NotEnoughDataError, UnknownNameError
from lensbench.probes.hd.atlas import Dealt, Split, atlas_prompts
from lensbench.probes.hd.augment import AUGMENTS, Augment, single_concepts
from lensbench.probes.hd.baselines import classifier_scores, constant_vector
from lensbench.probes.hd.encoder import EncoderConfig, HDEncoder, fit_encoder
from lensbench.probes.hd.ingest import How, LayerStates, ingest_layers, prompt_states, upper_half
from lensbench.probes.hd.memory import ItemMemory
from lensbench.probes.hd.probe import HDReading, read_concepts
from lensbench.probes.hd.prompts import ConceptPrompts, check_words
from lensbench.probes.hd.solving import SOLVERS, Solver
from lensbench.probes.hd.study_result import SCORES, HDStudy
from lensbench.results import Controls
from lensbench.stats import bootstrap_mean
from lensbench.tokens import token_texts

if TYPE_CHECKING:
    from lensbench.models import Model

DEFAULT_ENCODER = EncoderConfig(kind="factored", hidden=(4.0,), dropout=0.3, max_epochs=12)
"""Chosen on other prompts of the atlas (seed 1) before the first run with seed 0."""
BASELINES = ("constant vector", "MLP classifier", "layer 0", "re-initialised", "shuffled labels")
Sides = tuple[Tensor, Tensor, Tensor]


@dataclass(frozen=True)
class _Setting:
    memory: ItemMemory
    pairs: Sides
    config: EncoderConfig
    test: ConceptPrompts
    solver: Solver


def hd_study(
    model: "Model",
    task: str = "analogy",
    split: Split = "pair",
    *,
    encoder: EncoderConfig | None = None,
    prompts: Dealt | None = None,
    dim: int = 2048,
    n_train: int = 6000,
    n_test: int = 400,
    when: Literal["before", "after"] = "before",
    how: How = "kmeans",
    k: int = 5,
    solver: Solver = "threshold",
    augment: Augment = "none",
    baselines: Sequence[str] = BASELINES,
    keep: Path | str | None = None,
    progress: Callable[..., None] | None = None,
    seed: int = 0,
) -> HDStudy:
    """Fit and score a hyperdimensional probe on prompts of the atlas, beside its baselines.

    ``when="after"`` reads the state at the word that the model has just said instead of at the end
    of the prompt. ``solver`` is how hypervectors are read (``read_concepts``): by queries, as
    published, unless you say otherwise. ``augment="single_concepts"`` gives the probe (not the
    baselines) the published extra training rows; see :mod:`~lensbench.probes.hd.augment`.
    ``prompts`` replaces the prompts of ``task`` and ``split`` by your own. ``keep``: a folder for
    the fitted encoder and its codebook (``HDEncoder.load``, ``ItemMemory.load``), to read other
    states with. ``progress`` is told each step in words, with its number.

    Raises:
        UnknownNameError: no such task, split, baseline or way to ingest.
        ConfigError: a model that predicts no next token or does not know the words of the prompts
            (a model of games), or too small a dimension.
        NotEnoughDataError: the model gets none of the test prompts right.

    Example:
        >>> found = probes.hd_study(
        ...     model, "question", dim=256, n_train=200, n_test=40, baselines=("constant vector",)
        ... )
    """
    began = time.monotonic()
    model.require_next_token("hd_study")
    for kind, asked, known in (("baseline", baselines, BASELINES), ("solver", [solver], SOLVERS),
                               ("augmentation", [augment], AUGMENTS)):  # fmt: skip
        for name in asked:
            if name not in known:
                raise UnknownNameError(kind, str(name), known=known)
    if when == "after" and augment != "none":
        raise ConfigError(
            "augment= is for the end of the prompt: after it the last layer says the next word"
        )
    if when not in ("before", "after"):
        raise ConfigError(f"when must be 'before' or 'after' generation, got {when!r}")
    config = encoder or DEFAULT_ENCODER
    dealt = prompts or atlas_prompts(task, split, n_train=n_train, n_test=n_test, seed=seed)  # 1
    check_words(model, dealt.test.texts)
    sides = (dealt.train, dealt.validation, dealt.test)
    n_pairs = len(dealt.train.pairs[0])
    memory = ItemMemory.random(dealt.concepts, dim=dim, pairs=n_pairs, seed=seed + 101)
    numbers = tuple(s.numbers(memory) for s in sides)
    setting = _Setting(memory, (numbers[0], numbers[1], numbers[2]), config, dealt.test, solver)
    say = _steps(progress, len(baselines) + 2)
    say("running the prompts")
    states, answers, max_prob = _run(model, sides, when)  # 2
    right = np.array([a == t for a, t in zip(answers, dealt.test.targets, strict=True)])
    if not right.any():
        raise NotEnoughDataError(
            f"{model.card.name!r} gets none of {len(right)} test prompts right, such as "
            f"{dealt.test.texts[0]!r}; use another task or model"
        )
    upper = _sides(states, how, k)
    more = None
    if augment == "single_concepts":
        said, prob = _answers(model, list(dealt.train.texts))
        more = single_concepts(memory, states[0].values[:, -1], said, prob, dealt.train.targets)
    say("fitting the encoder")
    fitted, found, vectors = _probe(setting, upper, answers, single=more)  # 3
    if keep is not None:
        fitted.save(memory.save(keep))
    rows: dict[str, tuple[np.ndarray, np.ndarray, float]] = {
        "probe": (found.rank, found.gold_rank, _cosine(setting, vectors))
    }
    for name in baselines:  # 4
        say(f"baseline: {name}")
        rows[name] = _baseline(name, setting, states, upper, fitted, model, sides, when, (how, k))
    table = _table(rows, right, dealt.test.groups)  # 5
    controls = {f"{name} probing@1": float(table[0][i, 0]) for i, name in enumerate(rows) if i}
    return HDStudy(
        task=dealt.task, split=dealt.split, encoder=config.kind, sources=tuple(rows),
        score=table[0], low=table[1], high=table[2],
        cosine=np.array([row[2] for row in rows.values()]),
        ranks=np.stack([row[0] for row in rows.values()]), val_curve=np.array(fitted.curve),
        reading=found, right=right, answers=answers, max_prob=max_prob,
        layers=states[0].layers[1:], n_parameters=fitted.n_parameters, n_concepts=len(memory),
        layer_correlation=_upper(states[2]).correlation(), n_train=len(dealt.train),
        held_out=tuple(" ".join(fact) for fact in dealt.held_out),
        config={"dim": dim, "seed": seed, "when": when, "how": how, "k": k,
                "solver": solver, "augment": augment,
                "single_concepts": 0 if more is None else len(more[0]),
                "encoder": config.to_dict()},
        controls=Controls(controls, "the same score of what must not find it, or is told it"),
        provenance=provenance.record(
            model=vars(model.card), seed=seed, seconds=time.monotonic() - began
        ),
    )  # fmt: skip


def _steps(progress: Callable[..., None] | None, n: int) -> Callable[[str], None]:
    """Tells ``progress`` of step after step of n."""
    numbers = iter(range(1, n + 1))
    return lambda said: progress(said, step=next(numbers), steps=n) if progress else None


States = tuple[LayerStates, LayerStates, LayerStates]


def _run(
    model: "Model", sides: Sequence[ConceptPrompts], when: str
) -> tuple[States, tuple[str, ...], Float[np.ndarray, " prompts"]]:
    """Layer 0 and the upper half of every side; what the model says of the last one."""
    texts = [list(side.texts) for side in sides]
    layers = (0, *upper_half(model.n_layers))
    answers, probs = _answers(model, texts[-1])
    if when == "after":
        said = [_answers(model, t)[0] for t in texts[:-1]] + [answers]
        texts = [[f"{t} {w}" for t, w in zip(*both, strict=True)]
                 for both in zip(texts, said, strict=True)]  # fmt: skip
    one, two, three = (prompt_states(model, t, layers=layers) for t in texts)
    return (one, two, three), answers, probs


def _answers(
    model: "Model", texts: list[str], batch_size: int = 256
) -> tuple[tuple[str, ...], Float[np.ndarray, " prompts"]]:
    words: list[str] = []
    probs: list[np.ndarray] = []
    for i in range(0, len(texts), batch_size):
        logits = model.run(model.tokens(texts[i : i + batch_size]), logits="last").logits
        assert logits is not None
        best = logits[:, -1].float().softmax(-1).max(-1)
        ids: Int[Tensor, " batch"] = best.indices
        words += [w.strip() for w in token_texts(model.tokenizer, ids.tolist())]
        probs.append(best.values.cpu().numpy())
    return tuple(words), np.concatenate(probs)


def _upper(states: LayerStates) -> LayerStates:
    return LayerStates(states.values[:, 1:], states.layers[1:])


def _sides(states: States, how: How, k: int) -> Sides:
    one, two, three = (ingest_layers(_upper(s), how, k=k) for s in states)
    return one, two, three


def _probe(
    setting: _Setting,
    x: Sides,
    answers: Sequence[str] | None = None,
    *,
    shuffled: bool = False,
    single: tuple[Tensor, Tensor] | None = None,
) -> tuple[HDEncoder, HDReading, Tensor]:
    train, validation = setting.pairs[0], setting.pairs[1]
    if shuffled:
        rng = torch.Generator().manual_seed(setting.config.seed + 7)
        train, validation = (p[torch.randperm(len(p), generator=rng)] for p in (train, validation))
    fitted = fit_encoder(
        x[0], train, setting.memory, setting.config, validation=(x[1], validation), single=single
    )
    vectors = fitted.encode(x[2], seed=setting.config.seed + 3)
    return fitted, _read(setting, vectors, answers), vectors


def _read(setting: _Setting, vectors: Tensor, answers: Sequence[str] | None = None) -> HDReading:
    return read_concepts(
        setting.memory, vectors, setting.test, answers=answers, solver=setting.solver
    )


def _cosine(setting: _Setting, vectors: Tensor) -> float:
    wanted = setting.memory.encode(setting.pairs[2], seed=setting.config.seed + 4)
    return float(setting.memory.space.similarity(vectors, wanted).mean())


def _baseline(
    name: str, setting: _Setting, states: States, upper: Sides, fitted: HDEncoder,
    model: "Model", sides: Sequence[ConceptPrompts], when: str, ingestion: tuple[How, int],
) -> tuple[np.ndarray, np.ndarray, float]:  # fmt: skip
    """Label-free ranks, gold ranks, and the cosine with the true hypervectors."""
    memory = setting.memory
    if name == "MLP classifier":
        asked = [p[:, -1, 1] for p in setting.pairs]
        scores = classifier_scores(
            (upper[0], asked[0]), (upper[1], asked[1]), upper[2], len(memory), fitted
        )
        ranks = 1.0 + (scores > scores.gather(1, asked[2][:, None])).sum(1).numpy()
        return ranks, np.full(len(ranks), np.nan), float("nan")
    if name == "constant vector":
        vectors = constant_vector(memory, setting.pairs[0]).expand(len(upper[2]), -1)
        found = _read(setting, vectors)
        return found.rank, found.gold_rank, _cosine(setting, vectors)
    if name == "layer 0":
        first, second, third = (s.values[:, 0] for s in states)
        x: Sides = (first, second, third)
    elif name == "re-initialised":
        from lensbench.worlds.controls import reinitialised_twin

        twin, _, _ = _run(reinitialised_twin(model, setting.config.seed), sides, when)
        x = _sides(twin, *ingestion)
    else:
        x = upper
    _, found, vectors = _probe(setting, x, shuffled=name == "shuffled labels")
    return found.rank, found.gold_rank, _cosine(setting, vectors)


def _table(
    rows: dict[str, tuple[np.ndarray, np.ndarray, float]], right: np.ndarray, names: Sequence[str]
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Scores with their bounds, over the prompts that the model gets right."""
    _, groups = np.unique(np.asarray(names)[right], return_inverse=True)
    out = np.full((3, len(rows), len(SCORES)), np.nan)
    for i, (ranks, gold, _) in enumerate(rows.values()):
        for j, (values, k) in enumerate(((ranks, 1), (ranks, 3), (ranks, 5), (gold, 1))):
            if np.isnan(values).any():
                continue
            share = bootstrap_mean((values[right] <= k).astype(float), groups)
            out[:, i, j] = share.mean, share.low, share.high
    return out[0], out[1], out[2]
