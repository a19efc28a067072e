"""Errors that users see, in one tree. Each carries what OpenAI's error body needs.

LuthierError
├── InvalidRequest           400  the request cannot be done as it stands
│   ├── ModelNotServed
│   ├── Unauthenticated      401
│   ├── PermissionDenied     403
│   ├── NotFound             404
│   │   ├── AliasNotFound
│   │   ├── BatchNotFound
│   │   ├── FileNotFound
│   │   ├── JobNotFound
│   │   ├── ModelNotFound
│   │   ├── PermissionNotFound
│   │   ├── ReportNotFound
│   │   ├── TransferNotFound
│   │   └── UploadNotFound
│   └── TooLarge             413
├── Unavailable              503  try again later
│   └── StorageFull          507
└── BlobError                500
    ├── BlobMissing
    └── BlobCorrupt
"""

from __future__ import annotations

import errno
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

MAX_MESSAGE_CHARS = 4000
DISK_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
"""What an OSError says where there is no room for a file."""


class LuthierError(Exception):
    """An error with OpenAI's `message`, `type`, `param` and `code`, and its HTTP status."""

    default_status = 500
    default_type = "server_error"
    headers: Mapping[str, str] | None = None
    """That the reply has besides."""

    def __init__(
        self,
        message: str,
        *,
        status: int | None = None,
        type: str | None = None,
        param: str | None = None,
        code: str | None = None,
    ) -> None:
        super().__init__(message)
        self.message = message
        self.status = status or self.default_status
        self.type = type or self.default_type
        self.param = param
        self.code = code

    def __reduce__(self) -> tuple[object, ...]:
        # Exceptions with keyword arguments do not survive pickling by themselves, and Celery pickles.
        return (_rebuild, (self.__class__, self.message, self.__dict__))

    def body(self) -> dict[str, dict[str, str | None]]:
        """The JSON body of the reply."""
        return {
            "error": {
                # It may tell back what somebody sent, however long that was.
                "message": self.message[:MAX_MESSAGE_CHARS],
                "type": self.type,
                "param": self.param,
                "code": self.code,
            }
        }


def _rebuild(cls: type[LuthierError], message: str, state: dict[str, object]) -> LuthierError:
    error = cls.__new__(cls)
    Exception.__init__(error, message)
    error.__dict__.update(state)
    return error


class InvalidRequest(LuthierError):
    default_status = 400
    default_type = "invalid_request_error"


class Unauthenticated(InvalidRequest):
    default_status = 401


class PermissionDenied(InvalidRequest):
    default_status = 403


class NotFound(InvalidRequest):
    default_status = 404


class BatchNotFound(NotFound):
    def __init__(self, batch_id: str) -> None:
        super().__init__(f"No batch found with id '{batch_id}'.")


class FileNotFound(NotFound):
    def __init__(self, file_id: str) -> None:
        super().__init__(f"No such File object: {file_id}", param="id")


class JobNotFound(NotFound):
    def __init__(self, job_id: str) -> None:
        super().__init__(
            f"Could not find fine tune: {job_id}",
            param="fine_tune_id",
            code="fine_tune_not_found",
        )


class ModelNotFound(NotFound):
    def __init__(self, model: str) -> None:
        super().__init__(
            f"The model '{model}' does not exist", param="model", code="model_not_found"
        )


class ModelNotServed(InvalidRequest):
    def __init__(
        self, base_model: str, served: Iterable[str], advice: str = "", *, status: int | None = None
    ) -> None:
        known = ", ".join(sorted(served)) or "none"
        super().__init__(
            f"No inference server of this installation serves the base model '{base_model}'; served "
            f"are: {known}. Its operator can change that: luthier serve --base {base_model}, or "
            f"LUTHIER_BACKENDS={base_model}=URL where the api runs by itself.{advice}",
            param="model",
            code="model_not_served",
            status=status,
        )


class AliasNotFound(NotFound):
    def __init__(self, alias: str) -> None:
        super().__init__(f"No such alias: {alias}", param="alias", code="alias_not_found")


class PermissionNotFound(NotFound):
    def __init__(self, permission_id: str) -> None:
        super().__init__(
            f"No such checkpoint permission: {permission_id}",
            param="permission_id",
            code="permission_not_found",
        )


class ReportNotFound(NotFound):
    def __init__(self, job_id: str) -> None:
        super().__init__(
            f"The job {job_id} has no report, for none was wanted when it ended. POST to "
            f"/v1/luthier/fine_tuning/jobs/{job_id}/report has one made.",
            param="fine_tune_id",
            code="report_not_found",
        )


class TransferNotFound(NotFound):
    def __init__(self, kind: str, transfer_id: str) -> None:
        super().__init__(f"No such {kind}: {transfer_id}", param="id")


class ForecastNotFound(NotFound):
    def __init__(self, forecast_id: str) -> None:
        super().__init__(f"No such forecast: {forecast_id}", param="id")


class UploadNotFound(NotFound):
    def __init__(self, upload_id: str) -> None:
        super().__init__(f"No such Upload object: {upload_id}", param="id")


class TooLarge(InvalidRequest):
    default_status = 413


class Unavailable(LuthierError):
    default_status = 503


class StorageFull(Unavailable):
    default_status = 507


class BlobError(LuthierError):
    """The blob store did not do what was asked."""


class BlobMissing(BlobError):
    """A row points at a blob that is not there."""


class BlobCorrupt(BlobError):
    """A blob's bytes are not the ones that were stored."""
