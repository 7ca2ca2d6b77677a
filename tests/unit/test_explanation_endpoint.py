"""The endpoint explainer and judge, against a server that answers OpenAI's protocol here."""

import json
import threading
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import numpy as np
import pytest

from tests import explanation_worlds as worlds

Answer = tuple[int, dict[str, str], Any]


class Server:
    """Answers chat completions on 127.0.0.1 with what ``reply`` makes of a request."""

    def __init__(self, reply: Callable[[dict[str, Any], int], Answer]) -> None:
        self.seen: list[tuple[str, dict[str, str], dict[str, Any]]] = []
        outer = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
                outer.seen.append((self.path, dict(self.headers), body))
                status, headers, said = reply(body, len(outer.seen))
                raw = said if isinstance(said, bytes) else json.dumps(said).encode()
                self.send_response(status)
                for name, value in headers.items():
                    self.send_header(name, value)
                self.send_header("Content-Length", str(len(raw)))
                self.end_headers()
                self.wfile.write(raw)

            def do_GET(self) -> None:
                outer.seen.append((self.path, dict(self.headers), {}))
                self.send_error(405)

            def log_message(self, *_: Any) -> None: ...

        self._http = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._thread = threading.Thread(target=self._http.serve_forever, args=(0.02,), daemon=True)
        self.url = f"http://127.0.0.1:{self._http.server_port}/v1"

    def __enter__(self) -> "Server":
        self._thread.start()
        return self

    def __exit__(self, *_: Any) -> None:
        self._http.shutdown()
        self._thread.join()
        self._http.server_close()


def says(text: str) -> Answer:
    return 200, {}, {"choices": [{"message": {"role": "assistant", "content": text}}]}


@pytest.fixture
def url() -> Iterator[Callable[..., Server]]:
    opened: list[Server] = []

    def start(reply: Any) -> Server:
        server = Server(reply if callable(reply) else lambda *_: reply).__enter__()
        opened.append(server)
        return server

    yield start
    for server in opened:
        server.__exit__()


def endpoint(server: Server, **changes: Any) -> Any:
    from lensbench import saes

    return saes.Endpoint(server.url, "tester", **({"pause": 0.0, "timeout": 5.0} | changes))


def test_a_question_is_a_chat_completion_with_the_key_of_the_named_variable(
    url: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SOME_KEY", "s3cret")
    monkeypatch.setenv("OPENAI_API_KEY", "never this one")
    monkeypatch.setenv("http_proxy", "http://127.0.0.1:9")  # not used for this very machine
    server = url(says("hello"))
    assert endpoint(server, key_env="SOME_KEY").ask("be brief", "hi") == "hello"
    path, headers, body = server.seen[0]
    assert path == "/v1/chat/completions"
    assert headers["Authorization"] == "Bearer s3cret"
    assert body["model"] == "tester"
    assert [m["role"] for m in body["messages"]] == ["system", "user"]
    assert body["temperature"] == 0
    endpoint(server).ask("a", "b")  # control: without key_env, no key at all
    assert "Authorization" not in server.seen[1][1]


@pytest.mark.parametrize("status", [429, 500, 503])
def test_a_busy_endpoint_is_asked_again_a_bounded_number_of_times(url: Any, status: int) -> None:
    from lensbench.errors import BackendUnavailableError

    busy = (status, {"Retry-After": "0"}, {"error": "later"})
    better = url(lambda _, n: busy if n < 3 else says("at last"))
    assert endpoint(better).ask("a", "b") == "at last"
    assert len(better.seen) == 3
    never = url(busy)
    with pytest.raises(BackendUnavailableError, match=f"3 times, last with: {status}"):
        endpoint(never, retries=2).ask("a", "b")
    assert len(never.seen) == 3


@pytest.mark.parametrize(
    ("answer", "kind", "words"),
    [
        ((401, {}, {"error": "bad s3cret"}), "BackendUnavailableError", "key in SOME_KEY"),
        ((404, {}, {"error": "no such model"}), "ConfigError", "no such model.*'tester'"),
        ((400, {}, b"too long"), "ConfigError", "too long"),
        ((200, {}, b"<html>hello</html>"), "BackendUnavailableError", "not with a chat completion"),
        ((200, {}, {"choices": []}), "BackendUnavailableError", "not with a chat completion"),
        ((307, {"Location": "http://127.0.0.1:1/"}, b""), "ConfigError", "redirects"),
    ],
)
def test_a_refusal_is_told_once_and_never_repeats_the_key(
    url: Any, answer: Answer, kind: str, words: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    from lensbench import errors

    monkeypatch.setenv("SOME_KEY", "s3cret")
    server = url(answer)
    with pytest.raises(getattr(errors, kind), match=words) as told:
        endpoint(server, key_env="SOME_KEY").ask("a", "b")
    assert len(server.seen) == 1
    assert "s3cret" not in str(told.value)


def test_a_redirect_hands_the_key_to_nobody(url: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    from lensbench.errors import ConfigError

    monkeypatch.setenv("SOME_KEY", "s3cret")
    elsewhere = url(says("thanks for the key"))
    for status in (301, 302, 303):
        server = url((status, {"Location": f"{elsewhere.url}/chat/completions"}, b""))
        with pytest.raises(ConfigError, match="redirects"):
            endpoint(server, key_env="SOME_KEY").ask("a", "b")
    assert elsewhere.seen == []


def test_a_missing_key_and_a_silent_address_are_clear(
    url: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    from lensbench import saes
    from lensbench.errors import BackendUnavailableError

    monkeypatch.delenv("SOME_KEY", raising=False)
    server = url(says("hello"))
    with pytest.raises(BackendUnavailableError, match="SOME_KEY is not set"):
        endpoint(server, key_env="SOME_KEY").ask("a", "b")
    assert server.seen == []
    with Server(lambda *_: says("")) as gone:
        dead = gone.url
    with pytest.raises(BackendUnavailableError, match="failed 2 times, last with: no answer"):
        saes.Endpoint(dead, "tester", retries=1, pause=0.0, timeout=5.0).ask("a", "b")


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"base_url": "127.0.0.1:8000"}, "address of an OpenAI-compatible"),
        ({"base_url": "file:///etc/passwd"}, "address of an OpenAI-compatible"),
        ({"base_url": "http://me:pass@host/v1"}, "key_env"),
        ({"model": ""}, "name a model"),
        ({"retries": -1}, "retries"),
        ({"timeout": 0}, "timeout"),
    ],
)
def test_a_bad_endpoint_is_refused_before_anything_is_sent(changes: Any, words: str) -> None:
    from lensbench import saes
    from lensbench.errors import ConfigError

    with pytest.raises(ConfigError, match=words):
        saes.Endpoint(**({"base_url": "http://127.0.0.1:1/v1", "model": "m"} | changes))


def test_answers_are_lists_of_the_right_length_or_no_answers() -> None:
    from lensbench.saes.explanations.asked import parse_answers

    assert parse_answers("[1, 0, 1]", 3) == [True, False, True]
    assert parse_answers("passage [2] is odd, so:\n[0,1]", 2) == [False, True]
    assert parse_answers("```json\n[true, false]\n```", 2) == [True, False]
    for bad in ("[1, 0]", "yes", "[1, 2, 0]", "[1, 0, 1", "[1, 0.5, 0]", '["1", 0, 1]'):
        assert parse_answers(bad, 3) == [None] * 3


def test_marks_go_round_runs_of_tokens_and_leave_spaces_outside() -> None:
    from lensbench.saes.explanations.contexts import Context
    from lensbench.saes.explanations.explainers import marked_text

    fires = np.array([False, True, True, False, True])
    context = Context(np.arange(5), np.arange(5), fires.astype(np.float32), fires, 0, "firing")
    words = worlds.Words("In old France we dance".split())
    assert marked_text(words, context, fires) == "In <<old France>> we <<dance>>"
    assert marked_text(None, context, fires).strip() == "#0 <<#1 #2>> #3 <<#4>>"


def reader(countries: list[str]) -> Any:
    """A stand-in that really reads: names the marked words, and judges by the description."""

    def reply(body: dict[str, Any], _: int) -> Answer:
        system, user = (m["content"] for m in body["messages"])
        lines = [line for line in user.splitlines() if line[:1].isdigit()]
        if "EXPLANATION" in system:
            marked = {p.split(">>")[0] for line in lines for p in line.split("<<")[1:]}
            return says(f"I see.\nEXPLANATION: the words {' '.join(sorted(marked))}")
        named = set(user.splitlines()[0].removeprefix("Description: the words ").split())
        if "<<" in user:
            out = [line.split("<<")[1].split(">>")[0] in named for line in lines]
        else:
            out = [bool(named & set(line.split())) for line in lines]
        assert set(countries) >= named & set(countries)
        return says(f"Here: {json.dumps([int(v) for v in out])}")

    return reply


def test_an_endpoint_explains_and_judges_a_known_latent(url: Any, tmp_path: Any) -> None:
    from lensbench import saes

    _, latents, text = worlds.stores(tmp_path, 300)
    server = url(reader(worlds.commonest(text)))
    words = worlds.Words(text.vocab)
    explainer = saes.EndpointExplainer(endpoint(server), words)
    judge = saes.EndpointJudge(endpoint(server), words)
    config = saes.ContextConfig(least=5, n_score=10)
    chosen = [worlds.OR, worlds.HIDDEN]
    found = saes.explain(latents, chosen, explainer=explainer, judge=judge, config=config)
    for country in worlds.commonest(text):
        assert country in found.texts[0]
    assert found.rules == ([], [])
    assert found.values("explanation", "detection")[0] == 1
    assert found.values("explanation", "fuzzing")[0] == 1
    assert found.values("explanation", "detection")[1] < 0.75  # no word tells
    assert found.values("shuffled", "detection")[0] <= 0.6  # control: the other's description
    assert found.judge == "endpoint tester"
    sent = json.dumps([body for _, _, body in server.seen])
    assert "strength" in sent
    # Judges are asked about at most five passages at a time, and told no strengths.
    asked = [b for _, _, b in server.seen if "Description:" in b["messages"][1]["content"]]
    assert all("strength" not in b["messages"][1]["content"] for b in asked)
    assert all("\n6. " not in b["messages"][1]["content"] for b in asked)


def test_a_model_that_answers_nonsense_scores_nothing_and_says_so(url: Any, tmp_path: Any) -> None:
    from lensbench import saes

    _, latents, _ = worlds.stores(tmp_path, 150)
    judge = saes.EndpointJudge(endpoint(url(says("I would rather not."))))
    config = saes.ContextConfig(least=5, n_score=10)
    found = saes.explain(latents, [worlds.AFTER], judge=judge, config=config)
    frame = found.to_frame()
    assert (frame["unanswered"] == frame["n"]).all()
    assert (frame["balanced_accuracy"] == 0).all()
