"""A chat model behind an OpenAI-compatible endpoint, asked only because you named its address.

``POST {base_url}/chat/completions`` with the standard library; redirects are refused, since they
would hand the key to another host. The text of your contexts is sent there.
"""

import json
import os
import time
from dataclasses import dataclass
from http.client import HTTPException
from typing import Any
from urllib.error import HTTPError, URLError
from urllib.parse import urlsplit
from urllib.request import HTTPRedirectHandler, ProxyHandler, Request, build_opener

from lensbench.arguments import whole_number
from lensbench.errors import BackendUnavailableError, ConfigError

_LONGEST_ANSWER = 4 << 20
_LONGEST_WAIT = 30.0
_AGAIN = (408, 409, 425, 429, 500, 502, 503, 504)
_LOCAL = ("127.0.0.1", "localhost", "::1")


class _NoRedirect(HTTPRedirectHandler):
    def redirect_request(self, *_: Any, **__: Any) -> None:
        """None: the answer with the redirect becomes an error."""


@dataclass(frozen=True)
class Endpoint:
    """Where a model answers, and how patient to be."""

    base_url: str
    """Such as ``http://127.0.0.1:8000/v1``."""
    model: str
    key_env: str = ""
    """Name of the environment variable that holds the key; empty: no key is sent."""
    timeout: float = 60.0
    """Seconds for one answer."""
    retries: int = 3
    """More tries after a busy or broken answer (408, 425, 429, 5xx, no connection)."""
    pause: float = 1.0
    """Seconds before the first further try; doubled each time, unless the endpoint says."""
    max_tokens: int = 512

    def __post_init__(self) -> None:
        """Refuse what is no address, and no model."""
        parts = urlsplit(self.base_url)
        if parts.scheme not in ("http", "https") or not parts.hostname or parts.query:
            raise ConfigError(
                "base_url must be the address of an OpenAI-compatible endpoint, such as "
                f"http://127.0.0.1:8000/v1; got {self.base_url!r}"
            )
        if parts.username or parts.password:
            raise ConfigError("base_url holds a password; put it into a variable named by key_env")
        if not self.model:
            raise ConfigError("model must name a model of the endpoint, got an empty name")
        whole_number("retries", self.retries, least=0)
        whole_number("max_tokens", self.max_tokens, least=1)
        if not self.timeout > 0 or not self.pause >= 0:
            raise ConfigError("timeout must be above 0 and pause at least 0 seconds")

    def ask(self, system: str, user: str) -> str:
        """What the model answers (temperature 0).

        Raises:
            ConfigError: the endpoint refuses the request (model, address, size).
            BackendUnavailableError: no key, no connection, no chat completion in the answer, or
                busy through all tries.
        """
        body = {
            "model": self.model,
            "messages": [
                {"role": "system", "content": system},
                {"role": "user", "content": user},
            ],
            "temperature": 0,
            "max_tokens": self.max_tokens,
        }
        problem, wait = "", 0.0
        for turn in range(self.retries + 1):
            if turn:
                time.sleep(min(wait or self.pause * 2 ** (turn - 1), _LONGEST_WAIT))
            try:
                return _content(self._post(body), self.base_url)
            except HTTPError as error:
                problem, wait = self._refused(error), _retry_after(error)
            except (URLError, TimeoutError, ConnectionError, HTTPException) as error:
                problem, wait = f"no answer: {getattr(error, 'reason', error)}", 0.0
        raise BackendUnavailableError(
            f"{self.base_url} failed {self.retries + 1} times, last with: {problem}. Check that it "
            "is running and not overloaded; --base-url names it"
        )

    def _post(self, body: dict[str, Any]) -> bytes:
        headers = {"Content-Type": "application/json", "User-Agent": "lensbench"}
        if self.key_env:
            headers["Authorization"] = f"Bearer {self._key()}"
        request = Request(
            f"{self.base_url.rstrip('/')}/chat/completions", json.dumps(body).encode(), headers
        )
        handlers: list[Any] = [_NoRedirect()]
        if urlsplit(self.base_url).hostname in _LOCAL:
            handlers.append(ProxyHandler({}))  # a proxy cannot reach this very machine
        with build_opener(*handlers).open(request, timeout=self.timeout) as answer:
            return answer.read(_LONGEST_ANSWER)

    def _key(self) -> str:
        key = os.environ.get(self.key_env, "").strip()
        if not key:
            raise BackendUnavailableError(
                f"the environment variable {self.key_env} is not set; export the key of "
                f"{self.base_url} there, or leave out key_env where no key is needed"
            )
        if not (key.isascii() and key.isprintable()):
            raise BackendUnavailableError(
                f"the environment variable {self.key_env} holds what cannot be a key (line breaks "
                "or letters outside ASCII)"
            )
        return key

    def _refused(self, error: HTTPError) -> str:
        """The endpoint's words where another try makes sense.

        Raises:
            ConfigError, BackendUnavailableError: where it does not.
        """
        said = error.read(2000).decode("utf-8", "replace").strip()
        if self.key_env:
            said = said.replace(self._key(), "***")
        words = f"{error.code} {' '.join(said.split())[:300] or error.reason}"
        if error.code in _AGAIN:
            return words
        if error.code in (401, 403):
            how = (
                f"the key in {self.key_env}"
                if self.key_env
                else "key_env (--key-env): it wants a key"
            )
            raise BackendUnavailableError(f"{self.base_url} refused us ({words}). Check {how}")
        if 300 <= error.code < 400:
            raise ConfigError(
                f"{self.base_url} redirects ({error.code}); give the address it redirects to"
            )
        raise ConfigError(
            f"{self.base_url} refused the request ({words}). Check base_url (it usually ends in "
            f"/v1) and the model, {self.model!r}"
        )


def _retry_after(error: HTTPError) -> float:
    said = error.headers.get("Retry-After", "")
    return float(said) if said.replace(".", "", 1).isdigit() else 0.0


def _content(raw: bytes, where: str) -> str:
    try:
        content = json.loads(raw)["choices"][0]["message"]["content"]
    except (ValueError, LookupError, TypeError):
        content = None
    if not isinstance(content, str):
        start = raw[:120].decode("utf-8", "replace")
        raise BackendUnavailableError(
            f"{where} answered, but not with a chat completion: {start!r}. It must speak OpenAI's "
            "protocol; base_url usually ends in /v1"
        )
    return content
