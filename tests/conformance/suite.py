"""OpenAI's own test suite: `openai` publishes it in its source distribution, so pip alone brings it here."""

from __future__ import annotations

import hashlib
import os
import shutil
import subprocess
import sys
import tarfile
import tempfile
from pathlib import Path

VERSION = "3.52.0"
SHA256 = "258a4fec3e40b412c58672526ed33f20738c2e4ea27601792e73843af62466af"

ROOT = Path(__file__).parents[2]
CACHE = ROOT / ".cache" / "conformance"
PLUGIN = Path(__file__).with_name("plugin")

RESOURCES = (
    "fine_tuning",
    "test_files.py",
    "test_models.py",
    "test_uploads.py",
    "uploads",
    "test_batches.py",
    "test_completions.py",
    "chat",
    "test_responses.py",
    "responses",
    "test_conversations.py",
    "conversations",
    "test_moderations.py",
)
"""Of tests/api_resources: what Luthier serves."""

DESELECTED = "not complete_with_all_params and not compact"
"""Five tests that complete an upload with the MD5 sum "md5" and expect success: whoever checks the sum
that the client names must refuse it. Those of `/responses/compact`, which is not there."""

# Of the sdist's own configuration, what its tests rely on. Their warnings are theirs.
_CONFIGURATION = """\
[pytest]
asyncio_mode = auto
asyncio_default_fixture_loop_scope = session
addopts = --tb=short --strict-markers -p no:cacheprovider
markers = respx2: configures the mock router
"""


def prepare() -> Path:
    """A folder with the suite's tests, and only those: the client that they test is the installed one."""
    folder = CACHE / VERSION
    if not folder.exists():
        CACHE.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=CACHE) as scratch:
            sdist = downloaded("openai", VERSION, SHA256, Path(scratch))
            unpacked = _unpacked(sdist, Path(scratch))
            (unpacked / "pytest.ini").write_text(_CONFIGURATION)
            unpacked.replace(folder)
    return folder


def command(folder: Path, *arguments: str) -> list[str]:
    """pytest over the suite, one test after another: they share the seeded rows."""
    resources = [str(folder / "tests" / "api_resources" / name) for name in RESOURCES]
    argv = [sys.executable, "-m", "pytest", "-q", "-p", "seeded", "--rootdir", str(folder)]
    return [*argv, "-k", DESELECTED, *arguments, *resources]


def environment(base_url: str, reset_url: str) -> dict[str, str]:
    kept = {name: value for name, value in os.environ.items() if not name.startswith("OPENAI_")}
    return {
        **kept,
        "TEST_API_BASE_URL": base_url,
        "LUTHIER_RESET_URL": reset_url,
        "PYTHONPATH": str(PLUGIN),
        "PYTHONDONTWRITEBYTECODE": "1",
        # Nothing between the client and the server on this machine.
        "NO_PROXY": "127.0.0.1",
    }


def downloaded(package: str, version: str, sha256: str, folder: Path) -> Path:
    """The package's source distribution. Raises CalledProcessError where pip cannot get it."""
    argv = [sys.executable, "-m", "pip", "download", "--quiet", "--disable-pip-version-check"]
    argv += ["--no-deps", "--no-binary", ":all:", "--dest", str(folder), f"{package}=={version}"]
    subprocess.run(argv, check=True)
    sdist = folder / f"{package}-{version}.tar.gz"
    found = hashlib.sha256(sdist.read_bytes()).hexdigest()
    if found != sha256:
        raise SystemExit(f"{sdist.name} has the SHA-256 {found}; expected {sha256}")
    return sdist


def _unpacked(sdist: Path, scratch: Path) -> Path:
    with tarfile.open(sdist) as archive:
        archive.extractall(scratch, filter="data")
    suite = scratch / "suite"
    suite.mkdir()
    shutil.move(scratch / f"openai-{VERSION}" / "tests", suite / "tests")
    return suite
