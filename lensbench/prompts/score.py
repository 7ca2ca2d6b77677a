"""How well a model does a prompt task: the answer above the foil, beside controls at chance."""

import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from jaxtyping import Float

from lensbench import provenance
from lensbench.errors import MismatchError
from lensbench.prompts.checks import whole_number
from lensbench.prompts.pairs import PromptPairs
from lensbench.results import Controls, Result
from lensbench.stats import bootstrap_mean

if TYPE_CHECKING:
    import pandas as pd
    import plotly.graph_objects as go

    from lensbench.models import Model


@dataclass(frozen=True, kw_only=True, eq=False)
class PromptScore(Result):
    """Logit differences answer - foil of every pair; accuracy is the share above zero."""

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
                "logit_diff": size.mean, "logit_diff_low": size.low, "logit_diff_high": size.high,
                "n": hits.n,
            })  # fmt: skip
        frame = pd.DataFrame(rows)
        unit = "share of pairs with the answer above the foil"
        frame.attrs["units"] = {"accuracy": unit, "logit_diff": "nats", "n": "pairs"}
        return frame

    def summary(self) -> dict[str, float]:
        """Accuracy on clean prompts, its controls, and the mean logit differences."""
        kinds = self._measured()
        shares = {f"accuracy_{name}": _share(getattr(self, name)) for name in reversed(kinds)}
        return {
            "accuracy": shares.pop("accuracy_clean"),
            **shares,
            "logit_diff_clean": float(self.clean.mean()),
            "logit_diff_corrupted": float(self.corrupted.mean()),
            "pairs": float(len(self.clean)),
        }

    def _measured(self) -> tuple[str, ...]:
        every = ("clean", "corrupted", "shuffled")
        return every if len(self.shuffled) else every[:2]

    def plot(self) -> "go.Figure":
        """Logit differences of clean and corrupted prompts and of the control."""
        import pandas as pd

        from lensbench.plots import histogram

        parts = [
            pd.DataFrame({"prompts": name, "logit_diff": getattr(self, name)})
            for name in self._measured()
        ]
        frame = pd.concat(parts, ignore_index=True)
        frame.attrs["units"] = {"logit_diff": "nats"}
        return histogram(
            frame,
            value="logit_diff",
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
    accuracy for one that does not read what differs.

    Raises:
        ConfigError: a model that predicts no next token, or a batch size below one.
        MismatchError: the pairs were made with another tokenizer.
    """
    began = time.monotonic()
    model.require_next_token("prompts.score")
    batch_size = whole_number(batch_size, "batch_size")
    check_pairs(model, pairs)
    other = _others(pairs, seed)
    found: dict[str, list[np.ndarray]] = {"clean": [], "corrupted": [], "shuffled": []}
    for part in _batches(len(pairs), batch_size):
        rows = pairs.select(part)
        clean = model.run(rows.clean, logits="last").logits
        corrupted = model.run(rows.corrupted, logits="last").logits
        assert clean is not None and corrupted is not None  # noqa: PT018 - asked for
        found["clean"].append(rows.logit_diff(clean).cpu().numpy())
        found["corrupted"].append(rows.logit_diff(corrupted).cpu().numpy())
        if other is not None:
            strange = pairs.select(other[part])
            found["shuffled"].append(strange.logit_diff(clean).cpu().numpy())
    found["shuffled"] = found["shuffled"] or [np.empty(0)]
    values = {name: np.concatenate(parts).astype(np.float64) for name, parts in found.items()}
    return PromptScore(
        task=pairs.task,
        **values,
        wordings=pairs.wordings,
        flips=pairs.flips,
        config={"pairs": pairs.fingerprint(), "seed": seed, **dict(pairs.tokenizer)},
        controls=_controls(values),
        provenance=provenance.record(
            model=vars(model.card), seed=seed, seconds=time.monotonic() - began
        ),
    )


def _others(pairs: PromptPairs, seed: int) -> np.ndarray | None:
    """For each pair another one; None where all have the same answer and foil."""
    if len(set(zip(pairs.answer, pairs.foil, strict=True))) < 2:
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
        MismatchError: the tokenizer's fingerprint differs.
    """
    from lensbench.harvest.describe import tokenizer_entry

    own = tokenizer_entry(model.tokenizer)
    if model.tokenizer is not None and own["fingerprint"] != pairs.tokenizer.get("fingerprint"):
        raise MismatchError(
            f"these pairs were made with the tokenizer {pairs.tokenizer.get('name')!r} and the "
            f"model has {own['name']!r}; make them again with this model"
        )
