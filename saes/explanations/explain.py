"""Explain latents, and score the explanations on documents that had no part in them.

1. Contexts of every latent from the latent store (:mod:`~lensbench.saes.explanations.contexts`).
2. An explainer turns those of one half of the documents into an explanation.
3. A judge, given the explanation alone, answers on the other half: detection and fuzzing.
4. Controls run the same steps: explanations dealt to other latents, latents of a random dictionary,
   a coin, and a judge that always says yes.
"""

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from jaxtyping import Float, Int

from lensbench.arguments import whole
from lensbench.errors import ConfigError
from lensbench.provenance import record
from lensbench.results import Controls
from lensbench.saes.evaluation.controls import own_seed
from lensbench.saes.explanations.contexts import ContextConfig, Evidence, Windows, gather
from lensbench.saes.explanations.explainers import Explainer, Explanation, TokenExplainer
from lensbench.saes.explanations.judges import AllYesJudge, CoinJudge, Judge, RuleJudge
from lensbench.saes.explanations.random_latents import RandomFirings
from lensbench.saes.explanations.result import LatentExplanations
from lensbench.saes.explanations.scoring import SCORERS, Score, both_scores
from lensbench.saes.latents.store import LatentStore

if TYPE_CHECKING:
    from lensbench.store import ActivationStore

Told = Callable[[str], None]


@dataclass(frozen=True)
class _Explained:
    """Steps 1 to 3 of some latents; None where there were too few contexts."""

    evidence: list[Evidence | None]
    explanations: list[Explanation | None]
    missing: list[str]
    scores: Float[np.ndarray, "latents scorers measures"]


def explain(
    latents: LatentStore,
    chosen: Sequence[int],
    *,
    tokenizer: Any = None,
    explainer: Explainer | None = None,
    judge: Judge | None = None,
    store: "ActivationStore | None" = None,
    config: ContextConfig | None = None,
    progress: Told | None = None,
) -> LatentExplanations:
    """Explanations of ``chosen`` latents with detection and fuzzing scores; see the module.

    Balanced accuracy = (TPR + TNR) / 2 on as many firing as silent contexts, 0 to 1, chance 0.5.
    Source: delphi, Paulo et al. 2024, arXiv:2410.13928 (which reports plain accuracy and F1 too).
    Nothing leaves the machine unless the explainer or the judge is an endpoint that you made.

    Args:
        latents: a latent store, see :func:`~lensbench.saes.encode_store`.
        chosen: numbers of latents.
        tokenizer: turns token ids into words; without it they show as ``#17``.
        explainer: default: :class:`TokenExplainer`.
        judge: default: :class:`RuleJudge`, which applies the rules of token explanations.
        store: the activations the latents were made from, for the random-dictionary control.
        config: numbers and kinds of contexts.
        progress: told in words what is being done.

    Raises:
        ConfigError: no latents, one that does not exist or is listed twice, no explainer or judge.
        NotEnoughDataError: an empty store. A latent with too few contexts is no error: its scores
            are NaN and ``missing`` says why.
        MismatchError: ``store`` is not where the latents come from.
        BackendUnavailableError: an endpoint that does not answer.

    Example:
        >>> found = saes.explain(latents, [3, 5], tokenizer=model.tokenizer, store=store)
        >>> frame = found.to_frame()
    """
    began, config = time.perf_counter(), config or ContextConfig()
    numbers = _checked(chosen, latents.d_sae)
    makes: Explainer = TokenExplainer(tokenizer) if explainer is None else explainer
    judges: Judge = RuleJudge() if judge is None else judge
    _check_roles(makes, judges)
    if store is not None:
        latents.check_store(store)
    tell = progress or _silent
    windows = Windows.of(latents.index(), config)
    steps = _Steps(windows, makes, judges, config, tell)
    found = steps.run(latents, numbers, "latent")
    density = latents.density()
    beside = _Explained([], [], [], np.zeros((0, len(SCORERS), len(Score.MEASURES))))
    others = np.zeros(0, np.int64)
    if store is not None:
        tell("encoding with a random dictionary")
        noise = RandomFirings.of(latents, store, seed=config.seed)
        others = noise.like(density[numbers], config.least)
        beside = steps.run(noise, others, "random latent")
    tell("controls")
    coin, yes = CoinJudge(config.seed), AllYesJudge()
    result = LatentExplanations(
        name=str(latents.sae["name"]),
        site=latents.site,
        explainer=makes.name,
        judge=judges.name,
        latents=numbers,
        texts=tuple(e.text if e else "" for e in found.explanations),
        rules=tuple(e.rule.to_json() if e and e.rule else [] for e in found.explanations),
        missing=tuple(found.missing),
        density=density[numbers],
        scores=found.scores,
        shuffled=steps.scored(found, _dealt(found.explanations, config.seed), judges),
        coin=steps.scored(found, found.explanations, coin),
        all_yes=steps.scored(found, found.explanations, yes),
        random_latents=others,
        random_texts=tuple(e.text if e else "" for e in beside.explanations),
        random_dictionary=beside.scores[:, :, 0],
        config={**config.to_dict(), "explainer": makes.name, "judge": judges.name},
        provenance=record(
            model=dict(latents.manifest["store"]["model"]),
            seed=config.seed,
            seconds=time.perf_counter() - began,
        ),
    )
    return _with_controls(result)


@dataclass(frozen=True)
class _Steps:
    windows: Windows
    explainer: Explainer
    judge: Judge
    config: ContextConfig
    tell: Told

    def run(self, source: Any, latents: Int[np.ndarray, " n"], what: str) -> _Explained:
        """Contexts, explanation and scores of every latent."""
        evidence: list[Evidence | None] = []
        explanations: list[Explanation | None] = []
        missing: list[str] = []
        for i, latent in enumerate(latents, 1):
            self.tell(f"{what} {latent} ({i} of {len(latents)})")
            found = gather(source, self.windows, int(latent), self.config)
            if isinstance(found, str):
                evidence.append(None)
                explanations.append(None)
                missing.append(found)
                continue
            evidence.append(found)
            explanations.append(self.explainer.explain(found.latent, found.explain))
            missing.append("")
        out = _Explained(evidence, explanations, missing, np.empty(0))
        return _Explained(evidence, explanations, missing, self._all(out, explanations, self.judge))

    def scored(
        self, found: _Explained, explanations: Sequence[Explanation | None], judge: Judge
    ) -> Float[np.ndarray, "latents scorers"]:
        """Balanced accuracy with other explanations or another judge."""
        return self._all(found, explanations, judge)[:, :, 0]

    def _all(
        self, found: _Explained, explanations: Sequence[Explanation | None], judge: Judge
    ) -> Float[np.ndarray, "latents scorers measures"]:
        nothing = np.full((len(SCORERS), len(Score.MEASURES)), np.nan)
        out = [
            both_scores(said, evidence, judge, seed=self.config.seed)
            if said is not None and evidence is not None
            else nothing
            for said, evidence in zip(explanations, found.evidence, strict=True)
        ]
        return np.stack(out) if out else np.zeros((0, *nothing.shape))


def _dealt(explanations: Sequence[Explanation | None], seed: int) -> list[Explanation | None]:
    """Every latent gets the explanation of another one; None where there is only one."""
    there = [i for i, e in enumerate(explanations) if e is not None]
    out: list[Explanation | None] = [None] * len(explanations)
    if len(there) < 2:
        return out
    order = np.random.default_rng(own_seed(seed, "dealt explanations")).permutation(there)
    for i, j in zip(order, np.roll(order, 1), strict=True):  # one round: nobody keeps their own
        out[int(i)] = explanations[int(j)]
    return out


def _with_controls(result: LatentExplanations) -> LatentExplanations:
    from dataclasses import replace

    values = {
        f"{source}, {scorer}": m.mean
        for source in ("shuffled", "random_dictionary", "coin", "all_yes")
        for scorer in SCORERS
        if (m := result.mean(source, scorer)).n
    }
    return replace(result, controls=Controls(values, "mean balanced accuracy over latents"))


def _checked(chosen: Sequence[int], d_sae: int) -> Int[np.ndarray, " n"]:
    numbers = [whole(n) for n in np.asarray(chosen).reshape(-1).tolist()]
    wrong = [c for c, n in zip(np.asarray(chosen).reshape(-1).tolist(), numbers, strict=True)
             if n is None or not 0 <= n < d_sae]  # fmt: skip
    if not numbers or wrong:
        came = f"got {wrong[:5]}" if numbers else "got none"
        raise ConfigError(f"latents to explain are whole numbers from 0 to {d_sae - 1}; {came}")
    if len(set(numbers)) < len(numbers):
        raise ConfigError("a latent is listed twice; every latent is explained once")
    return np.array(numbers, np.int64)


def _check_roles(explainer: Any, judge: Any) -> None:
    for role, value, kind in (("explainer", explainer, Explainer), ("judge", judge, Judge)):
        if not isinstance(value, kind):
            needs = "name and explain" if role == "explainer" else "name, detect and fuzz"
            raise ConfigError(f"{role} must have {needs}, got a {type(value).__name__}")


def _silent(_: str) -> None:
    pass
