"""Hydra's launcher for Ray: each job of a sweep (``-m hydra/launcher=ray``) is a Ray task that runs one command.

Hydra looks for launchers in this namespace package. Its own one for Ray wants versions of Ray and boto3 that have no
release for the Pythons in use.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import Any

from hydra.core.utils import JobReturn, JobStatus
from hydra.plugins.launcher import Launcher
from hydra.types import HydraContext, TaskFunction
from omegaconf import DictConfig


class RayLauncher(Launcher):
    """Runs jobs as Ray tasks.

    Args:
        address: Of a cluster, as ``ray.init`` takes it; ``auto`` for the one this machine is part of, None to start
            Ray on this machine for the sweep. The cluster's machines share the working directory's file system.
        num_cpus, num_gpus: What one job takes; Ray shows it no other GPU.
        max_retries: How often a job that was lost with its machine is started again, there to go on.
    """

    def __init__(self, address: str | None, num_cpus: float, num_gpus: float, max_retries: int) -> None:
        self.address, self.num_cpus, self.num_gpus, self.max_retries = address, num_cpus, num_gpus, max_retries

    def setup(self, *, hydra_context: HydraContext, task_function: TaskFunction, config: DictConfig) -> None:
        """Takes what a sweep is made of; called by Hydra."""
        self.config, self.script = config, task_function.__wrapped__.__code__.co_filename

    def launch(self, job_overrides: Sequence[Sequence[str]], initial_job_idx: int) -> Sequence[JobReturn]:
        """Runs the jobs; one that fails does not stop the others.

        Args:
            job_overrides: Per job.
            initial_job_idx: Number of the first one.
        """
        import ray

        from sise.benchmark import sweeps

        def run(overrides: list[str], number: int, folder: str = os.getcwd()) -> int:
            os.chdir(folder)
            return sweeps.run_command(script, overrides, sweep, number)

        script, sweep = os.path.abspath(self.script), str(self.config.hydra.sweep.dir)
        with ray.init(address=self.address, include_dashboard=False, log_to_driver=True):
            task = ray.remote(num_cpus=self.num_cpus, num_gpus=self.num_gpus, max_retries=self.max_retries)(run)
            jobs = [
                task.remote(sweeps.arguments(self.config.hydra, overrides), initial_job_idx + i)
                for i, overrides in enumerate(job_overrides)
            ]
            return [self._ended(ray, job, overrides) for job, overrides in zip(jobs, job_overrides, strict=True)]

    def _ended(self, ray: Any, job: Any, overrides: Sequence[str]) -> JobReturn:
        result = JobReturn(overrides=list(overrides), status=JobStatus.COMPLETED)
        try:
            result.return_value = ray.get(job)
        except ray.exceptions.RayError as error:  # lost for good: the end of the sweep says that it did not end
            result.return_value = str(error)
        return result
