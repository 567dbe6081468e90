"""Kill a judging command with signal 9 while its server is slow, many times, and see that it asks nothing twice."""

from __future__ import annotations

import json
import random
import time
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from tests.conftest import Cli, launch, wait_until
from tests.fake_server import FakeServer

N_AT_ONCE = 2  # calls in flight: what a kill loses, and no more


def kill_and_finish(
    cli: Cli, server: FakeServer, line: Sequence[object], kept: str, n_kills: int, most_answered: int = 3
) -> dict[str, Any]:
    """Start a command and kill it `n_kills` times, then let it end, and return the JSON that it prints.

    A killed process gets at most `most_answered` replies, so the command needs more than `n_kills * most_answered`
    calls. `kept` is the glob of the file of its judgements, from the working directory.
    """
    line = [*line, "--json", "--set=llm.max_tries=1", "--concurrency", N_AT_ONCE]
    dice, fault = random.Random(7), server.fault
    server.calls.clear()
    server.latency_s = 0.02
    for _ in range(n_kills):
        known, n_before = on_disk(kept), len(server.calls)
        _kill(server, line, dice.randrange(most_answered), most_answered, dice.uniform(0, 0.1))
        _check_asked(server, n_before, known)
    server.fault, server.latency_s = fault, 0.0
    known, n_before = on_disk(kept), len(server.calls)
    done = cli(*line)
    assert done.code == 0, done.err
    last = _check_asked(server, n_before, known)
    assert known and last, "the kills came before the first reply, or after the last one"
    assert len(on_disk(kept)) == len(known) + len(last)
    assert len(server.calls) <= len(on_disk(kept)) + n_kills * N_AT_ONCE
    said: dict[str, Any] = json.loads(done.out)
    return said


def on_disk(kept: str) -> set[str]:
    """Return what was asked for the judgements in the file, each of which is there once."""
    lines = [each for path in Path().glob(kept) for each in path.read_bytes().splitlines(keepends=True)]
    asked = [json.loads(each)["messages"][-1]["content"] for each in lines if each.endswith(b"\n")]
    assert len(set(asked)) == len(asked)
    return set(asked)


def _kill(server: FakeServer, line: Sequence[object], n_calls: int, most_answered: int, later_s: float) -> None:
    """Kill the command this long after its server has got more than `n_calls`; it answers at most `most_answered`."""
    n_before = len(server.calls)
    server.fault = lambda n, body: "hang" if n > n_before + most_answered else None
    process = launch(*line)
    wait_until(lambda: len(server.calls) > n_before + n_calls, process)
    time.sleep(later_s)
    assert process.poll() is None, "it ended before it was killed"
    process.kill()
    process.communicate()
    time.sleep(0.05)  # what it had sent arrives


def _check_asked(server: FakeServer, n_before: int, known: set[str]) -> set[str]:
    """Return what a process has asked; nothing of it twice, and nothing that was on disk before."""
    asked = Counter(str(body["messages"][-1]["content"]) for body in server.calls[n_before:])
    assert not asked.keys() & known and set(asked.values()) <= {1}
    return set(asked)
