"""The process that tries grammars, at the other end of two pipes: `python -m serving.grammars.compiler`."""

from __future__ import annotations

import os
import select
import signal
import subprocess
import sys
import threading
import time

import orjson

from serving.engine.constraints import GrammarRefused, GrammarVocabulary

from .source import GrammarSource

MAX_CPU_S = 2.0
"""For one source, what is said about it included."""
MAX_WAIT_S = 20.0
"""By the clock, for a process that begins, on a machine that is busy."""
READ_BYTES = 1 << 16


class CompilerProcess:
    """Used by one thread. One that died is followed by another."""

    def __init__(self, vocabulary: GrammarVocabulary, max_cpu_s: float = MAX_CPU_S) -> None:
        self._command = [
            sys.executable,
            "-m",
            "serving.grammars.compiler",
            str(max_cpu_s),
            str(vocabulary.tokenizer_file),
            *map(str, (vocabulary.size, *vocabulary.stop_ids)),
        ]
        self._max_cpu_s = max_cpu_s
        self._is_closed = False
        self._lock = threading.Lock()
        self._process = self._start()

    def grammar(self, source: GrammarSource) -> str:
        """What llguidance compiles, for it has been tried. Raises `GrammarRefused`."""
        process = self._process
        asked = {"kind": source.kind, "text": source.text, "is_ours": source.is_ours}
        answer = self._ask(process, orjson.dumps(asked))
        if answer is None:
            self._end(process)
            with self._lock:
                if not self._is_closed:
                    self._process = self._start()
            raise GrammarRefused(self._why_it_died(process.returncode))
        told = orjson.loads(answer)
        if "refused" in told:
            raise GrammarRefused(told["refused"])
        grammar: str = told["grammar"]
        return grammar

    def close(self) -> None:
        """On any thread."""
        with self._lock:
            self._is_closed = True
        self._end(self._process)

    def _start(self) -> subprocess.Popen[bytes]:
        # It ends when it reads that its stdin has ended, or a little later by its timer.
        return subprocess.Popen(
            self._command,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            bufsize=0,
        )

    def _end(self, process: subprocess.Popen[bytes]) -> None:
        process.kill()
        process.wait()
        for pipe in (process.stdin, process.stdout):
            if pipe is not None:
                pipe.close()

    def _ask(self, process: subprocess.Popen[bytes], asked: bytes) -> bytes | None:
        """The answer; None if there will be none."""
        assert process.stdin is not None
        assert process.stdout is not None
        until_s = time.monotonic() + MAX_WAIT_S
        answer = b""
        # Not select, which knows no descriptor beyond 1023: a server of many connections has more.
        poll = select.poll()
        poll.register(process.stdout, select.POLLIN)
        try:
            left = memoryview(asked + b"\n")
            while left:
                left = left[process.stdin.write(left) or 0 :]
            while not answer.endswith(b"\n"):
                left_s = max(until_s - time.monotonic(), 0)
                is_there = poll.poll(left_s * 1000)
                read = os.read(process.stdout.fileno(), READ_BYTES) if is_there else b""
                if not read:
                    return None
                answer += read
        except (OSError, ValueError):
            return None
        return answer

    def _why_it_died(self, status: int) -> str:
        if status == -signal.SIGPROF:
            return f"it takes more than {self._max_cpu_s:g} s to compile"
        return "it is nested too deep, or takes too much time or memory, to be compiled"
