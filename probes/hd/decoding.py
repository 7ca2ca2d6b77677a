"""The decode table: what was read, by which query, how surely, and what reads it by chance.

Prompt by prompt: the query that answered, the concept nearest to it (``decoded``), the right one
(``true``), their similarity and the margin over the runner-up, both cosines. A query that answers
nothing leaves ``decoded`` empty; similarity and margin are then those of the nearest concept below
the threshold.

Concept by concept, over the prompts that the model gets right:

``accuracy``   share of the prompts of this concept at which it is read; ``low`` to ``high`` is the
               Wilson interval at 95 %, which takes prompts as independent. Prompts of one fact are
               alike, so the interval of the whole study, over facts, is the safer one.
``chance``     one concept drawn at random from the codebook.
``elsewhere``  share of the other prompts at which it is read although another word is right:
               a probe that always says one word has accuracy 1 there, and the same elsewhere.
``control``    the same share for an encoder fitted with the labels of other prompts (shuffled
               codes); NaN in a study without that baseline.
``query``      the one that answered most often, of ``n_queries``; ``decoded`` likewise.
"""

from typing import TYPE_CHECKING, Any

import numpy as np

from lensbench.stats import wilson

if TYPE_CHECKING:
    import pandas as pd

    from lensbench.probes.hd.study_result import HDStudy

CONTROL = "shuffled labels"
"""The baseline that stands beside every concept."""


def decode_table(study: "HDStudy") -> "pd.DataFrame":
    """One row per test prompt, in the order in which they were read; units in its attributes."""
    import pandas as pd

    read = study.reading
    first, second = read.similarity[:, 0], read.similarity[:, 1]
    control = _control(study)
    frame = pd.DataFrame({
        "prompt": read.texts, "query": read.query, "answered": read.answered,
        "decoded": [names[0] if ok else "" for names, ok in zip(read.found, read.answered,
                                                                strict=True)],
        "true": read.targets, "right": read.rank <= 1, "similarity": first,
        "runner_up": [names[1] for names in read.found], "margin": first - second,
        "rank": read.rank, "kind": read.kinds, "model_says": study.answers,
        "model_right": study.right,
    })  # fmt: skip
    if control is not None:
        frame["control_right"] = control <= 1
    frame.attrs["units"] = {"similarity": "cosine", "margin": "cosine", "rank": "rank (1 is best)"}
    return frame


def concept_table(study: "HDStudy") -> "pd.DataFrame":
    """One row per right word, the most frequent first; units in its attributes."""
    import pandas as pd

    table: Any = decode_table(study)
    table = table[table["model_right"]]
    rows: list[dict[str, Any]] = []
    for concept, mine in table.groupby("true", sort=True):
        hits, n = int(mine["right"].sum()), len(mine)
        others = table[table["true"] != concept]
        share = wilson(hits, n)
        rows.append({
            "concept": concept, "n": n, "accuracy": share.mean, "low": share.low,
            "high": share.high, "chance": 1 / study.n_concepts,
            "control": float(mine["control_right"].mean()) if "control_right" in mine else np.nan,
            "elsewhere": float((others["decoded"] == concept).mean()) if len(others) else np.nan,
            "n_elsewhere": len(others), "query": _most(mine["query"]),
            "n_queries": mine["query"].nunique(), "decoded": _most(mine["decoded"]),
            "similarity": float(mine["similarity"].mean()),
            "margin": float(mine["margin"].mean()),
        })  # fmt: skip
    frame = pd.DataFrame(rows).sort_values(["n", "concept"], ascending=[False, True])
    frame.attrs["units"] = {
        "n": "prompts the model gets right", "accuracy": "share of n", "control": "share of n",
        "elsewhere": "share of n_elsewhere", "similarity": "mean cosine", "margin": "mean cosine",
    }  # fmt: skip
    return frame.reset_index(drop=True)


def _control(study: "HDStudy") -> np.ndarray | None:
    if CONTROL not in study.sources or not study.ranks.size:
        return None
    return study.ranks[study.sources.index(CONTROL)]


def _most(values: Any) -> str:
    """The most frequent value, of equally frequent ones the first in the alphabet."""
    counts = values.value_counts()
    return str(min(counts[counts == counts.max()].index))
