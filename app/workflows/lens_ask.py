"""The page Ask a state: one token's state put into every layer of another prompt (Patchscopes).

What takes a moment is read while the reader waits and kept. Anything larger is a job (``lensbench
lens ask``) whose result lies in ``asked/`` below the root.
"""

from collections.abc import Callable
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pandas as pd

from lensbench.app.workflows.finding import once
from lensbench.app.workflows.lens_places import held_of, tokens_of
from lensbench.app.workflows.lenses import LensAsk
from lensbench.app.workflows.live import Shelf, hold_store
from lensbench.app.workflows.sequences import name_of_model
from lensbench.app.workflows.token_names import token_named
from lensbench.errors import ConfigError
from lensbench.tokens import token_texts

if TYPE_CHECKING:
    from lensbench.models import Model
    from lensbench.probes.lenses.future.layers_result import TransplantLayers
    from lensbench.probes.lenses.future.spots import Spot

ASKED, FILE = "asked", "result.json"
AT_ONCE = 2e11
"""Multiplications for which a reader waits instead of starting a job: seconds on two cores."""
DRAWS, KINDS = 3, 5
"""Random states, and runs of a cell: the state, the mean one, the random ones."""
IDENTITY = ("cat -> cat\n1135 -> 1135\nhello -> hello\n?", "")
SELFIE = ("[INST] _ _ _ _ _ [/INST] Sure, I will summarize the message:", "_")
EXAMPLES = {
    "atlas-dense": ("I think the ring", ""),
    "atlas-early": ("I think the ring", ""),
    "atlas-equal": ("I think the ring", ""),
    "atlas-moe": ("Yesterday the queens", ""),
    "othello": ("b3 b2 c2", ""),
}
"""Prompts that a bundled model has the words for, and their placeholder (empty: the last token)."""


@dataclass(frozen=True)
class StateAsk:
    """One token of a typed text or of a stored sequence, and the prompt that gets its state."""

    target: str
    position: int
    model: str = ""
    text: str = ""
    store: str = ""
    row: int = 0
    placeholder: str = ""
    """Every such token of the prompt gets the state; empty: the last one."""
    token: str = ""
    """Whose probability is followed; empty: what the model itself says next."""

    def __post_init__(self) -> None:
        """A prompt with words in it, and one source."""
        if not self.target.strip():
            raise ConfigError("the prompt is empty; type a few words")
        _ = self.lens

    @property
    def lens(self) -> LensAsk:
        """Its source as the page Lens asks for it."""
        return LensAsk(store=self.store, row=self.row, model=self.model, text=self.text)


_read: "Shelf[TransplantLayers]" = Shelf(16)
_written: Shelf[pd.DataFrame] = Shelf(32)


def places_in(source: LensAsk) -> dict[int, str]:
    """Tokens that can be asked: place in the sequence, and text; around the row of a store."""
    held = held_of(source)
    tokens, first = tokens_of(source, held)
    ids = tokens.ids[0, first : first + source.max_tokens].tolist()
    return dict(enumerate(token_texts(held.model.tokenizer, ids), first))


def offers(source: LensAsk) -> dict[str, tuple[str, str]]:
    """Ready prompts that the tokenizer of the source's model has all words for."""
    model = held_of(source).model
    named = {"example": EXAMPLES.get(model.card.name, ("", "")), "identity": IDENTITY,
             "selfie": SELFIE}  # fmt: skip
    unknown = getattr(model.tokenizer, "unk_token_id", None)
    return {name: pair for name, pair in named.items()
            if pair[0] and unknown not in model.tokens(pair[0]).ids[0].tolist()}  # fmt: skip


def layers_for(root: Path, ask: StateAsk) -> "TransplantLayers | None":
    """What was read for a request; None where that takes a job that is not finished.

    Raises:
        LensbenchError: see :func:`lensbench.probes.transplant_layers`.
    """
    if not at_once(ask):
        file = folder_for(root, ask) / FILE
        from lensbench.results import load

        found: Any = once(file, "asked", lambda p: load(p.parent)) if file.is_file() else None
        return found
    return layers_of(ask)


def layers_of(ask: StateAsk) -> "TransplantLayers":
    """The state in every layer of the prompt, beside its controls; run once and kept.

    Raises:
        ConfigError: a token that the text or the vocabulary has not, position 0 of the prompt.
        LensbenchError: see :func:`lensbench.probes.transplant_layers`.
    """
    held = held_of(ask.lens)

    def run() -> "TransplantLayers":
        from lensbench import probes

        with held.lock:
            source, target = spots_of(held.model, ask)
            scored = token_named(held.model.tokenizer, ask.token) if ask.token else None
            return probes.transplant_layers(held.model, source, target, scored=scored, draws=DRAWS)

    return _read.get((ask, *_version(ask)), run)


def spots_of(model: "Model", ask: StateAsk) -> "tuple[Spot, Spot]":
    """Source and target, by the store's own ids where it is a stored sequence.

    Raises:
        ConfigError: words of the prompt that the model does not know, no such placeholder.
    """
    from lensbench.app.workflows.reading import refuse_unknown
    from lensbench.probes import Spot, placeholder_prompt

    tokens, _ = tokens_of(ask.lens, held_of(ask.lens))
    refuse_unknown(model, ask.target)
    if not ask.placeholder:
        return Spot(tokens, ask.position), Spot(ask.target, -1)
    found = placeholder_prompt(model, ask.target, placeholder=ask.placeholder)
    return Spot(tokens, ask.position), Spot(found.tokens, found.positions)


def written(ask: StateAsk, layer: int, into: int, n: int) -> pd.DataFrame:
    """What the prompt goes on to write with the state at one cell, token by token.

    Each with its probability with and without the state. ``attrs["texts"]`` of the frame are the
    whole text, and the one that the prompt writes as it is.

    Raises:
        LensbenchError: see :func:`lensbench.probes.transplant`.
    """
    held = held_of(ask.lens)

    def run() -> pd.DataFrame:
        from lensbench import probes
        from lensbench.app.workflows.prompting import joined

        with held.lock:
            model = held.model
            source, target = spots_of(model, ask)
            found = probes.transplant(
                model, probes.Spot(source.tokens, source.positions, layer),
                probes.Spot(target.tokens, target.positions, into), max_new_tokens=n,
            )  # fmt: skip
            tokens = (
                model.tokens(target.tokens) if isinstance(target.tokens, str) else target.tokens
            )
            [plain] = model.generate(tokens, max_new_tokens=n)
        words = token_texts(model.tokenizer, list(plain))
        frame = found.tokens_frame().drop(columns=["layer", "pos"])
        frame.attrs["texts"] = joined(model, found.written[0]), joined(model, words)
        return frame

    return _written.get((ask, layer, into, n, *_version(ask)), run)


def work_of(ask: StateAsk) -> tuple[int, float]:
    """Prompts to run, and about how many multiplications that takes."""
    card = held_of(ask.lens).model.card
    runs = KINDS * card.n_layers**2
    weights = card.n_layers * card.d_model * (4 * card.d_model + 3 * card.d_mlp)
    tokens = len(held_of(ask.lens).model.tokens(ask.target).ids[0])
    return runs, runs * float(tokens * weights + card.d_model * card.d_vocab)


def at_once(ask: StateAsk) -> bool:
    """Whether it takes seconds."""
    return work_of(ask)[1] <= AT_ONCE


def folder_for(root: Path, ask: StateAsk) -> Path:
    """Where the job of a page keeps it: another folder for every request, model and store."""
    print_ = sha256(f"{_version(ask)} {ask}".encode()).hexdigest()[:8]
    return root / ASKED / f"{held_of(ask.lens).model.card.name}-{print_}"


def settings_of(ask: StateAsk, out: Path | None = None) -> dict[str, Any]:
    """The request as options of ``lensbench lens ask``; without ``out`` nothing is saved."""
    where: dict[str, Any] = {"model": ask.model, "prompt": ask.text}
    if ask.store:
        where = {"model": name_of_model(ask.store), "store": ask.store, "row": str(ask.row)}
    return {
        **where, "at": str(ask.position), "target": ask.target, "placeholder": ask.placeholder,
        "token": ask.token, **({"out": str(out)} if out else {}),
    }  # fmt: skip


def ask_of(settings: dict[str, Any]) -> StateAsk:
    """The request that :func:`settings_of` made settings of."""
    store = settings.get("store") or ""
    return StateAsk(
        settings["target"], int(settings["at"]), model="" if store else settings.get("model") or "",
        text=settings.get("prompt") or "", store=str(store), row=int(settings.get("row") or 0),
        placeholder=settings.get("placeholder") or "", token=settings.get("token") or "",
    )  # fmt: skip


def fit(settings: dict[str, Any], progress: Callable[..., Any]) -> dict[str, Any]:
    """What the job does: the same, saved below ``out``.

    Raises:
        LensbenchError: see :func:`layers_of`.
    """
    ask = ask_of(settings)
    progress(f"running {work_of(ask)[0]:,} prompts")
    return {"prompts": work_of(ask)[0], **facts(settings)["summary"]}


def facts(settings: dict[str, Any]) -> dict[str, Any]:
    """What ``lensbench lens ask`` answers, saved where ``out`` is named.

    Raises:
        ConfigError: neither a text nor a stored row, or both.
        LensbenchError: see :func:`layers_of`.
    """
    from lensbench.app.workflows.answers import result_facts

    ask = ask_of(settings)
    found = layers_of(ask)
    out = Path(settings["out"]) if settings.get("out") else None
    name, word = held_of(ask.lens).model.card.name, found.source_tokens[found.position]
    return result_facts(name, found, out, position=found.position, token=word,
                        scored=found.scored, plain=list(found.plain_top))  # fmt: skip


def _version(ask: StateAsk) -> tuple[str, str]:
    """A store that changed, or other weights under the same name, are something else."""
    print_ = held_of(ask.lens).model.card.fingerprint
    return print_, hold_store(ask.store).fingerprint if ask.store else ""
