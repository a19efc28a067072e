"""A release of `openai` in a virtual environment of its own, made when a test first asks for it."""

from __future__ import annotations

import fcntl
import json
import os
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from tests.e2e.stack import Stack

CACHE = Path(__file__).parents[3] / ".cache" / "old_clients"
SCRIPTS = Path(__file__).parent

Said = dict[str, Any]
"""What a script said, by subject."""


def release(version: str) -> Path:
    """The environment's folder. Where pip cannot bring the release, the test is skipped."""
    folder = CACHE / f"openai-{version}-python{sys.version_info.major}.{sys.version_info.minor}"
    CACHE.mkdir(parents=True, exist_ok=True)
    with folder.with_name(f"{folder.name}.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not (folder / "made").exists():
            _make(folder, f"openai=={version}")
            (folder / "made").touch()
    return folder


def say(folder: Path, stack: Stack, script: str, *arguments: str) -> Said:
    """Run a script of this folder; it prints a line of JSON for each thing it has done."""
    text = _run(
        [str(folder / "bin" / "python"), "-I", str(SCRIPTS / script), *arguments],
        {
            "OPENAI_API_KEY": stack.api_key,
            "OPENAI_BASE_URL": stack.base_url,
            "OPENAI_API_BASE": stack.base_url,
        },
    )
    said: Said = {}
    for line in text.splitlines():
        said.update(json.loads(line))
    return said


def command(folder: Path, base_url: str, api_key: str, *arguments: str) -> str:
    """What `openai api ...` prints. It is told the server as users tell it: -b, and a key in the environment."""
    openai = [str(folder / "bin" / "openai"), "-b", base_url, "api"]
    return _run([*openai, *arguments], {"OPENAI_API_KEY": api_key})


def _run(argv: list[str], environment: Mapping[str, str]) -> str:
    kept = {name: value for name, value in os.environ.items() if not name.startswith("OPENAI_")}
    done = subprocess.run(
        argv,
        # Nothing between the client and the server on this machine.
        env={**kept, "NO_PROXY": "127.0.0.1", "no_proxy": "127.0.0.1", **environment},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    if done.returncode:
        error = subprocess.CalledProcessError(
            done.returncode, argv, output=done.stdout, stderr=done.stderr
        )
        error.add_note(f"{done.stdout}\n{done.stderr}"[-4000:])
        raise error
    return done.stdout


def _make(folder: Path, requirement: str) -> None:
    subprocess.run(
        [sys.executable, "-m", "venv", "--clear", "--without-pip", str(folder)], check=True
    )
    pip = [sys.executable, "-m", "pip", "--python", str(folder / "bin" / "python"), "install"]
    pip += ["--quiet", "--disable-pip-version-check", "--only-binary", ":all:", requirement]
    done = subprocess.run(pip, capture_output=True, text=True, check=False)
    if done.returncode:
        reason = (done.stderr.strip() or "it said nothing").splitlines()[-1]
        pytest.skip(f"pip could not install {requirement}: {reason}")
