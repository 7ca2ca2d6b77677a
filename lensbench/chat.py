"""Chats as tokens: ids, and whose words each token holds.

1. Render the messages, and find each one in the text (:mod:`lensbench.chat_text`).
2. Encode the text with character offsets. The template has said where special tokens go, so the
   tokenizer adds none: a BOS is never doubled.
3. A token belongs to the message that its visible characters come from, else to the template.
"""

import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np
from jaxtyping import Bool

from lensbench import io
from lensbench.chat_text import (
    TEMPLATE,
    Conversation,
    Rendered,
    conversations,
    render,
    template_hash,
    template_of,
    tokenizer_of,
)
from lensbench.errors import ConfigError, DamagedDataError, UnknownNameError
from lensbench.tokens import Tokens, as_tokens

if TYPE_CHECKING:
    import pandas as pd


@dataclass(frozen=True)
class ChatTokens:
    """Token ids of chats with the role of every token.

    Rows are as long as their chat; :attr:`tokens` pads them on the left. ``messages[r][p]`` is the
    message that token ``p`` of chat ``r`` belongs to, counted from 0, or -1 for the template's own.
    """

    ids: tuple[tuple[int, ...], ...]
    messages: tuple[tuple[int, ...], ...]
    roles: tuple[tuple[str, ...], ...]
    """Role of each message of each chat."""
    mixed: tuple[tuple[int, ...], ...]
    """Tokens that also hold characters of the template beside the message they belong to, or the
    reverse: tokenizers merge across borders."""
    texts: tuple[str, ...]
    """The rendered text of each chat."""
    pieces: tuple[tuple[str, ...], ...]
    """The characters that each token was made from."""
    template: str
    add_generation_prompt: bool = False
    pad_id: int | None = field(default=None, repr=False)

    @cached_property
    def tokens(self) -> Tokens:
        """The batch, padded on the left under a mask; what ``model.run`` takes."""
        return as_tokens(self.ids, pad_id=self.pad_id)

    @property
    def template_sha256(self) -> str:
        """First 16 digits of the template's sha256."""
        return template_hash(self.template)

    def role(self, row: int, pos: int) -> str:
        """Role of token ``pos`` of chat ``row``."""
        number = self.messages[row][pos]
        return TEMPLATE if number < 0 else self.roles[row][number]

    def known_roles(self) -> tuple[str, ...]:
        """Every role that occurs, ``template`` last."""
        return (*dict.fromkeys(r for row in self.roles for r in row), TEMPLATE)

    def positions(self, role: str, *, message: int | None = None) -> tuple[tuple[int, ...], ...]:
        """Positions of a role's tokens in each chat, as ``Edit(positions=...)`` counts them.

        ``message`` keeps one message of each chat, negative numbers counted from its end.

        Raises:
            UnknownNameError: a role that no chat here has.
        """
        if role not in self.known_roles():
            raise UnknownNameError("role", role, known=self.known_roles())
        out: list[tuple[int, ...]] = []
        for r, owners in enumerate(self.messages):
            n = len(self.roles[r])
            wanted = None if message is None else message + n if message < 0 else message
            out.append(
                tuple(
                    p
                    for p, owner in enumerate(owners)
                    if self.role(r, p) == role and wanted in (None, owner)
                )
            )
        return tuple(out)

    def mask(self, role: str, *, message: int | None = None) -> Bool[np.ndarray, "batch pos"]:
        """True at a role's tokens, in the shape of :attr:`tokens` (False under the padding)."""
        width = self.tokens.n_pos
        out = np.zeros((len(self.ids), width), bool)
        for r, places in enumerate(self.positions(role, message=message)):
            out[r, [width - len(self.ids[r]) + p for p in places]] = True
        return out

    def provenance(self) -> dict[str, Any]:
        """What a result or store writes down: the template, its hash, and which chats."""
        return {
            "template": self.template,
            "template_sha256": self.template_sha256,
            "add_generation_prompt": self.add_generation_prompt,
            "chats": self.fingerprint(),
        }

    def fingerprint(self) -> str:
        """Changes with any token, role or the template."""
        return io.fingerprint([self.ids, self.messages, self.roles, self.template])

    def to_frame(self) -> "pd.DataFrame":
        """One row per token: chat, position, id, text, role, message, mixed."""
        import pandas as pd

        rows = [
            {
                "chat": r,
                "pos": p,
                "id": token,
                "text": self.pieces[r][p],
                "role": self.role(r, p),
                "message": self.messages[r][p],
                "mixed": p in self.mixed[r],
            }
            for r, ids in enumerate(self.ids)
            for p, token in enumerate(ids)
        ]
        return pd.DataFrame(rows)

    def to_json(self) -> str:
        """As JSON text; :meth:`from_json` gives back an equal value."""
        return json.dumps({name: getattr(self, name) for name in _FIELDS}, ensure_ascii=False)

    @classmethod
    def from_json(cls, text: str) -> "ChatTokens":
        """Read what :meth:`to_json` wrote.

        Raises:
            DamagedDataError: anything else.
        """
        try:
            found: dict[str, Any] = json.loads(text)
            for name in ("ids", "messages", "roles", "mixed", "pieces"):
                found[name] = tuple(map(tuple, found[name]))
            found["texts"] = tuple(found["texts"])
            return cls(**found)
        except (ValueError, KeyError, TypeError) as error:
            raise DamagedDataError(f"this is no JSON of ChatTokens ({error})") from error

    def __repr__(self) -> str:
        """Chats, tokens and tokens per role."""
        counts = {r: sum(map(len, self.positions(r))) for r in self.known_roles()}
        listed = ", ".join(f"{role} {n}" for role, n in counts.items())
        return f"ChatTokens({len(self.ids)} chats; tokens: {listed})"

    def _repr_html_(self) -> str:
        from lensbench.plots.tables import html_table

        return html_table(self.to_frame(), caption=repr(self))


_FIELDS = tuple(ChatTokens.__dataclass_fields__)


def chat_tokens(
    model_or_tokenizer: Any,
    messages: Conversation | Sequence[Conversation],
    *,
    add_generation_prompt: bool = False,
    template: str | None = None,
    allow_special: bool = False,
) -> ChatTokens:
    """Encode one chat, or several, with the tokenizer's chat template.

    The ids are those of ``tokenizer.apply_chat_template(messages)``, checked. With
    ``add_generation_prompt`` the text ends where the assistant would begin. ``template`` is Jinja
    text, or the name of one of the tokenizer's templates, in place of its usual one. Special tokens
    inside a message would open or close a turn by themselves; they are refused unless
    ``allow_special``.

    Equivalent to ``apply_chat_template(..., return_assistant_tokens_mask=True)`` for the role
    ``assistant`` where a template has ``generation`` tags around the content; this works without.

    Raises:
        ConfigError: no tokenizer, no template, a tokenizer without character offsets, messages that
            cannot be read or that the template leaves out, or a token of two messages' words.
        UnknownNameError: no template of that name.

    Example:
        >>> template = "{% for m in messages %}{{ m['content'] }} {% endfor %}"
        >>> said = [{"role": "user", "content": "Alice"}]
        >>> chat = lensbench.chat_tokens(model, said, template=template)
    """
    tokenizer = tokenizer_of(model_or_tokenizer)
    if not getattr(tokenizer, "is_fast", False):
        raise ConfigError(
            f"{type(tokenizer).__name__} gives no character offsets, so roles cannot be told; load "
            "the fast tokenizer of this model (AutoTokenizer, with a tokenizer.json)"
        )
    chats, jinja = conversations(messages), template_of(tokenizer, template)
    rows = [_encode(tokenizer, chat, jinja, add_generation_prompt, allow_special) for chat in chats]
    ids, owners, mixed, pieces, rendered = zip(*rows, strict=True)
    return ChatTokens(
        ids=ids,
        messages=owners,
        roles=tuple(r.roles for r in rendered),
        mixed=mixed,
        texts=tuple(r.text for r in rendered),
        pieces=pieces,
        template=jinja,
        add_generation_prompt=add_generation_prompt,
        pad_id=tokenizer.pad_token_id,
    )


def _encode(
    tokenizer: Any, chat: Any, template: str, prompt: bool, allow_special: bool
) -> tuple[tuple[int, ...], tuple[int, ...], tuple[int, ...], tuple[str, ...], Rendered]:
    rendered = render(tokenizer, chat, add_generation_prompt=prompt, template=template)
    if not allow_special:
        _refuse_special(tokenizer, rendered)
    encoded = tokenizer(
        rendered.text, add_special_tokens=False, return_offsets_mapping=True, verbose=False
    )
    ids, spans = tuple(encoded["input_ids"]), covering(encoded["offset_mapping"])
    theirs = tokenizer.apply_chat_template(
        [dict(m) for m in chat],
        chat_template=template,
        add_generation_prompt=prompt,
        tokenize=True,
        return_dict=False,
    )
    if list(ids) != list(theirs):
        raise ConfigError(
            "apply_chat_template of this tokenizer encodes the chat in another way than its text; "
            "its tokens have no known places. Encode the text yourself and use Tokens"
        )
    if not ids:
        raise ConfigError(f"a chat of roles {', '.join(rendered.roles)} has no tokens at all")
    owner = rendered.owners()
    owned = [_owner(owner, rendered.text, span) for span in spans]
    mixed = tuple(p for p, (_, both) in enumerate(owned) if both)
    pieces = tuple(rendered.text[a:b] for a, b in spans)
    return ids, tuple(number for number, _ in owned), mixed, pieces, rendered


def covering(offsets: Sequence[tuple[int, int]]) -> list[tuple[int, int]]:
    """Offsets where each token also holds the characters that were trimmed off before it.

    Byte-level tokenizers may report ``hello`` for a token that is `` hello``; several tokens of one
    character all report that character.
    """
    out: list[tuple[int, int]] = []
    reached = 0
    for start, end in offsets:
        begin = min(start, reached) if end > reached else start
        out.append((begin, max(begin, end)))
        reached = max(reached, end)
    return out


def _owner(owner: list[int], text: str, span: tuple[int, int]) -> tuple[int, bool]:
    """Message of a token, and whether it holds characters of another owner too."""
    places = range(*span)
    if not places:  # a token made of nothing (a prefix that the tokenizer puts first)
        return -1, False
    every = {owner[i] for i in places}
    seen = {owner[i] for i in places if not text[i].isspace()} or {owner[places[0]]}
    whose = {n for n in seen if n >= 0}
    if len(whose) > 1:
        raise ConfigError(
            f"the token {text[span[0] : span[1]]!r} holds words of messages "
            f"{' and '.join(map(str, sorted(whose)))} at once, so it has no role; use a template "
            "that puts something between messages"
        )
    return (whose.pop() if whose else -1), len(every) > 1


def _refuse_special(tokenizer: Any, rendered: Rendered) -> None:
    for number, spans in enumerate(rendered.spans):
        for a, b in spans:
            inside = [s for s in tokenizer.all_special_tokens if s and s in rendered.text[a:b]]
            if inside:
                raise ConfigError(
                    f"message {number} ({rendered.roles[number]}) contains the special token "
                    f"{inside[0]!r}, which would act as part of the template; remove it, or pass "
                    "allow_special=True if that is meant"
                )
