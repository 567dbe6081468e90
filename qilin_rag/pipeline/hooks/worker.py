"""The process of a hook: `python -m qilin_rag.pipeline.hooks.worker FOLDER` reads a request there, and answers there.

A process can be stopped, so that nothing a tracker does (threads, banners, `sys.exit`, a hang) reaches the run.
"""

from __future__ import annotations

import json
import os
import sys
import threading
from pathlib import Path

from qilin_rag.core.errors import QilinError
from qilin_rag.core.files import replace_text
from qilin_rag.core.plugins import one_line
from qilin_rag.core.registry import HOOKS
from qilin_rag.pipeline.hooks.base import Hook
from qilin_rag.pipeline.hooks.calling import ANSWER, REQUEST
from qilin_rag.pipeline.hooks.ids import is_id
from qilin_rag.pipeline.hooks.record import read_tracked

_GRACE_S = 5.0


def main() -> None:
    """Call the hook, write what it returned or raised, and end at once, whatever threads it has started."""
    folder = Path(sys.argv[1])
    request = json.loads((folder / REQUEST).read_text(encoding="utf-8"))
    hook: Hook = HOOKS.create(request["hook"], {})
    limit = threading.Timer(hook.timeout_s + _GRACE_S, os._exit, (1,))  # if nobody is left who would end it
    limit.daemon = True
    limit.start()
    try:
        run = read_tracked(Path(request["path"]), request["tracked_as"])
        reason = request["reason"]
        id = hook.ended(run) if reason is None else hook.failed(run, reason)
        if id is not None and not (isinstance(id, str) and is_id(id)):
            raise ValueError(f"{id!r} can't be kept as the id of a run")
        answer = {"id": id}
    except BaseException as error:  # sys.exit as well
        line = one_line(error)
        answer = {"error": line.partition(": ")[2] if isinstance(error, QilinError) else line}
    replace_text(folder / ANSWER, json.dumps(answer))
    for stream in (sys.stdout, sys.stderr):
        stream.flush()
    os._exit(0)


if __name__ == "__main__":
    main()
