"""The control plane starts in a moment and fits a small machine, because it loads no model library."""

from __future__ import annotations

import subprocess
import sys

import pytest


@pytest.mark.parametrize(
    "module",
    [
        "api.app",
        "worker.tasks",
        "errands.tasks",
        "embedded.stack",
        "storage.queue",
        "training.messages",
        "luthier.cli",
    ],
)
def test_importing_the_control_plane_loads_no_torch(module: str) -> None:
    script = (
        f"import sys, {module}\n"
        "heavy = {'torch', 'transformers', 'peft'} & set(sys.modules)\n"
        "sys.exit(f'imports {heavy}' if heavy else 0)"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
