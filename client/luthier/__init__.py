"""Client of Luthier: OpenAI's own client plus what OpenAI has not.

from luthier import Luthier

client = Luthier()                       # LUTHIER_BASE_URL, LUTHIER_API_KEY
job = client.fine_tuning.jobs.create(model="smollm2-135m-instruct", training_file=file.id)
for event in client.jobs.follow(job.id):
    print(event.message)
client.adapters.download(model, "my-adapter")
"""

from __future__ import annotations

from .archives import AdapterArchiveError
from .client import Luthier
from .manifests import ManifestError
from .transfers import TransferFailed

__all__ = ["AdapterArchiveError", "Luthier", "ManifestError", "TransferFailed"]
