"""Chats as a text to capture: the model is given whole chats, rows are kept of chosen roles.

``capture(model, read_chats(model, "chats.jsonl", roles=("assistant",)), ...)`` runs every chat from
its first token on, so an answer is read in the light of its question, and stores the rows of the
assistant's words alone. Each chat is a sequence of its own (``layout="pad"``).
"""

import json
from collections.abc import Mapping, Sequence
from os import PathLike
from pathlib import Path
from typing import Any

import numpy as np

from lensbench import io
from lensbench.chat import ChatTokens, chat_tokens
from lensbench.chat_text import Conversation
from lensbench.errors import ConfigError, DamagedDataError, MissingDataError, UnknownNameError
from lensbench.harvest.text import Text
from lensbench.tokens import refuse_surrogates


def read_chats(
    model_or_tokenizer: Any,
    chats: str | PathLike[str] | Sequence[Conversation],
    *,
    roles: Sequence[str] | None = None,
    template: str | None = None,
    field: str = "messages",
    allow_special: bool = False,
) -> Text:
    """Chats from a ``.jsonl`` file (an object with ``messages`` a line) or a list, for ``capture``.

    ``roles`` names whose tokens are kept (``assistant``, ``user`` ..., ``template``); default: all.
    The store's manifest names the template, its hash and the roles. Chats longer than the
    ``context`` of the capture are cut and counted there.

    Raises:
        MissingDataError: no such file.
        DamagedDataError: a line without messages.
        ConfigError: as :func:`lensbench.chat_tokens`; or no token of these roles.
        UnknownNameError: a role that no chat has.
    """
    named = isinstance(chats, (str, PathLike))
    talks = _read(Path(chats), field) if named else [list(chat) for chat in chats]
    for number, talk in enumerate(talks):
        _refuse_broken_text(number, talk)
    encoded = chat_tokens(model_or_tokenizer, talks, template=template, allow_special=allow_special)
    wanted = tuple(roles) if roles is not None and not isinstance(roles, str) else roles
    keep = _kept(encoded, wanted)
    entry: dict[str, Any] = {
        "kind": "chats",
        **({"path": str(chats)} if named else {}),
        "roles": "all" if wanted is None else list(wanted),
        "template": encoded.template,
        "template_sha256": encoded.template_sha256,
        "fingerprint": io.fingerprint([encoded.fingerprint(), wanted]),
    }
    documents = [np.array(ids, dtype=np.int64) for ids in encoded.ids]
    return Text(
        entry, lambda: iter(documents), given_as_ids=True, masked=True, layout="pad", keep=keep
    )


def _refuse_broken_text(number: int, talk: Sequence[Any]) -> None:
    for place, message in enumerate(talk):
        for value in message.values() if isinstance(message, Mapping) else ():
            if isinstance(value, str):
                refuse_surrogates(value, f"chat {number}, message {place}")


def _kept(encoded: ChatTokens, roles: tuple[str, ...] | str | None) -> tuple[np.ndarray, ...]:
    if isinstance(roles, str):
        raise ConfigError(f"roles must be a list of names, got {roles!r}; pass [{roles!r}]")
    known = encoded.known_roles()
    for role in roles or ():
        if role not in known:
            raise UnknownNameError("role", role, known=known)
    keep = tuple(
        np.array([roles is None or encoded.role(r, p) in roles for p in range(len(ids))], bool)
        for r, ids in enumerate(encoded.ids)
    )
    if not any(mask.any() for mask in keep):
        raise ConfigError(f"no chat has a token of the roles {roles}; known: {', '.join(known)}")
    return keep


def _read(path: Path, field: str) -> list[Any]:
    if not path.is_file():
        raise MissingDataError(f"no file of chats {str(path)[:200]}")
    out: list[Any] = []
    with path.open("rb") as file:
        for number, line in enumerate(file, 1):
            if not line.strip():
                continue
            try:
                found = json.loads(line.decode("utf-8"))[field]
            except (ValueError, KeyError, TypeError) as error:
                raise DamagedDataError(
                    f'{path}, line {number}: not a JSON object with a field "{field}" ({error})'
                ) from error
            if not isinstance(found, list) or not found:
                raise DamagedDataError(f"{path}, line {number}: field {field!r} is not a list")
            out.append(found)
    if not out:
        raise ConfigError(f"{path} holds no chat")
    return out
