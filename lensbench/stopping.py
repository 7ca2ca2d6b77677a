"""Stop between two steps: Ctrl-C and SIGTERM become a flag that a loop reads."""

import signal
import threading
from collections.abc import Callable, Generator
from contextlib import contextmanager
from types import FrameType


@contextmanager
def stop_requested() -> Generator[Callable[[], bool], None, None]:
    """Turn Ctrl-C and SIGTERM into a flag, so that no step and no write is cut in two.

    A second Ctrl-C interrupts at once. Outside the main thread signals cannot be caught, and the
    flag stays False.
    """
    asked: list[int] = []
    if threading.current_thread() is not threading.main_thread():
        yield lambda: False
        return

    def ask(number: int, _frame: FrameType | None) -> None:
        if asked and number == signal.SIGINT:
            raise KeyboardInterrupt
        asked.append(number)

    before = {s: signal.signal(s, ask) for s in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield lambda: bool(asked)
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
