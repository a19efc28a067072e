"""How a job ends: with a model, with an error, or not yet."""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor, wait

import httpx
import structlog
from sqlalchemy.orm import Session

from foundation.crash_points import crash_point
from foundation.errors import LuthierError
from storage import leases, queue
from storage.blobs.blobs import BlobStore
from storage.files import files
from storage.ids import new_id
from storage.jobs import checkpoints, events, jobs, pauses
from storage.jobs.jobs import JobRow
from storage.models import models
from storage.models.artifacts import SERVED_KINDS, ArtifactRow
from storage.reports import reports
from worker.endings import JobFailed, Setback
from worker.lease import Lease
from worker.worker import Worker

from . import control, final_model, publish, result_file

PREFETCH_S = 1.0
FIRST_RETRY_S = 0.0
LATER_RETRY_S = 5.0

log = structlog.get_logger()

Json = dict[str, object]


def last_metrics(worker: Worker, lease: Lease) -> dict[str, int] | None:
    """The metrics of the last step if training is over and its model published, else None."""
    with worker.sessions() as session:
        metrics = events.last_metrics(session, lease.job.id)
        if metrics is None:
            return None
        stopped = events.find(session, lease.job.id, publish.EARLY_STOPPING)
        if metrics["step"] != metrics["total_steps"] and stopped is None:
            return None
        if checkpoints.at_step(session, lease.job.id, metrics["step"]) is None:
            return None
        return metrics


def succeed(worker: Worker, lease: Lease) -> None:
    """The last checkpoint is the model, or the best one. Writes the result file and ends the job. Raises LostLease."""
    crash_point("after_final_checkpoint")
    job = lease.job
    with worker.sessions() as session:
        metrics = events.metrics(session, job.id)
        final = final_model.choose(session, job, metrics)
        found = models.find(session, job.project_id, final.checkpoint.model_name)
        filename, content = result_file.of_job(session.get_one(JobRow, job.id), metrics)
    file_id = new_id("file-")
    with worker.blobs.writer(files.blob_key(job.project_id, file_id)) as writer:
        writer.write(content)
        blob = writer.commit()
    crash_point("after_result_file")
    if found is not None:
        _prefetch(worker, found[1])

    def write(session: Session) -> tuple[str, str | None]:
        name = final_model.name(session, job, final)
        files.create(
            session,
            file_id,
            project_id=job.project_id,
            filename=filename,
            purpose=result_file.PURPOSE,
            blob=blob,
        )
        jobs.succeed(
            session,
            lease.claim,
            fine_tuned_model=name,
            trained_tokens=metrics[-1]["num_tokens"],
            result_files=[file_id],
            resume_points=[],
        )
        events.add(session, job.id, "model", "New fine-tuned model created", data={})
        text = "The job has successfully completed"
        events.add(session, job.id, "succeeded", text, data={})
        return name, _add_report(session, worker, job)

    crash_point("before_succeed")
    name, report_id = lease.end(write)
    crash_point("after_succeed")
    if report_id is not None:
        queue.run_errand(queue.RUN_REPORT, report_id)
    remove_resume_blobs(worker.blobs, job.id)
    log.info("job.succeeded", job_id=job.id, model=name)


def _add_report(session: Session, worker: Worker, job: JobRow) -> str | None:
    """The id of what the errands will make, if anything."""
    depth, asked = control.report(job.hyperparameters, worker.settings.reports)
    # The old API has no place where it could be read.
    if depth == "off" or job.legacy is not None:
        return None
    return reports.create(
        session, project_id=job.project_id, job_id=job.id, depth=depth, asked=asked
    ).id


def fail(worker: Worker, lease: Lease, error: JobFailed) -> None:
    """End the job with an error that its owner reads. Raises LostLease."""

    def write(session: Session) -> None:
        if error.problems:
            _tell_problems(session, lease, error)
        jobs.fail(session, lease.claim, code=error.code, message=error.message, param=error.param)

    lease.end(write)
    remove_resume_blobs(worker.blobs, lease.job.id)
    log.info("job.failed", job_id=lease.job.id, code=error.code, message=error.message)


def _tell_problems(session: Session, lease: Lease, error: JobFailed) -> None:
    """All that was found, so that a file can be mended in one go.

    The first of it on the file itself, unless another base may read the file.
    """
    job = lease.job
    file_id = job.training_file if error.param == "training_file" else job.validation_file
    if error.bad_row and file_id is not None:
        files.mark_bad(session, file_id, error.bad_row)
    if len(error.problems) > 1:
        text = f"Problems in the {(error.param or '').replace('_', ' ')}: {len(error.problems)}"
        data = {"problems": error.problems}
        events.add(session, job.id, "problems", text, level="error", data=data)


def give_back(lease: Lease) -> None:
    """Let the job go unfinished; the attempt does not count. Raises LostLease."""
    lease.end(lambda session: leases.release(session, lease.claim))


def pause(lease: Lease) -> bool:
    """Let the job go until its owner resumes it; False if it is to go on after all. Raises LostLease."""

    def write(session: Session) -> bool:
        if pauses.release(session, lease.claim):
            return True
        leases.release(session, lease.claim)
        return False

    is_paused = lease.end(write)
    log.info("job.paused" if is_paused else "job.pause_called_off", job_id=lease.job.id)
    return is_paused


def postpone(lease: Lease, after_s: float) -> None:
    """Let the job wait for better times; the attempt does not count. Raises LostLease."""
    lease.end(lambda session: leases.release(session, lease.claim, after_s=after_s))


def set_back(worker: Worker, lease: Lease, setback: Setback) -> bool:
    """Count a crash and let the job go for another attempt, or fail it if there were enough.

    True when the next attempt may begin at once. Raises LostLease.
    """
    job = lease.job
    log.warning("job.set_back", job_id=job.id, reason=setback.message, step=setback.step)
    last_step = lease.write(lambda session: _last_crash(session, job))
    # As it is now: it began anew with each checkpoint.
    crashes = lease.job.crashes
    is_poison = setback.step is not None and crashes > 0 and setback.step == last_step
    if crashes + 1 >= jobs.MAX_CRASHES or is_poison:
        attempts = f"{crashes + 1} attempts in a row"
        message = f"The job was given up after {attempts} without progress. {setback.message}"
        fail(worker, lease, JobFailed(setback.code, message))
        return False
    after_s = LATER_RETRY_S if crashes else FIRST_RETRY_S

    def write(session: Session) -> None:
        leases.release(session, lease.claim, after_s=after_s, is_crash=True)
        where = "" if setback.step is None else f" after step {setback.step}"
        events.add(
            session,
            job.id,
            f"crash:{job.attempt}",
            f"Attempt {job.attempt} was interrupted{where}: {setback.message}. Trying again",
            level="warn",
            data={"step": setback.step},
        )

    lease.end(write)
    return after_s == 0


def _last_crash(session: Session, job: JobRow) -> int | None:
    """At which step the job crashed the last time."""
    last = events.find(session, job.id, f"crash:{job.attempt - 1}")
    return last.data["step"] if last is not None and last.data else None


def remove_resume_blobs(blobs: BlobStore, job_id: str) -> None:
    """What was kept to go on from, once the job has ended. What fails here, the sweep does later."""
    try:
        publish.delete(blobs, list(blobs.list(f"jobs/{job_id}/")))
    except (LuthierError, OSError) as error:
        log.warning("job.blobs_left", job_id=job_id, error=str(error))


def _prefetch(worker: Worker, artifact: ArtifactRow) -> None:
    """Have the inference servers load the weights, so that the model's first user need not wait."""
    urls = worker.settings.backends.get(artifact.base_model, ())
    if not urls or artifact.kind not in SERVED_KINDS:
        return
    body = {"sha256": artifact.sha256, "size_bytes": artifact.size_bytes, "kind": artifact.kind}
    headers = {"authorization": f"Bearer {worker.settings.internal_key}"}
    with httpx.Client(timeout=PREFETCH_S, headers=headers, trust_env=False) as client:
        _post_all(client, urls, f"/v1/luthier/adapters/{artifact.id}/prefetch", body)


def _post_all(client: httpx.Client, urls: Sequence[str], path: str, body: Json) -> None:
    def post(url: str) -> None:
        try:
            client.post(url + path, json=body).raise_for_status()
        except httpx.HTTPError as error:
            log.info("prefetch.failed", url=url, error=str(error))

    with ThreadPoolExecutor(max_workers=8) as pool:
        wait([pool.submit(post, url) for url in urls])
