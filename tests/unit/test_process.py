"""A process that a status names: there, gone, another one, of another machine."""

import os
import signal
import subprocess
import sys

from lensbench import process


def test_this_process_is_there() -> None:
    told = process.of_this()
    assert told["pid"] == os.getpid()
    assert not process.has_ended(told)


def test_a_killed_one_is_gone_at_once_even_before_anybody_waited_for_it() -> None:
    child = subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE)
    told = {"pid": child.pid, "birth": process.birth(child.pid), "host": process.host()}
    assert not process.has_ended(told)
    os.kill(child.pid, signal.SIGKILL)
    os.waitid(os.P_PID, child.pid, os.WEXITED | os.WNOWAIT)  # ended, and not yet waited for
    assert process.has_ended(told)
    child.communicate()
    assert process.has_ended(told)


def test_nothing_is_certain_of_another_machine_or_an_old_status() -> None:
    gone = {"pid": 2**22 + 1, "birth": 1, "host": process.host()}
    assert process.has_ended(gone)
    assert not process.has_ended({**gone, "host": "elsewhere"})
    assert not process.has_ended({"pid": gone["pid"]})
    assert not process.has_ended({**gone, "birth": None})


def test_an_id_that_is_used_again_is_another_process() -> None:
    told = process.of_this()
    assert process.has_ended({**told, "birth": told["birth"] - 1})
