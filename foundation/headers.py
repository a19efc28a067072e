"""Headers by which Luthier's own processes tell each other what stands in no body of OpenAI's."""

from __future__ import annotations

# To the api, from whoever holds the internal key.
PROJECT = "x-luthier-project"
"""For which project it acts."""
BATCH = "x-luthier-batch"
"""For which batch."""

# To an inference server, from the gateway.
CACHE_SALT = "x-luthier-cache-salt"
"""Whose requests may share computed beginnings."""
WEIGHT = "x-luthier-weight"
"""Of their project, where it is not 1."""
ARTIFACT_SHA256 = "x-luthier-adapter-sha256"
ARTIFACT_BYTES = "x-luthier-adapter-bytes"
ARTIFACT_KIND = "x-luthier-artifact-kind"
"""Of the model that is asked. Clients find the kind at what they download."""
