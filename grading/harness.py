"""What runs inside the sandbox, as `python -c`: the user's `grade(sample, item)`, under limits. Imports nothing of ours.

In: one JSON object on stdin. Out: one on stdout, {"reward": …} or {"error": …}; what the user's code prints
goes nowhere. Everything before `_run` is ours, so the limits stand before the user's code does.
"""

from __future__ import annotations

import ast
import json
import linecache
import os
import resource
import sys
import traceback
from typing import Any

FILE_NAME = "grader.py"
MAX_ERROR_CHARS = 2000


def main() -> None:
    request = json.load(sys.stdin.buffer)
    answer = os.fdopen(os.dup(1), "w")
    nothing = os.open(os.devnull, os.O_RDWR)
    for fd in (0, 1, 2):
        os.dup2(nothing, fd)
    for name, limit in request["limits"].items():
        resource.setrlimit(getattr(resource, name), (limit, limit))
    sys.path[:0] = request["paths"]
    try:
        reply = _run(request)
    except BaseException as error:  # Also SystemExit: it is the user's code that ends here.
        reply = {"error": _told(error)}
    answer.write(json.dumps(reply))
    answer.flush()
    os._exit(0)


def _run(request: dict[str, Any]) -> dict[str, Any]:
    source = request["source"]
    linecache.cache[FILE_NAME] = (len(source), None, source.splitlines(keepends=True), FILE_NAME)
    code = compile(source, FILE_NAME, "exec")
    if request["only_check"]:
        return _check(source)
    module: dict[str, Any] = {"__name__": "grader", "__builtins__": __builtins__}
    exec(code, module)
    grade = module.get("grade")
    if not callable(grade):
        return {"error": "The source defines no function grade(sample, item)."}
    reward = grade(request["sample"], request["item"])
    if reward is None or isinstance(reward, str | bytes | bytearray):
        return {"error": f"grade() returned {reward!r:.80}; it must return a number."}
    # Tensors and numpy's numbers, too.
    number = float(reward)
    if number - number != 0:
        return {"error": f"grade() returned {number}; it must return a finite number."}
    return {"reward": number}


def _check(source: str) -> dict[str, Any]:
    """Find out, without running it, whether anything at the top level binds the name `grade`."""
    for node in ast.parse(source).body:
        names = {getattr(node, "name", None)} | {
            getattr(each, "id", None)
            or getattr(each, "asname", None)
            or getattr(each, "name", None)
            for each in ast.walk(node)
            if isinstance(each, ast.Name | ast.alias)
        }
        if "grade" in names:
            return {"reward": 0.0}
    return {"error": "The source defines no function grade(sample, item)."}


def _told(error: BaseException) -> str:
    """The traceback within the user's code."""
    trace = error.__traceback__
    while trace is not None and trace.tb_frame.f_code.co_filename != FILE_NAME:
        trace = trace.tb_next
    text = "".join(traceback.format_exception(type(error), error, trace, limit=20))
    return text.strip()[-MAX_ERROR_CHARS:]


if __name__ == "__main__":
    main()
