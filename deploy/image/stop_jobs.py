"""Stop the jobs that run on this head and wait for them: what Kubernetes calls before it ends the head.

The drivers get SIGTERM and RAY_JOB_STOP_WAIT_TIME_S seconds; without this they would die with the head, and
nobody would have told them.
"""

import os
import time

from ray.job_submission import JobStatus, JobSubmissionClient

ADDRESS = os.environ.get("RAY_API_SERVER_ADDRESS", "http://127.0.0.1:8265")
ACTIVE = (JobStatus.PENDING, JobStatus.RUNNING)


def active(client: JobSubmissionClient) -> list[str]:
    """Return the submitted jobs that have not ended."""
    return [job.submission_id for job in client.list_jobs() if job.submission_id and job.status in ACTIVE]


def stop_all(client: JobSubmissionClient) -> None:
    """Stop them, and return when none is left."""
    for job in active(client):
        client.stop_job(job)
    while active(client):
        time.sleep(1)


if __name__ == "__main__":
    stop_all(JobSubmissionClient(ADDRESS))
