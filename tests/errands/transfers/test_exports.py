"""Exports from the client's request to the directory that it writes."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import openai
import pytest
import torch
from peft import PeftModel
from transformers import AutoModelForCausalLM

from errands import attempts
from errands.transfers import process, run
from foundation.crash_points import ENV
from luthier import ManifestError, TransferFailed
from luthier.manifests import verify
from storage import leases
from storage.models.transfers import TransferRow
from tests import servers
from tests.errands.transfers.scene import TransferScene

IDS = torch.arange(20)[None]


def exported(scene: TransferScene, format: str, quantization: str | None = None) -> Path:
    """The directory that the client makes of a new export."""
    folder = scene.folder / f"{format}-{quantization}"
    with scene.client() as client:
        made = client.exports.create(scene.model().name, format, quantization)  # type: ignore[arg-type]
        scene.run(made.id)
        done = client.exports.wait(made.id)
        client.exports.download(made.id, folder)
    assert (done.progress, done.error) == (1.0, None)
    assert {file.name for file in done.files or ()} == {file.name for file in folder.iterdir()}
    return folder


def logits(model: Any) -> torch.Tensor:
    with torch.no_grad():
        found: torch.Tensor = model(IDS).logits
    return found


def tuned(scene: TransferScene) -> torch.Tensor:
    """What PEFT makes of base and adapter."""
    base = AutoModelForCausalLM.from_pretrained(scene.base)
    return logits(PeftModel.from_pretrained(base, scene.folder / "adapter"))


def test_an_adapter_comes_with_card_and_manifest_and_loads_in_peft(scene: TransferScene) -> None:
    folder = exported(scene, "peft")
    base = AutoModelForCausalLM.from_pretrained(scene.base)
    assert torch.equal(logits(PeftModel.from_pretrained(base, folder)), tuned(scene))
    card = (folder / "README.md").read_text()
    assert 'license: "apache-2.0"' in card
    assert 'base_model: "tiny-random"' in card
    assert json.loads((folder / "manifest.json").read_text())["artifact"]["kind"] == "lora"


@pytest.mark.slow
def test_a_merged_model_is_made_by_the_process_that_knows_models(scene: TransferScene) -> None:
    folder = exported(scene, "gguf", "q8_0")
    name = "model-q8_0.gguf"
    model = AutoModelForCausalLM.from_pretrained(folder, gguf_file=name, dtype=torch.float32)
    torch.testing.assert_close(logits(model), tuned(scene), atol=0.3, rtol=0.02)


def test_what_was_changed_or_signed_by_others_is_found(scene: TransferScene) -> None:
    folder = exported(scene, "peft")
    with scene.client() as client:
        key = client.exports.signing_key()
    assert verify(folder, key).num_files == 3
    with pytest.raises(ManifestError, match="another key"):
        verify(folder, "A" * 43 + "=")
    manifest = folder / "manifest.json"
    whole = manifest.read_bytes()
    manifest.write_bytes(whole.replace(b"apache-2.0", b"apache-2.1"))
    with pytest.raises(ManifestError, match=r"manifest\.json was changed"):
        verify(folder, key)
    manifest.write_bytes(whole)
    (folder / "more").write_bytes(b"")
    with pytest.raises(ManifestError, match="more is in no line"):
        verify(folder, key)
    (folder / "more").unlink()
    weights = folder / "adapter_model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-1] + b"x")
    with pytest.raises(ManifestError, match=r"adapter_model\.safetensors is not the file"):
        verify(folder, key)
    weights.unlink()
    with pytest.raises(ManifestError, match="is missing"):
        verify(folder, key)


@pytest.mark.parametrize(
    ("kind", "format", "quantization", "param"),
    [
        ("prefix", "safetensors", None, "format"),
        ("prefix", "gguf", None, "format"),
        ("full", "peft", None, "format"),
        ("lora", "safetensors", "f16", "quantization"),
    ],
)
def test_a_form_that_the_model_does_not_have_is_refused(
    scene: TransferScene, kind: str, format: str, quantization: str | None, param: str
) -> None:
    model = scene.model(kind)
    with scene.client() as client, pytest.raises(openai.BadRequestError) as refused:
        client.exports.create(model.name, format, quantization)  # type: ignore[arg-type]
    assert refused.value.param == param


def test_the_command_exports_and_verifies(scene: TransferScene) -> None:
    model, output = scene.model().name, scene.folder / "exported"
    with scene.working():
        done = scene.command("export", model, "-o", str(output))
    assert done.exit_code == 0, done.output
    assert done.stdout.endswith(f"Wrote {output}\n")
    assert "Created export-" in done.stderr
    with scene.client() as client:
        assert list(client.exports.list()) == []
    verified = scene.command("verify", str(output))
    assert f"{model} as peft: 3 files" in verified.stdout
    (output / "README.md").write_text("Better than it is")
    refused = scene.command("verify", str(output))
    assert refused.exit_code == 1
    assert refused.stderr == "Error: README.md is not the file that was exported\n"
    again = scene.command("export", model, "-o", str(output))
    assert (again.exit_code, again.stderr) == (1, f"Error: {output} exists already\n")


def test_only_the_owner_exports(scene: TransferScene) -> None:
    model = scene.model()
    with scene.client() as client:
        made = client.exports.create(model.name, "peft")
    scene.tenant = scene.api.tenant()
    with scene.client() as client:
        with pytest.raises(openai.NotFoundError):
            client.exports.create(model.name, "peft")
        with pytest.raises(openai.NotFoundError):
            client.exports.retrieve(made.id)
        with pytest.raises(openai.NotFoundError):
            client.exports.delete(made.id)
        assert list(client.exports.list()) == []


def test_files_go_with_the_export_and_with_the_model(scene: TransferScene) -> None:
    before = len(scene.keys())
    model = scene.model()
    with scene.client() as client:
        ids = [client.exports.create(model.name, "peft").id for _ in range(2)]
        for export_id in ids:
            scene.run(export_id)
        assert len(scene.keys()) == before + 2
        client.exports.delete(ids[0])
        assert len(scene.keys()) == before + 1
        client.models.delete(model.name)
    assert len(scene.keys()) == before
    assert scene.row(ids[1]) is None


def test_a_cancelled_export_leaves_no_process_and_no_files(
    scene: TransferScene, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = scene.keys()
    with scene.client() as client:
        made = client.exports.create(scene.model().name, "gguf")

        def cancel(command: object, **options: object) -> subprocess.Popen[bytes]:
            client.exports.cancel(made.id)
            return real(command, **options)  # type: ignore[call-overload, no-any-return]

        real = subprocess.Popen
        monkeypatch.setattr(subprocess, "Popen", cancel)
        scene.run(made.id)
        with pytest.raises(TransferFailed, match="cancelled"):
            client.exports.wait(made.id)
    assert scene.keys() == before


@pytest.mark.slow
def test_a_full_disk_is_told(scene: TransferScene, monkeypatch: pytest.MonkeyPatch) -> None:
    """The process may write a kilobyte a file."""
    program = (
        "import resource, signal, sys; signal.signal(signal.SIGXFSZ, signal.SIG_IGN);"
        "from modeling.transfers.__main__ import main;"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (1024, 1024));"
        "sys.exit(main(sys.argv[1]))"
    )
    monkeypatch.setattr(process, "COMMAND", (sys.executable, "-c", program))
    with scene.client() as client:
        for format in ("gguf", "safetensors"):
            made = client.exports.create(scene.model().name, format)
            scene.run(made.id)
            row = scene.row(made.id)
            assert row is not None
            assert row.status == "failed"
            with pytest.raises(TransferFailed, match="disk is full"):
                client.exports.wait(made.id)


@pytest.mark.parametrize(
    "program", ["import os; os.abort()", "import time; print('Hm', flush=True); time.sleep(60)"]
)
def test_a_process_that_dies_or_speaks_nonsense_is_tried_again_and_then_given_up(
    scene: TransferScene, monkeypatch: pytest.MonkeyPatch, program: str
) -> None:
    monkeypatch.setattr(process, "COMMAND", (sys.executable, "-c", program))
    monkeypatch.setattr(run, "TRANSFER", replace(run.TRANSFER, crash_retry_s=0))
    errands = scene.errands()
    with scene.client() as client:
        made = client.exports.create(scene.model().name, "gguf")
        for _ in range(attempts.MAX_CRASHES):
            scene.run(made.id, errands)
            row = scene.row(made.id)
            assert row is not None
            assert row.status == "running"
        scene.run(made.id, errands)
        with pytest.raises(TransferFailed, match="given up after 3 failures"):
            client.exports.wait(made.id)


@pytest.mark.slow
@pytest.mark.parametrize("point", run.CRASH_POINTS)
def test_killed_anywhere_it_comes_out_the_same(scene: TransferScene, point: str) -> None:
    with scene.client() as client:
        made = client.exports.create(scene.model().name, "peft")
        program = (
            "import sys; from errands.errands import Errands; from errands.transfers import run;"
            "from foundation.settings import Settings; from storage import queue;"
            "settings = Settings.from_env(); queue.app.conf.broker_url = settings.broker_url;"
            "run.run(Errands(settings), sys.argv[1])"
        )
        settings = scene.api.settings
        env = servers.environment(settings) | {
            ENV: point,
            "LUTHIER_BASES_DIR": str(settings.bases_dir),
            "LUTHIER_API_URL": settings.api_url,
            "LUTHIER_INTERNAL_KEY": settings.internal_key,
        }
        done = subprocess.run([sys.executable, "-c", program, made.id], env={**os.environ, **env})
        assert done.returncode == 137
        errands = scene.errands()
        with errands.folder.dead() as names, scene.api.sessions.begin() as session:
            leases.expire(session, TransferRow, names)
        scene.run(made.id, errands)
        first = client.exports.wait(made.id)
        again = client.exports.create(first.model, "peft")
        scene.run(again.id, errands)
        second = client.exports.wait(again.id)
        client.exports.download(made.id, scene.folder / "killed")
    weights = "adapter_model.safetensors"
    hashes = [{f.name: f.sha256 for f in each.files or ()}[weights] for each in (first, second)]
    assert hashes[0] == hashes[1]
