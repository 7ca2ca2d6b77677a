"""Drafts of other models, drafts with labels, and texts that are filled in: by names and files.

What ``savings`` tells of an exit layer's drafts it tells of a second model's too.
"""

import json
import tempfile
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from lensbench import io, provenance
from lensbench.app.workflows.accelerating import read_prompts
from lensbench.app.workflows.answers import result_facts
from lensbench.app.workflows.live import running
from lensbench.app.workflows.savings import SavingAsk, held_store
from lensbench.app.workflows.typed_files import utf8
from lensbench.errors import ConfigError, DamagedDataError, MissingDataError, UnknownNameError
from lensbench.harvest import Text, capture
from lensbench.interventions import acceleration
from lensbench.interventions.acceleration.decoding import native
from lensbench.interventions.acceleration.readouts.draft_length import TOP
from lensbench.interventions.acceleration.readouts.rows import documents, whole
from lensbench.interventions.acceleration.speculative.baseline import refuse_other_vocabulary
from lensbench.interventions.acceleration.speculative.baseline_report import baseline_report
from lensbench.interventions.acceleration.study.own import (
    prompt_lengths,
    refuse_inexact,
    why_inexact,
)
from lensbench.sites import Site

if TYPE_CHECKING:
    from lensbench.models import Model

RULES = ("prophet", "filter")


def drafting(ask: SavingAsk, draft_model: str, lengths: Sequence[int]) -> dict[str, Any]:
    """Decode prompts with drafts of a second model, for every length of draft.

    Raises:
        ConfigError: models of other vocabularies; see ``baseline_report``.
    """
    text = read_prompts(ask.prompts)
    with running(ask.model, ask.revision) as model, running(draft_model) as small:
        found = baseline_report(model, small, text, lengths, max_new_tokens=ask.new_tokens)
    return result_facts(ask.model, found, ask.out, draft_model=draft_model)


def lengths_of(
    ask: SavingAsk, draft_model: str, *, thresholds: Sequence[float], most: int, test: float
) -> dict[str, Any]:
    """When drafts of a second model should stop; layers are counted in blocks of either.

    Raises:
        LensbenchError: see ``acceleration.judge_lengths``.
    """
    with (
        running(ask.model, ask.revision) as model,
        running(draft_model) as small,
        held_store(ask, model) as store,
    ):
        refuse_other_vocabulary(native(model), native(small))
        refuse_inexact(why_inexact(store, model))
        texts = [
            _drafted(small, doc.ids, n)
            for doc, n in zip(documents(store), prompt_lengths(store), strict=True)
        ]
        found = acceleration.judge_lengths(
            texts, small.n_layers, model.n_layers, thresholds=thresholds, most=most, test=test,
            seed=ask.seed,
        )  # fmt: skip
        made = provenance.record(model=vars(model.card), seed=ask.seed, store=store)
    told = replace(found, provenance=made, config={**found.config, "draft_model": draft_model})
    return result_facts(ask.model, told, ask.out, draft_model=draft_model)


def judged(
    ask: SavingAsk, drafts: Path, *, threshold: float, penalty: float, test: float
) -> dict[str, Any]:
    """Keep drafts that are right though the model would have said it otherwise: train and count.

    Raises:
        MissingDataError, DamagedDataError: no such file, or a line of it that cannot be read.
        LensbenchError: see ``acceleration.judge_decoding``.
    """
    with running(ask.model, ask.revision) as model, tempfile.TemporaryDirectory() as folder:
        rows = [_labelled(model, drafts, n, line) for n, line in _lines(drafts)]
        texts = [ids for ids, _, _ in rows]
        entry: dict[str, Any] = {"kind": "drafts", "file": drafts.name}
        entry["fingerprint"] = io.fingerprint([entry, [t.tolist() for t in texts]])
        text = Text(entry, lambda: iter(texts), given_as_ids=True, masked=True, layout="pad")
        last = str(Site("resid_post", model.n_layers - 1))
        store = capture(model, text, [last], out=Path(folder) / "drafts", layout="pad",
                        context=max(map(len, texts)), bos=False, dtype="float32")  # fmt: skip
        _, found = acceleration.judge_decoding(
            store, model, [n for _, n, _ in rows], [right for *_, right in rows],
            threshold=threshold, penalty=penalty, test=test, seed=ask.seed,
        )  # fmt: skip
    return result_facts(ask.model, found, ask.out)


def committed(
    ask: SavingAsk, rule: str, *, masked: int, steps: int, thresholds: Sequence[float],
    threshold: float, test: float,
) -> dict[str, Any]:  # fmt: skip
    """Fill in the last tokens of texts step by step; when could the rest have been filled in?

    Raises:
        UnknownNameError: no such rule.
        ConfigError: a model that fills in no masks, texts that are too short.
        LensbenchError: see ``acceleration.prophet`` and ``acceleration.final_filter``.
    """
    if rule not in RULES:
        raise UnknownNameError("rule", rule, known=RULES)
    if len(thresholds) != 3:
        raise ConfigError(f"--thresholds are three, of each third of the steps; got {thresholds}")
    texts = read_prompts(ask.prompts)
    with running(ask.model, ask.revision) as model:
        mask = getattr(model.tokenizer, "mask_token_id", None)
        if mask is None:
            raise ConfigError(
                f"{ask.model} has no mask to fill in; a commit is of masked and diffusion language "
                "models, such as one of the BERT family in a local folder"
            )
        rows, answer = _masked([model.tokens(t).ids[0].tolist() for t in texts],
                               masked, mask, _specials(model))  # fmt: skip

        def predict(ids: torch.Tensor) -> torch.Tensor:
            logits = model.run(whole(ids)).logits
            assert logits is not None
            return logits[0]

        runs = [acceleration.denoise(predict, row, mask, steps or masked) for row in rows]
    if rule == "prophet":
        a, b, c = thresholds
        found = acceleration.prophet(runs, answer, thresholds=(a, b, c), seed=ask.seed)
    else:
        found = acceleration.final_filter(runs, answer, threshold=threshold, test=test,
                                          seed=ask.seed)[1]  # fmt: skip
    return result_facts(ask.model, found, ask.out, rule=rule, masked=masked)


def _drafted(small: "Model", ids: np.ndarray, n_prompt: int) -> acceleration.DraftText:
    """What the draft model says at every place of a text, and whether the text says it too."""
    logits = small.run(whole(ids)).logits
    assert logits is not None
    draft = logits[0, n_prompt - 1 : -1].float().softmax(-1).cpu()
    top = draft.topk(min(TOP, draft.shape[-1]), dim=-1).values
    entropy = -torch.special.xlogy(draft, draft).sum(-1, keepdim=True)
    features = torch.cat((top, entropy), -1).double().numpy()
    return acceleration.DraftText(features, draft.argmax(-1).numpy() == ids[n_prompt:])


def _lines(path: Path) -> list[tuple[int, str]]:
    if not path.is_file():
        raise MissingDataError(f"--drafts: there is no file {path}; one JSON object per line with "
                               '"prompt", "draft" and "right"')  # fmt: skip
    lines = utf8(path).splitlines()
    found = [(n, line) for n, line in enumerate(lines, 1) if line.strip()]
    if not found:
        raise ConfigError(f"--drafts: {path} has no draft")
    return found


def _labelled(model: "Model", path: Path, number: int, line: str) -> tuple[Any, int, np.ndarray]:
    """Ids of prompt and draft, the length of the prompt, and which drafted tokens are right."""
    where = f"{path}: line {number}"
    try:
        row = json.loads(line)
        prompt, draft, right = str(row["prompt"]), str(row["draft"]), row["right"]
    except (ValueError, KeyError, TypeError) as error:
        raise DamagedDataError(
            f'{where} must be a JSON object with "prompt", "draft" and "right"'
        ) from error
    front = model.tokens(prompt).ids[0].tolist()
    ids = model.tokens(prompt + draft).ids[0].tolist()
    if ids[: len(front)] != front or len(ids) == len(front):
        raise ConfigError(
            f"{where}: the draft must begin a token of its own behind the prompt; move a "
            "space from the end of one to the beginning of the other"
        )
    n = len(ids) - len(front)
    labels = [right] * n if isinstance(right, bool) else right
    if not isinstance(labels, list) or len(labels) != n or {*map(type, labels)} != {bool}:
        from lensbench.tokens import token_texts

        tokens = [str(t) for t in token_texts(model.tokenizer, ids[len(front) :])]
        raise ConfigError(f'{where}: "right" is true or false, or a list of {n} of them, one for '
                          f"each token of the draft: {tokens}")  # fmt: skip
    return np.array(ids, dtype=np.int64), len(front), np.array(labels)


def _specials(model: "Model") -> set[int]:
    return {int(i) for i in getattr(model.tokenizer, "all_special_ids", ())}


def _masked(
    rows: list[list[int]], n: int, mask: int, specials: set[int]
) -> tuple[list[torch.Tensor], list[int]]:
    """Texts as long as the shortest (cut at the front), the last ``n`` words' tokens masked."""
    length = min(map(len, rows))
    tail = 1 if all(row[-1] in specials for row in rows) else 0
    if length < n + tail + 2:
        raise ConfigError(f"the shortest text has {length} tokens, too few to mask {n} of them; "
                          "give longer texts, or --masked fewer")  # fmt: skip
    where = list(range(length - tail - n, length - tail))
    found: list[torch.Tensor] = []
    for row in rows:
        ids = torch.tensor([row[0], *row[len(row) - length + 1 :]])
        ids[where] = mask
        found.append(ids)
    return found, where
