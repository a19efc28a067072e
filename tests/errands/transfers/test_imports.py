"""Imports from the client's directory to a model."""

from __future__ import annotations

import re

import openai
import pytest

from luthier import TransferFailed
from modeling.artifacts import lora
from modeling.transfers.merged import base_config
from storage import queue
from storage.models import models
from tests.errands.transfers.scene import TransferScene, adapter


@pytest.mark.slow
def test_an_adapter_becomes_a_model_that_is_downloaded_and_trained_from(
    scene: TransferScene,
) -> None:
    folder = adapter(scene.base, scene.folder / "theirs")
    command = ["models", "import", str(folder), "--base", "tiny-random", "--suffix", "theirs"]
    with scene.working():
        done = scene.command(*command, "--name", "a-friend-s")
    assert done.exit_code == 0, done.output
    (name,) = re.findall("Model: (.+)", done.stdout)
    assert name.startswith("ft:tiny-random:acme:theirs:")
    with scene.client() as client:
        assert client.models.retrieve("a-friend-s").owned_by == "acme"
        client.adapters.download(name, scene.folder / "mine")
        assert list(client.files.list()) == []
        file = client.files.create(
            file=("rows.jsonl", b'{"prompt": "a", "completion": "b"}\n' * 10), purpose="fine-tune"
        )
        job = client.fine_tuning.jobs.create(model=name, training_file=file.id)
        assert job.model == name
        client.fine_tuning.jobs.cancel(job.id)
    config = base_config(scene.base)
    theirs, mine = (
        lora.read(scene.folder / each, config).manifest() for each in ("theirs", "mine")
    )
    assert mine["tensors"] == theirs["tensors"]
    with scene.api.sessions() as session:
        found = models.find(session, scene.tenant.project_id, name)
    assert found is not None
    assert found[1].spec["rank"] == 4
    with scene.client() as client:
        export = client.exports.create(name, "peft")
        scene.run(export.id)
        client.exports.download(export.id, scene.folder / "exported")
    assert "elsewhere, and imported" in (scene.folder / "exported" / "README.md").read_text()


@pytest.mark.slow
def test_an_adapter_that_cannot_be_applied_is_refused_with_the_reason(scene: TransferScene) -> None:
    folder = adapter(scene.base, scene.folder / "theirs")
    config = folder / "adapter_config.json"
    config.write_text(config.read_text().replace('"use_dora": false', '"use_dora": true'))
    with (
        scene.working(),
        scene.client() as client,
        pytest.raises(TransferFailed, match="use_dora=True"),
    ):
        client.imports.upload(folder, "tiny-random")
    with scene.client() as client:
        assert not [model for model in client.models.list() if model.id.startswith("ft:")]


def test_what_is_wrong_before_it_begins(scene: TransferScene) -> None:
    model = scene.model()
    with scene.client() as client:
        with pytest.raises(openai.BadRequestError, match="name the base"):
            client.imports.create("file-x", model.name)
        with pytest.raises(openai.BadRequestError, match="No such File object"):
            client.imports.create("file-x", "tiny-random")
        with pytest.raises(openai.BadRequestError, match="not available"):
            client.imports.create("file-x", "unknown")
        with pytest.raises(FileNotFoundError):
            client.imports.upload(scene.folder / "nothing", "tiny-random")
    assert queue.depth(queue.ERRANDS_QUEUE) == 0
