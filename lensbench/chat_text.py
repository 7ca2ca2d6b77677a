"""Chats as text: what the tokenizer's own template makes of messages, and where each one lies.

The messages are rendered twice: as they are, and with a bracket (two private-use characters) around
each message. Taking the brackets out must give the plain rendering; where they stood is where each
message lies in the text. :mod:`lensbench.chat` goes on from there to tokens.

Not for text without turns (use ``model.tokens``). What a template writes from fields other than
``content`` (tool calls, reasoning) counts as template.
"""

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

from lensbench.errors import ConfigError, UnknownNameError
from lensbench.tokens import refuse_surrogates

Message: TypeAlias = Mapping[str, Any]
Conversation: TypeAlias = Sequence[Message]
TEMPLATE = "template"
_PLANES = ((0xF0000, 0xFFFFD), (0x100000, 0x10FFFD))
"""Private-use planes, whose characters no text means anything by."""


@dataclass(frozen=True)
class Rendered:
    """The text of one chat; ``spans[i]`` are the (start, end) characters of message ``i`` in it."""

    text: str
    spans: tuple[tuple[tuple[int, int], ...], ...]
    roles: tuple[str, ...]
    """Role of each message."""
    generation_prompt: str = ""
    """What ``add_generation_prompt`` put at the end; empty where the template puts nothing."""

    def owners(self) -> list[int]:
        """Message of every character; -1 for the template's own."""
        owner = [-1] * len(self.text)
        for number, spans in enumerate(self.spans):
            for start, end in spans:
                owner[start:end] = [number] * (end - start)
        return owner


def tokenizer_of(model_or_tokenizer: Any) -> Any:
    """The tokenizer of a model, or the tokenizer itself.

    Raises:
        ConfigError: neither, or a model without one.
    """
    found = getattr(model_or_tokenizer, "tokenizer", model_or_tokenizer)
    if callable(found) and hasattr(found, "convert_ids_to_tokens"):
        return found
    what = type(model_or_tokenizer).__name__
    why = "has no tokenizer" if found is None else "is neither a model nor a tokenizer"
    raise ConfigError(
        f"{what} {why}; pass a transformers tokenizer, or load_model(..., tokenizer=)"
    )


def template_of(tokenizer: Any, template: str | None = None) -> str:
    """The chat template's text: the one given (text or the name of one of several), or the usual.

    Raises:
        ConfigError: the tokenizer has none.
        UnknownNameError: no template of that name.
    """
    own = getattr(tokenizer, "chat_template", None)
    if template is not None:
        _check_given(template, own)
    if template is None and not own:
        name = str(getattr(tokenizer, "name_or_path", "")).rpartition("/")[2] or "this tokenizer"
        raise ConfigError(
            f"{name} has no chat template: it belongs to a base model, which knows no turns. Pass "
            "template= (Jinja text), take the instruction-tuned model, or use model.tokens(text)"
        )
    try:
        return str(tokenizer.get_chat_template(template))
    except ValueError as error:
        known = ", ".join(own) if isinstance(own, Mapping) else "one without a name"
        raise ConfigError(f"no usable chat template ({error}); known: {known}") from error


def _check_given(template: Any, own: Any) -> None:
    """Refuse what is neither Jinja text nor a name: as text it would be a chat without words."""
    if not isinstance(template, str):
        raise ConfigError(f"template must be Jinja text or a name, got {type(template).__name__}")
    names = tuple(own) if isinstance(own, Mapping) else ()
    if template not in (*names, own) and "{{" not in template and "{%" not in template:
        hint = "A template given as text holds {{ ... }} or {% ... %}."
        raise UnknownNameError("chat template", template, known=names, hint=hint)
    refuse_surrogates(template, "the chat template")


def template_hash(template: str) -> str:
    """First 16 hexadecimal digits of the template's sha256."""
    return hashlib.sha256(template.encode()).hexdigest()[:16]


def render(
    tokenizer: Any,
    messages: Conversation,
    *,
    add_generation_prompt: bool = False,
    template: str | None = None,
) -> Rendered:
    """The text of a chat, and where each message lies in it.

    Raises:
        ConfigError: no template, messages that cannot be read, a template that refuses them, one
            that changes a message so that its place cannot be told, or one that skips a message.
    """
    checked = checked_messages(messages)
    text_of = _Template(tokenizer, template_of(tokenizer, template))
    plain = text_of(checked, add_generation_prompt)
    refuse_surrogates(plain, "the rendered chat")
    opened = text_of(checked, False) if add_generation_prompt else plain
    prompt = plain[len(opened) :] if plain.startswith(opened) else ""
    brackets = _brackets(plain + json.dumps(checked, ensure_ascii=False, default=str), len(checked))
    # A template that trims a message would trim nothing inside brackets, so trimmed ones are next.
    for trim in (str, str.strip, str.lstrip, str.rstrip):
        marked = text_of(_bracketed(checked, brackets, trim), add_generation_prompt)
        found = _places(marked, brackets)
        if found is not None and found[0] == plain:
            _refuse_skipped(checked, found[1])
            return Rendered(plain, found[1], tuple(m["role"] for m in checked), prompt)
    raise ConfigError(
        "this chat template changes or leaves out part of a message, so its tokens cannot be told "
        "from the template's; pass the messages as the template writes them (for instance without "
        "reasoning in earlier turns), or a simpler template="
    )


def _refuse_skipped(
    messages: list[dict[str, Any]], spans: tuple[tuple[tuple[int, int], ...], ...]
) -> None:
    for number, (message, places) in enumerate(zip(messages, spans, strict=True)):
        if (message.get("content") or "").strip() and not places:
            raise ConfigError(
                f"this chat template leaves out message {number} ({message['role']}), so the model "
                "would not read it; drop the message, or pass a template= that writes it"
            )


def conversations(messages: Any) -> list[Conversation]:
    """The chats that ``messages`` is: one, or each of several.

    Raises:
        ConfigError: no sequence, or an empty one.
    """
    if isinstance(messages, (str, Mapping)) or not isinstance(messages, Sequence):
        raise _no_list(messages)
    if not messages:
        raise ConfigError("got an empty list of messages; a chat needs at least one")
    return list(messages) if isinstance(messages[0], (list, tuple)) else [messages]


def _no_list(got: Any) -> ConfigError:
    return ConfigError(
        "messages must be a list of {'role': ..., 'content': ...}, got "
        f"{'an empty one' if isinstance(got, (list, tuple)) else type(got).__name__}"
    )


def checked_messages(messages: Any) -> list[dict[str, Any]]:
    """Messages with a role and text.

    Raises:
        ConfigError: anything else, with the number of the message.
    """
    if isinstance(messages, (str, Mapping)) or not isinstance(messages, Sequence) or not messages:
        raise _no_list(messages)
    out: list[dict[str, Any]] = []
    for number, message in enumerate(messages):
        if not isinstance(message, Mapping) or not isinstance(message.get("role"), str):
            raise ConfigError(f"message {number} has no role; got {str(message)[:80]!r}")
        if message["role"] == TEMPLATE:
            raise ConfigError(f"message {number}: the role {TEMPLATE!r} is the template's own")
        content = message.get("content")
        if not isinstance(content, str) and not (content is None and "tool_calls" in message):
            raise ConfigError(
                f"message {number} ({message['role']}) must have a string as content, got "
                f"{type(content).__name__}; images and parts are not read here"
            )
        refuse_surrogates(message["role"], f"the role of message {number}")
        refuse_surrogates(content or "", f"message {number} ({message['role']})")
        out.append(dict(message))
    return out


@dataclass(frozen=True)
class _Template:
    tokenizer: Any
    template: str

    def __call__(self, messages: Conversation, add_generation_prompt: bool) -> str:
        from jinja2.exceptions import TemplateError

        try:
            return self.tokenizer.apply_chat_template(
                list(messages),
                tokenize=False,
                chat_template=self.template,
                add_generation_prompt=add_generation_prompt,
            )
        except TemplateError as error:
            roles = ", ".join(m["role"] for m in messages)
            raise ConfigError(
                f"the chat template refuses these roles ({roles}): {error}"
            ) from error
        except (TypeError, ValueError, LookupError, AttributeError, ArithmeticError) as error:
            raise ConfigError(
                f"the chat template fails on these messages ({type(error).__name__}: {error}); "
                "give what it reads from them, or pass another template="
            ) from error


def _brackets(text: str, n: int) -> list[tuple[str, str]]:
    """A pair of characters for each message that occur nowhere in the text."""
    used = {ord(c) for c in text if ord(c) >= _PLANES[0][0]}
    free = (c for first, last in _PLANES for c in range(first, last) if c not in used)
    return [(chr(next(free)), chr(next(free))) for _ in range(n)]


def _bracketed(
    messages: list[dict[str, Any]], brackets: list[tuple[str, str]], trim: Any
) -> list[dict[str, Any]]:
    return [
        m if m.get("content") is None else {**m, "content": f"{a}{trim(m['content'])}{b}"}
        for m, (a, b) in zip(messages, brackets, strict=True)
    ]


def _places(
    marked: str, brackets: list[tuple[str, str]]
) -> tuple[str, tuple[tuple[tuple[int, int], ...], ...]] | None:
    """The text without brackets and where they stood; None where a bracket lost its partner."""
    opens = {a: i for i, (a, _) in enumerate(brackets)}
    closes = {b: i for i, (_, b) in enumerate(brackets)}
    plain: list[str] = []
    spans: list[list[tuple[int, int]]] = [[] for _ in brackets]
    inside: tuple[int, int] | None = None
    for char in marked:
        if char in opens and inside is None:
            inside = opens[char], len(plain)
        elif inside is not None and closes.get(char) == inside[0]:
            spans[inside[0]].append((inside[1], len(plain)))
            inside = None
        elif char in opens or char in closes:
            return None
        else:
            plain.append(char)
    return None if inside is not None else ("".join(plain), tuple(map(tuple, spans)))
