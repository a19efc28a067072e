"""Whether a job, trained again, makes the same weights: tensor by tensor, by their SHA-256."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any
from urllib.parse import quote

from openai import BaseModel
from openai.types.fine_tuning import FineTuningJob

if TYPE_CHECKING:
    from openai import OpenAI


class JobResult(BaseModel):
    fine_tuning_job_id: str
    model: str
    kind: str
    spec: dict[str, Any]
    tensors: dict[str, Any]
    """By name `{dtype, shape, sha256}`."""
    data_sha256: dict[str, str]
    config: dict[str, Any]
    environment: dict[str, str]


@dataclass(frozen=True)
class Comparison:
    num_tensors: int
    """Of the first, which the second ought to have, too."""
    different: list[str]
    """Tensors that are not the same bytes, or are in one of the two only."""
    settings: dict[str, tuple[Any, Any]]
    """What differs in the data and the settings: of jobs that are compared for another reason."""
    environment: dict[str, tuple[Any, Any]]
    """What differs in where the two were trained."""

    @property
    def is_equal(self) -> bool:
        return not self.different


class Reproductions:
    def __init__(self, client: OpenAI) -> None:
        self._client = client

    def create(self, job_id: str) -> FineTuningJob:
        """Begin a job with the same files, seed and settings, where "auto" means what it meant then."""
        return self._client.post(_path(job_id, "reproduce"), cast_to=FineTuningJob)

    def result(self, job_id: str) -> JobResult:
        """What a job that has succeeded made, to the byte."""
        return self._client.get(_path(job_id, "result"), cast_to=JobResult)

    def compare(self, job_id: str, other_job_id: str) -> Comparison:
        first, second = self.result(job_id), self.result(other_job_id)
        return Comparison(
            num_tensors=len(first.tensors),
            different=sorted(_differences(first.tensors, second.tensors)),
            settings=_differences(
                {**first.data_sha256, **first.config}, {**second.data_sha256, **second.config}
            ),
            environment=_differences(first.environment, second.environment),
        )


def _differences(first: Mapping[str, Any], second: Mapping[str, Any]) -> dict[str, tuple[Any, Any]]:
    names = [*first, *(name for name in second if name not in first)]
    pairs = {name: (first.get(name), second.get(name)) for name in names}
    return {name: pair for name, pair in pairs.items() if pair[0] != pair[1]}


def _path(job_id: str, what: str) -> str:
    return f"/luthier/jobs/{quote(job_id, safe='')}/{what}"
