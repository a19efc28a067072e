"""/v1/luthier/models/{model}/adapter: a tuned model's artifact, as a tar of a folder in its kind's format: PEFT's
for a LoRA adapter and a prefix, transformers' for a fully tuned model, and for output layers the weights that changed."""

from __future__ import annotations

from fastapi import APIRouter
from fastapi.responses import StreamingResponse

from api.auth import ProjectCaller
from api.blobs import blob_response
from api.wiring import Wired
from foundation.errors import InvalidRequest, ModelNotFound
from foundation.headers import ARTIFACT_KIND
from storage.models import models

router = APIRouter(prefix="/v1/luthier/models", tags=["luthier"])


@router.get(
    "/{model:path}/adapter",
    response_class=StreamingResponse,
    responses={
        200: {
            "description": "An uncompressed tar of a folder in the format of the artifact's kind; of `lora` and "
            "`prefix`: adapter_config.json, adapter_model.safetensors; of `classifier` classifier.json besides; of `full`: config.json, model.safetensors; of "
            "`output_layers`: output_layers.json, output_layers.safetensors; of `classifier`: as `lora`, and "
            "classifier.json",
            "headers": {ARTIFACT_KIND: {"schema": {"type": "string"}, "description": "lora, …"}},
            "content": {"application/x-tar": {"schema": {"type": "string", "format": "binary"}}},
        }
    },
)
async def download_adapter(model: str, caller: ProjectCaller, wiring: Wired) -> StreamingResponse:
    """The weights of the project's own models only: a permission to use a model does not hand out its weights."""
    found = await wiring.database.run(models.find, caller.project_id, model)
    if found is None or found[0].project_id != caller.project_id:
        if wiring.catalogue().get(model) is not None:
            raise InvalidRequest(
                f"The model '{model}' is a base model; it has no adapter.", param="model"
            )
        raise ModelNotFound(model)
    row, artifact = found
    return await blob_response(
        wiring.blobs,
        artifact.blob_key,
        size_bytes=artifact.size_bytes,
        sha256=artifact.sha256,
        # ":" may not stand in a file's name everywhere.
        filename=row.name.replace(":", "-") + ".tar",
        media_type="application/x-tar",
        headers={ARTIFACT_KIND: artifact.kind},
    )
