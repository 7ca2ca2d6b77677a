"""A headless Chromium driven over its debugging port, without any other package.

Only what the tests and the benchmark need: open an address, run JavaScript, wait for a condition,
take a picture, and list every address that was asked for.

Three waits, and when each is right. ``says`` and ``idle`` are for reading what is on the page: they
wait until the page is *settled*, so that what is read next is not half drawn. ``wait`` takes the
first moment at which a condition holds, whatever the page does meanwhile: for addresses, and for
pages that go on by themselves.
"""

import base64
import json
import shutil
import subprocess
import time
import urllib.request
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from streamlit.proto.BackMsg_pb2 import BackMsg
from streamlit.proto.ForwardMsg_pb2 import ForwardMsg
from websockets.sync.client import connect

FLAGS = (
    "--headless=new --no-sandbox --disable-gpu --disable-quic --no-first-run --hide-scrollbars "
    "--disable-background-networking --disable-component-update --disable-sync "
    "--disable-dev-shm-usage --remote-debugging-port=0 --window-size=1360,1000"
).split()
IDLE = (
    "(() => { const app = document.querySelector('[data-testid=stApp]');"
    " return !!app && app.dataset.testScriptState === 'notRunning'"
    " && !document.querySelector('[data-stale=true]')"
    " && ![...document.querySelectorAll('[data-testid=stSkeleton]')]"
    "    .some(waiting => waiting.checkVisibility())"
    " && [...document.querySelectorAll('[data-testid=stPlotlyChart]')]"
    "    .every(chart => !chart.checkVisibility() || chart.querySelector('.main-svg'))"
    " && [...document.querySelectorAll('[data-testid=stDataFrame]')]"
    "    .every(table => !table.checkVisibility() || table.querySelector('canvas')); })()"
)
"""The page's script has ended, figures and tables in sight are drawn, nothing is waiting."""
EARLY = ForwardMsg.ScriptFinishedStatus.FINISHED_EARLY_FOR_RERUN


def find() -> str | None:
    """Path of a Chromium, or None."""
    return shutil.which("chromium") or shutil.which("chromium-browser")


class Chrome:
    """One tab of a headless browser; ``with Chrome(folder) as tab: ...``."""

    def __init__(self, folder: Path, *, dark: bool = False, quiet: float = 0.1) -> None:
        """``quiet``: seconds that a page has to stay as it is before it counts as settled."""
        self.asked: list[str] = []
        self._folder, self._dark, self._number = folder, dark, 0
        self._quiet, self._owed = quiet, False

    def __enter__(self) -> "Chrome":
        command = [str(find()), *FLAGS, f"--user-data-dir={self._folder}", "about:blank"]
        self._stack = ExitStack()
        quiet = dict.fromkeys(("stdin", "stdout", "stderr"), subprocess.DEVNULL)
        process = self._stack.enter_context(subprocess.Popen(command, **quiet))
        self._stack.callback(process.terminate)
        try:
            self._begin()
        except BaseException:
            self._stack.close()
            raise
        return self

    def _begin(self) -> None:
        path = self._folder / "DevToolsActivePort"
        _until(lambda: path.is_file() and len(path.read_text().split()) == 2, 30, "the browser")
        port = path.read_text().split()[0]
        with urllib.request.urlopen(f"http://127.0.0.1:{port}/json") as answer:
            tabs = json.load(answer)
        url = next(tab["webSocketDebuggerUrl"] for tab in tabs if tab["type"] == "page")
        self._socket = self._stack.enter_context(connect(url, max_size=None, ping_interval=None))
        for domain in ("Page", "Network", "Runtime"):
            self.send(f"{domain}.enable")
        scheme = {"name": "prefers-color-scheme", "value": "dark" if self._dark else "light"}
        self.send("Emulation.setEmulatedMedia", features=[scheme])

    def __exit__(self, *_: object) -> None:
        self._stack.close()

    def send(self, method: str, **params: Any) -> dict[str, Any]:
        """One command of the debugging protocol and its answer; requests on the way are noted."""
        self._number += 1
        self._socket.send(json.dumps({"id": self._number, "method": method, "params": params}))
        while True:
            told = json.loads(self._socket.recv(timeout=60))
            self._note(told.get("method", ""), told.get("params", {}))
            if told.get("id") == self._number:
                assert "error" not in told, told
                return told["result"]

    def _note(self, event: str, params: dict[str, Any]) -> None:
        """Keep what was asked for, and whether the server still owes the page a run of its script.

        A click is sent some time before the page learns that its script runs; whoever looks at the
        page alone takes what is about to be drawn again for what was asked for.
        """
        if event == "Network.requestWillBeSent":
            self.asked.append(params["request"]["url"])
        elif event == "Network.webSocketCreated":
            self.asked.append(params["url"])
            self._owed = False  # a page opened anew
        elif event == "Network.webSocketFrameSent":
            asked = _read(BackMsg, params)
            self._owed |= asked.HasField("rerun_script") and not asked.rerun_script.is_auto_rerun
        elif event == "Network.webSocketFrameReceived" and self._owed:
            told = _read(ForwardMsg, params)
            if told.HasField("script_finished") and told.script_finished != EARLY:
                self._owed = False

    def js(self, expression: str) -> Any:
        """Value of a JavaScript expression on the page; of a promise, what it comes to."""
        answer = self.send("Runtime.evaluate", expression=expression, returnByValue=True,
                           awaitPromise=True)  # fmt: skip
        assert "exceptionDetails" not in answer, answer
        return answer["result"].get("value")

    def open(self, url: str, *, timeout: float = 60, live: bool = False) -> None:
        """Go to ``url`` and wait until its page is settled, unless it goes on by itself."""
        self.send("Page.navigate", url=url)
        if not live:
            self.idle(timeout)

    def idle(self, timeout: float = 60) -> None:
        """Wait until the page is settled: see ``settled``."""
        self.settled("true", timeout)

    def settled(self, condition: str, timeout: float = 60) -> None:
        """Wait until a JavaScript condition holds of a page that is drawn and stays so.

        Whatever was clicked or typed has been answered, the script has ended, figures and tables
        are drawn; and all of that for a moment, in which a page that goes on would have gone on.
        """
        since = 0.0

        def stays() -> bool:
            nonlocal since
            if not self.js(f"{IDLE} && !!({condition})") or self._owed:
                since = 0.0
                return False
            since = since or time.monotonic()
            return time.monotonic() - since >= self._quiet

        _until(stays, timeout, f"a settled page with {condition}", self._middle)

    def wait(self, condition: str, timeout: float = 60) -> None:
        """Wait until a JavaScript condition holds; its failure shows what the page says."""
        _until(lambda: self.js(condition), timeout, condition, self._middle)

    def says(self, text: str, timeout: float = 60) -> None:
        """Wait until the page shows ``text`` and is settled."""
        self.settled(f"document.body.innerText.includes({json.dumps(text)})", timeout)

    def text(self) -> str:
        """What the page shows."""
        return str(self.js("document.body ? document.body.innerText : ''"))

    def _middle(self) -> str:
        """What a page shows beside its menu, which is the same on all."""
        main = "(document.querySelector('[data-testid=stMain]') ?? document.body)"
        return str(self.js(f"{main}?.innerText ?? ''"))

    def click(self, text: str, role: str = "button") -> None:
        """Click the element of ``role`` that says ``text``."""
        wanted = json.dumps(text)
        where = json.dumps(role if role.startswith("[") else f"{role}, [role={role}]")
        script = (
            f"(() => {{ const all = [...document.querySelectorAll({where})];"
            f" const one = all.find(e => e.innerText.trim() === {wanted});"
            " if (!one) return false; one.scrollIntoView({block: 'center'}); one.click();"
            " return true; })()"
        )
        self.wait(script, 30)

    def type(self, key: str, text: str) -> None:
        """Put ``text`` into the field of the widget ``key``, as a keyboard would."""
        where = json.dumps(f".st-key-{key} input, .st-key-{key} textarea")
        self.settled(f"!!document.querySelector({where})")
        self.js(
            f"(() => {{ const f = document.querySelector({where}); f.focus(); f.select(); }})()"
        )
        self.send("Input.insertText", text=text)
        for kind in ("keyDown", "keyUp"):
            self.send("Input.dispatchKeyEvent", type=kind, key="Tab", code="Tab",
                      windowsVirtualKeyCode=9)  # fmt: skip

    def picture(self, path: Path, *, width: int = 1360, height: int = 0) -> None:
        """The page from top to bottom (or its upper ``height``) as a PNG."""
        inner = "[data-testid=stMainBlockContainer]"
        tall = height or int(self.js(f"document.querySelector('{inner}').scrollHeight + 20"))
        self.send("Emulation.setDeviceMetricsOverride", width=width, height=tall,
                  deviceScaleFactor=1, mobile=False)  # fmt: skip
        time.sleep(1.5)  # figures take their new size
        shot = self.send("Page.captureScreenshot", format="png")
        path.write_bytes(base64.b64decode(shot["data"]))


def _read(kind: Any, params: dict[str, Any]) -> Any:
    """A message of Streamlit's, as it passed; an empty one where the frame is none."""
    frame = params["response"]
    return (
        kind.FromString(base64.b64decode(frame["payloadData"])) if frame["opcode"] == 2 else kind()
    )


def _until(condition: Any, timeout: float, what: str, said: Any = None) -> None:
    deadline = time.monotonic() + timeout
    while not condition():
        if time.monotonic() > deadline:
            shown = f"; the page says:\n{said()}" if said is not None else ""
            raise AssertionError(f"waited {timeout} s for {what}{shown}")
        time.sleep(0.02)
