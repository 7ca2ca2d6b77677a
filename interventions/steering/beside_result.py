"""Texts of the clean model and of the same model under plans, token by token."""

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from lensbench.errors import ConfigError, UnknownNameError
from lensbench.results import Result
from lensbench.stats import bootstrap_mean

if TYPE_CHECKING:
    import pandas as pd
    import plotly.graph_objects as go

CLEAN = "clean"
_SAID = 4
"""Plans whose share is named in the headline, each; of more, the mean and the largest."""
_CELLS = 600
"""Cells of a picture that have room for their token."""


@dataclass(frozen=True, kw_only=True, eq=False)
class SideBySide(Result):
    """What follows every prompt without a plan, and under each plan, drawn from one seed.

    A token is *changed* where it is not the one at the same place of the clean text; a text that
    ends earlier or later than the clean one differs there too.

    Example:
        >>> towards = interventions.latent_direction(model, run, 3)
        >>> said = interventions.generate_beside(model, text, interventions.steer(towards, 4.0), 6)
        >>> table, figure = said.changes(), said.plot()
    """

    prompts: tuple[str, ...]
    names: tuple[str, ...]
    """``clean``, then the plans, as they were named."""
    plans: tuple[str, ...]
    """Each of them in words; of ``clean`` nothing."""
    ids: tuple[tuple[tuple[int, ...], ...], ...]
    """New tokens, by name and prompt."""
    pieces: tuple[tuple[tuple[str, ...], ...], ...]
    """The text of each of those tokens."""
    said: tuple[tuple[str, ...], ...]
    """The new text, by name and prompt."""

    def texts(self, name: str = CLEAN) -> tuple[str, ...]:
        """What follows every prompt under one plan.

        Raises:
            UnknownNameError: no plan of that name.
        """
        if name not in self.names:
            raise UnknownNameError("plan", name, known=self.names)
        return self.said[self.names.index(name)]

    def to_frame(self) -> "pd.DataFrame":
        """One row per prompt; columns ``prompt``, ``clean`` and one per plan, with its text."""
        import pandas as pd

        frame = pd.DataFrame(
            {"prompt": self.prompts, **dict(zip(self.names, self.said, strict=True))}
        )
        frame.attrs |= {
            **self.config,
            "plans": dict(zip(self.names[1:], self.plans[1:], strict=True)),
        }
        return frame

    def changes(self) -> "pd.DataFrame":
        """One row per prompt and plan: its text, tokens changed, and the first of them.

        ``first_changed`` counts new tokens from 1; it is 0 where the whole text is the clean one.
        """
        import pandas as pd

        rows: list[dict[str, Any]] = []
        for p, prompt in enumerate(self.prompts):
            for i, name in enumerate(self.names):
                apart = self._apart(i, p)
                first = int(apart.argmax()) + 1 if apart.any() else 0
                rows.append({"prompt": prompt, "under": name, "text": self.said[i][p],
                             "changed": int(apart.sum()), "first_changed": first,
                             "n": len(apart)})  # fmt: skip
        frame = pd.DataFrame(rows)
        frame.attrs["units"] = {"changed": "new tokens", "first_changed": "new token, from 1",
                                "n": "new tokens"}  # fmt: skip
        return frame

    def summary(self) -> dict[str, float]:
        """Prompts, new tokens of the longest text, and the share of tokens each plan changed."""
        shares = {name: float(self._shares(i).mean()) for i, name in enumerate(self.names) if i}
        if len(shares) > _SAID:
            found = list(shares.values())
            shares = {"mean": float(np.mean(found)), "largest": max(found)}
        return {
            "prompts": float(len(self.prompts)),
            "new_tokens": float(self._longest()),
            **{f"changed_by_{name}": share for name, share in shares.items()},
        }

    def plot(self, prompt: int | None = None) -> "go.Figure":
        """Which tokens each plan changed: of one prompt with the tokens, of all as a share.

        Args:
            prompt: number of the prompt; left out, the only one, or all of them.

        Raises:
            ConfigError: no such prompt.
        """
        from lensbench.plots import heatmap, visible

        if prompt is None and len(self.prompts) == 1:
            prompt = 0
        if prompt is not None and not 0 <= prompt < len(self.prompts):
            raise ConfigError(f"no prompt {prompt}; there are prompts 0 to {len(self.prompts) - 1}")
        frame = self.token_frame(prompt)
        frame["shown"] = frame["token"].map(visible) if prompt is not None else ""
        frame["row"] = -frame["plan"]  # the clean text on top
        n = f"n = {len(self.prompts)} prompts"
        about = n if prompt is None else f"n = 1 prompt: {self.prompts[prompt]!r}"
        figure = heatmap(
            frame, x="position", y="row", value="changed", span=(0.0, 1.0),
            text="shown" if prompt is not None and len(frame) <= _CELLS else None,
            hover_columns=("under", *(("token",) if prompt is not None else ())),
            title="Tokens that a plan changed", subtitle=f"{about} · seed "
            f"{self.config.get('seed', 0)} · 1: not the clean text's token at this place",
            labels={"position": "new token", "row": "text", "changed": "changed"},
        )  # fmt: skip
        return figure.update_yaxes(
            title=None, tickvals=[-i for i in range(len(self.names))], ticktext=_lines(self.names)
        )

    def token_frame(self, prompt: int | None = None) -> "pd.DataFrame":
        """What :meth:`plot` draws: per plan and new token the share of prompts it is changed in.

        Of one ``prompt`` with its ``token``; prompts whose two texts have both ended are left out.
        """
        import pandas as pd

        chosen = range(len(self.prompts)) if prompt is None else [prompt]
        rows: list[dict[str, Any]] = []
        for i, name in enumerate(self.names):
            apart = [self._apart(i, p) for p in chosen]
            for t in range(max(map(len, apart), default=0)):
                here = [bool(a[t]) for a in apart if t < len(a)]
                row = {"under": name, "plan": i, "position": t + 1,
                       "changed": float(np.mean(here)), "n": len(here)}  # fmt: skip
                if prompt is not None:
                    pieces = self.pieces[i][prompt]
                    row["token"] = pieces[t] if t < len(pieces) else "(ended)"
                rows.append(row)
        frame = pd.DataFrame(rows)
        frame.attrs["units"] = {"changed": "share of prompts", "n": "prompts"}
        return frame

    def shares(self) -> "pd.DataFrame":
        """Share of the new tokens that each plan changed: mean over prompts, 95 % bootstrap."""
        import pandas as pd

        rows: list[dict[str, Any]] = []
        for i, name in enumerate(self.names[1:], 1):
            mean = bootstrap_mean(self._shares(i))
            rows.append({"under": name, "changed": mean.mean, "low": mean.low, "high": mean.high,
                         "n": mean.n, "plan": self.plans[i]})  # fmt: skip
        frame = pd.DataFrame(rows)
        frame.attrs["units"] = {"changed": "share of new tokens", "n": "prompts"}
        return frame

    def _html_body(self) -> str:
        """A row per text below each other: side by side they would be wider than a page."""
        from lensbench.plots.tables import html_table

        frame = self.changes()
        told = frame.assign(first_changed=[at or "-" for at in frame["first_changed"]])
        told.attrs.update(frame.attrs)
        return html_table(told, max_rows=40)

    def _longest(self) -> int:
        return max((len(row) for rows in self.ids for row in rows), default=0)

    def _apart(self, plan: int, prompt: int) -> np.ndarray:
        """Whether each new token differs from the clean text's; a missing one does."""
        clean, other = self.ids[0][prompt], self.ids[plan][prompt]
        length = max(len(clean), len(other))
        pad = [*other, *[-1] * (length - len(other))], [*clean, *[-1] * (length - len(clean))]
        return np.array(pad[0], np.int64) != np.array(pad[1], np.int64)

    def _shares(self, plan: int) -> np.ndarray:
        each = [self._apart(plan, p) for p in range(len(self.prompts))]
        return np.array([a.mean() if len(a) else 0.0 for a in each])


def _lines(names: tuple[str, ...]) -> list[str]:
    from lensbench.plots.columns import escape_all

    return escape_all(names)
