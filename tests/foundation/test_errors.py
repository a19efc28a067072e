from __future__ import annotations

import pickle

import pytest

from foundation import errors
from foundation.errors import LuthierError

INSTANCES: list[tuple[LuthierError, int]] = [
    (LuthierError("m"), 500),
    (errors.InvalidRequest("m", param="p", code="c"), 400),
    (errors.Unauthenticated("m"), 401),
    (errors.PermissionDenied("m"), 403),
    (errors.NotFound("m"), 404),
    (errors.FileNotFound("file-x"), 404),
    (errors.JobNotFound("ftjob-x"), 404),
    (errors.ModelNotFound("ft:x"), 404),
    (errors.ModelNotServed("base", ["other"]), 400),
    (errors.BatchNotFound("batch_x"), 404),
    (errors.AliasNotFound("a"), 404),
    (errors.PermissionNotFound("cp_x"), 404),
    (errors.UploadNotFound("upload_x"), 404),
    (errors.TransferNotFound("export", "export-x"), 404),
    (errors.ForecastNotFound("forecast-x"), 404),
    (errors.ReportNotFound("ftjob-x"), 404),
    (errors.TooLarge("m"), 413),
    (errors.Unavailable("m"), 503),
    (errors.StorageFull("m"), 507),
    (errors.BlobError("m"), 500),
    (errors.BlobMissing("m"), 500),
    (errors.BlobCorrupt("m", status=418), 418),
]


@pytest.mark.parametrize(("error", "status"), INSTANCES, ids=lambda value: type(value).__name__)
def test_error_survives_pickling_with_all_it_carries(error: LuthierError, status: int) -> None:
    again = pickle.loads(pickle.dumps(error))
    assert type(again) is type(error)
    assert again.status == status
    assert (str(again), again.body()) == (str(error), error.body())


def test_every_error_of_the_tree_is_tested() -> None:
    defined = {value for value in vars(errors).values() if isinstance(value, type)}
    assert {type(error) for error, _ in INSTANCES} == defined


def test_body_is_openais() -> None:
    error = errors.ModelNotFound("ft:x")
    assert error.body() == {
        "error": {
            "message": "The model 'ft:x' does not exist",
            "type": "invalid_request_error",
            "param": "model",
            "code": "model_not_found",
        }
    }
    assert errors.Unavailable("Later").body()["error"]["type"] == "server_error"
