"""How well a model does a prompt task: the answer above the foil, beside controls at chance."""

import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from jaxtyping import Float

from lensbench import provenance
from lensbench.arguments import refuse_no_model
from lensbench.errors import MismatchError
from lensbench.prompts.checks import whole_number
from lensbench.prompts.pairs import PromptPairs
from lensbench.prompts.several import summed_log_prob
from lensbench.results import Controls, Result
from lensbench.stats import bootstrap_mean
from lensbench.tokens import as_tokens

if TYPE_CHECKING:
    import pandas as pd
    import plotly.graph_objects as go

    from lensbench.models import Model


@dataclass(frozen=True, kw_only=True, eq=False)
class PromptScore(Result):
    """Logit differences answer - foil of every pair; accuracy is the share above zero.

    Where answers of several tokens are summed, differences of their log-probabilities.

    Example:
        >>> scored = prompts.score(model, pairs)
        >>> figure = scored.plot()
    """

    task: str
    clean: Float[np.ndarray, " pairs"]
    """logit(answer) - logit(foil) after the clean prompt, nats."""
    corrupted: Float[np.ndarray, " pairs"]
    """The same answer and foil after the corrupted prompt, nats."""
    shuffled: Float[np.ndarray, " exchanged"]
    """A control: clean prompts with answer and foil of another pair. Empty where every pair has
    the same answer and foil, so that another pair's are its own."""
    wordings: tuple[str, ...]
    flips: bool
    """Whether the corrupted prompt turns answer and foil round."""
    measure: str = "logit_diff"
    """``log_prob_diff`` where answers of several tokens are summed; both are nats."""

    def to_frame(self) -> "pd.DataFrame":
        """One row per kind of prompt: accuracy and mean logit difference, intervals over pairs.

        Without the row ``shuffled`` where there is no such control.
        """
        import pandas as pd

        rows: list[dict[str, Any]] = []
        for name in self._measured():
            values = getattr(self, name)
            hits, size = bootstrap_mean((values > 0).astype(float)), bootstrap_mean(values)
            rows.append({
                "prompts": name, "accuracy": hits.mean, "low": hits.low, "high": hits.high,
                self.measure: size.mean, f"{self.measure}_low": size.low,
                f"{self.measure}_high": size.high, "n": hits.n,
            })  # fmt: skip
        frame = pd.DataFrame(rows)
        unit = "share of pairs with the answer above the foil"
        frame.attrs["units"] = {"accuracy": unit, self.measure: "nats", "n": "pairs"}
        return frame

    def summary(self) -> dict[str, float]:
        """Accuracy on clean prompts, its controls, and the mean logit differences."""
        kinds = self._measured()
        shares = {f"accuracy_{name}": _share(getattr(self, name)) for name in reversed(kinds)}
        return {
            "accuracy": shares.pop("accuracy_clean"),
            **shares,
            f"{self.measure}_clean": float(self.clean.mean()),
            f"{self.measure}_corrupted": float(self.corrupted.mean()),
            "pairs": float(len(self.clean)),
            **told_of_cuts(self.config),
        }

    def _measured(self) -> tuple[str, ...]:
        every = ("clean", "corrupted", "shuffled")
        return every if len(self.shuffled) else every[:2]

    def plot(self) -> "go.Figure":
        """Logit differences of clean and corrupted prompts and of the control."""
        import pandas as pd

        from lensbench.plots import histogram

        parts = [
            pd.DataFrame({"prompts": name, self.measure: getattr(self, name)})
            for name in self._measured()
        ]
        frame = pd.concat(parts, ignore_index=True)
        frame.attrs["units"] = {self.measure: "nats"}
        return histogram(
            frame,
            value=self.measure,
            color="prompts",
            title=f"{self.task}: answer - foil",
            subtitle=f"{len(self.clean)} pairs; control: {self.controls}",
        )


def score(
    model: "Model", pairs: PromptPairs, *, batch_size: int = 64, seed: int = 0
) -> PromptScore:
    """Does the model put the answer above the foil?

    d = logit(answer) - logit(foil) at the last token, nats. Two controls: ``shuffled_answers``
    gives each prompt the answer and foil of another pair (a random cyclic order), which scores near
    one half where pairs are balanced, and is left out where all pairs have the same answer and
    foil; ``corrupted_prompts`` is the share of corrupted prompts with the same answer above the
    foil, near 0 for a model that does a task whose corruption ``flips``, and as high as the
    accuracy for one that does not read what differs. Where answers of several tokens are summed,
    d = S(answer) - S(foil), S as in :mod:`lensbench.prompts.several`, and so are the controls.

    Raises:
        ConfigError: a model that predicts no next token, or a batch size below one.
        MismatchError: the pairs were made with another tokenizer.

    Example:
        >>> found = prompts.score(model, prompts.agreement(model, n=32))
        >>> found.controls
    """
    refuse_no_model(model)
    began = time.monotonic()
    model.require_next_token("prompts.score")
    batch_size = whole_number(batch_size, "batch_size")
    check_pairs(model, pairs)
    other = _others(pairs, seed)
    found: dict[str, list[np.ndarray]] = {"clean": [], "corrupted": [], "shuffled": []}
    for part in _batches(len(pairs), batch_size):
        rows = pairs.select(part)
        strange = None if other is None else pairs.select(other[part])
        for name, values in _differences(model, rows, strange, batch_size).items():
            found[name].append(values)
    found["shuffled"] = found["shuffled"] or [np.empty(0)]
    values = {name: np.concatenate(parts).astype(np.float64) for name, parts in found.items()}
    return PromptScore(
        task=pairs.task,
        **values,
        wordings=pairs.wordings,
        flips=pairs.flips,
        measure="log_prob_diff" if pairs.summed else "logit_diff",
        config={
            "pairs": pairs.fingerprint(),
            "seed": seed,
            **pairs.scoring(),
            **dict(pairs.tokenizer),
        },
        controls=_controls(values),
        provenance=provenance.record(
            model=vars(model.card), seed=seed, seconds=time.monotonic() - began
        ),
    )


def _differences(
    model: "Model", rows: PromptPairs, strange: PromptPairs | None, size: int
) -> dict[str, np.ndarray]:
    """Of clean and corrupted prompts, and of the clean ones with strange answers and foils."""
    if rows.summed or (strange is not None and strange.summed):
        return _summed(model, rows, strange, size)
    clean = model.run(rows.clean, logits="last").logits
    corrupted = model.run(rows.corrupted, logits="last").logits
    assert clean is not None and corrupted is not None  # noqa: PT018 - asked for
    found = {"clean": rows.logit_diff(clean), "corrupted": rows.logit_diff(corrupted)}
    if strange is not None:
        found["shuffled"] = strange.logit_diff(clean)
    return {name: values.cpu().numpy() for name, values in found.items()}


def _summed(
    model: "Model", rows: PromptPairs, strange: PromptPairs | None, size: int
) -> dict[str, np.ndarray]:
    asked = {"clean": (rows.clean_ids, rows), "corrupted": (rows.corrupted_ids, rows)}
    if strange is not None:
        asked["shuffled"] = (rows.clean_ids, strange)
    found: dict[str, np.ndarray] = {}
    for name, (ids, of) in asked.items():
        answer, foil = (whole_answers(model, ids, a, size) for a in (of.answers, of.foils))
        found[name] = answer - foil
    return found


def whole_answers(
    model: "Model", ids: Sequence[Sequence[int]], answers: Sequence[Sequence[int]], size: int
) -> np.ndarray:
    """``S(answer)`` after every prompt, nats (see :mod:`lensbench.prompts.several`)."""
    parts: list[np.ndarray] = []
    for some in _batches(len(ids), size):
        rows = [[*ids[i], *answers[i][:-1]] for i in some]
        logits = model.run(as_tokens(rows, pad_id=0)).logits
        assert logits is not None
        parts.append(summed_log_prob(logits, [answers[i] for i in some]).cpu().numpy())
    return np.concatenate(parts)


def told_of_cuts(config: Mapping[str, Any]) -> dict[str, float]:
    """For a summary: how many pairs are scored by the first of several tokens; else nothing."""
    cut = config.get("several") == "first"
    return {"cut to first token": float(config["pairs_of_several_tokens"])} if cut else {}


def _others(pairs: PromptPairs, seed: int) -> np.ndarray | None:
    """For each pair another one; None where all have the same answer and foil."""
    if len(set(zip(pairs.answers, pairs.foils, strict=True))) < 2:
        return None
    order = np.random.default_rng(seed).permutation(len(pairs))
    other = np.empty_like(order)
    other[order] = np.roll(order, 1)
    return other


def _controls(values: Mapping[str, np.ndarray]) -> Controls:
    corrupted = {"corrupted_prompts": _share(values["corrupted"])}
    note = "share of corrupted prompts with the answer above the foil"
    if not len(values["shuffled"]):
        return Controls(corrupted, f"{note}; all pairs have one answer and foil: none to exchange")
    shuffled = {"shuffled_answers": _share(values["shuffled"])}
    return Controls(shuffled | corrupted, f"accuracy with answer and foil of another pair; {note}")


def _share(values: np.ndarray) -> float:
    return float((values > 0).mean())


def _batches(n: int, size: int) -> Iterator[np.ndarray]:
    for first in range(0, n, size):
        yield np.arange(first, min(n, first + size))


def check_pairs(model: "Model", pairs: PromptPairs) -> None:
    """Refuse pairs that were made with another tokenizer.

    Raises:
        ConfigError: no model.
        MismatchError: the tokenizer's fingerprint differs.
    """
    from lensbench.harvest.describe import tokenizer_entry

    refuse_no_model(model)
    own = tokenizer_entry(model.tokenizer)
    if model.tokenizer is not None and own["fingerprint"] != pairs.tokenizer.get("fingerprint"):
        raise MismatchError(
            f"these pairs were made with the tokenizer {pairs.tokenizer.get('name')!r} and the "
            f"model has {own['name']!r}; make them again with this model"
        )
