"""Exports and imports on a real api, with the real client and the real process that knows models."""

from __future__ import annotations

import io
import tarfile
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import torch
from sqlalchemy import update
from typer.testing import CliRunner, Result

from errands.errands import Errands
from errands.transfers import run as transfer_run
from luthier import Luthier
from luthier.cli import app
from modeling.artifacts import lora
from modeling.transfers.merged import base_config
from storage.models import models, transfers
from storage.models.transfers import TransferRow
from tests.api.stack import Api, Tenant

RANK, ALPHA = 4, 8.0
MODULES = ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj")


def adapter(base: Path, folder: Path, seed: int = 0) -> Path:
    """A LoRA adapter of random numbers for that base, in `folder`."""
    generator = torch.Generator().manual_seed(seed)
    tensors = {}
    for name, (rows, columns) in lora.linear_shapes(base_config(base)).items():
        tensors[lora.peft_name(name, "A")] = torch.randn(RANK, columns, generator=generator) * 0.1
        tensors[lora.peft_name(name, "B")] = torch.randn(rows, RANK, generator=generator) * 0.1
    lora.save(folder, lora.AdapterConfig(RANK, ALPHA, MODULES), tensors)
    return folder


def packed(folder: Path) -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as tar:
        for file in sorted(folder.iterdir()):
            tar.add(file, arcname=file.name)
    return buffer.getvalue()


@dataclass
class TransferScene:
    api: Api
    tenant: Tenant
    base: Path
    folder: Path
    processes: list[Errands] = field(default_factory=list)

    def errands(self) -> Errands:
        self.processes.append(Errands(self.api.settings))
        return self.processes[-1]

    def client(self) -> Luthier:
        return Luthier(base_url=f"{self.api.url}/v1", api_key=self.tenant.key, max_retries=0)

    def command(self, *words: str) -> Result:
        """`luthier …` with this project's key."""
        env = {"LUTHIER_BASE_URL": f"{self.api.url}/v1", "LUTHIER_API_KEY": self.tenant.key}
        return CliRunner().invoke(app, words, env=env)

    def model(self, kind: str = "lora") -> models.ModelRow:
        folder = self.folder / "adapter"
        if not folder.exists():
            adapter(self.base, folder)
        return self.api.tuned_model(self.tenant, packed(folder), kind=kind)

    def run(self, transfer_id: str, errands: Errands | None = None) -> None:
        transfer_run.run(errands or self.errands(), transfer_id)

    @contextmanager
    def working(self) -> Iterator[None]:
        """Whatever is begun inside is done by another thread."""
        errands, is_over = self.errands(), threading.Event()

        def work() -> None:
            while not is_over.wait(0.05):
                self.run("any", errands)

        thread = threading.Thread(target=work)
        thread.start()
        try:
            yield
        finally:
            is_over.set()
            thread.join()

    def row(self, transfer_id: str) -> TransferRow | None:
        with self.api.sessions() as session:
            return session.get(TransferRow, transfer_id)

    def keys(self) -> list[str]:
        return list(self.api.blobs.list(transfers.BLOB_PREFIX))


@contextmanager
def transfer_scene(api: Api, base: Path, folder: Path) -> Iterator[TransferScene]:
    scene = TransferScene(api, api.tenant(), base, folder)
    try:
        yield scene
    finally:
        for errands in scene.processes:
            errands.close()
        with api.sessions.begin() as session:
            session.execute(update(TransferRow).values(status="cancelled", lease_expires_at=None))
