"""The process that tells MLflow of one run: `python -m tiebreak.training.tracking_child < JOB`.

It tells the id of the run there, or the kind of the error: its text may hold the address with its
password. `training.tracking` is its parent's side.
"""

from __future__ import annotations

import sys
from contextlib import suppress
from importlib import import_module
from typing import Any

import orjson

from tiebreak.supervised.told import Teller


def main() -> None:
    """Do the job on standard input."""
    teller = Teller.on_standard_output()
    job = orjson.loads(sys.stdin.buffer.read())
    try:
        run_id = _tell(job)
    except Exception as error:  # noqa: BLE001 - whatever it is, the run goes on
        teller.say({"failed": type(error).__name__})
    else:
        teller.say({"run_id": run_id})
    teller.end()


def _tell(job: dict[str, Any]) -> str:
    # an extra, which may be missing here and where types are checked
    mlflow: Any = import_module("mlflow")
    entities: Any = import_module("mlflow.entities")
    client = mlflow.MlflowClient(tracking_uri=job["tracking_uri"])
    experiment = client.get_experiment_by_name(job["experiment"])
    if experiment is None:
        with suppress(mlflow.MlflowException):  # another run was first, or it is really away
            client.create_experiment(job["experiment"], artifact_location=job["artifacts"])
        experiment = client.get_experiment_by_name(job["experiment"])
    begun = job["started_ms"]
    run = client.create_run(
        experiment.experiment_id, start_time=begun, tags=job["tags"], run_name=job["run_name"]
    )
    run_id: str = run.info.run_id
    client.log_batch(
        run_id,
        metrics=[entities.Metric(name, value, begun, 0) for name, value in job["metrics"].items()],
        params=[
            entities.Param(name, str(value)[:500]) for name, value in job["parameters"].items()
        ],
    )
    for name, text in job["texts"].items():
        client.log_text(run_id, text, name)
    client.set_terminated(run_id, "FINISHED")
    return run_id


if __name__ == "__main__":
    main()
