"""Hydra's launcher for Ray: each job of a sweep (``-m hydra/launcher=ray``) is a Ray task that runs one command.

Hydra looks for launchers in this namespace package. Its own one for Ray wants versions of Ray and boto3 that have no
release for the Pythons in use.
"""

from __future__ import annotations

import contextlib
import os
import socket
import sys
from collections.abc import Sequence
from typing import Any

from hydra.core.utils import JobReturn, JobStatus
from hydra.plugins.launcher import Launcher
from hydra.types import HydraContext, TaskFunction
from omegaconf import DictConfig

SECONDS = 10.0
"""For which a cluster's address is tried."""


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
        self.config = config

    def launch(self, job_overrides: Sequence[Sequence[str]], initial_job_idx: int) -> Sequence[JobReturn]:
        """Runs the jobs; one that fails does not stop the others.

        Args:
            job_overrides: Per job.
            initial_job_idx: Number of the first one.

        Raises:
            SuiteError: If there is no such cluster, or this machine has not what a job takes.
        """
        import ray

        from sise.benchmark import invocation
        from sise.benchmark.commands import sweeps

        def run(overrides: list[str], number: int, folder: str = os.getcwd()) -> int:
            os.chdir(folder)
            return sweeps.run_command(command, overrides, sweep, number)

        command, sweep = invocation.words(self.config.hydra.job.config_name), str(self.config.hydra.sweep.dir)
        with self._connected(ray):
            self._check_resources(ray)
            task = ray.remote(num_cpus=self.num_cpus, num_gpus=self.num_gpus, max_retries=self.max_retries)(run)
            jobs = [
                task.remote(sweeps.arguments(self.config.hydra, overrides), initial_job_idx + i)
                for i, overrides in enumerate(job_overrides)
            ]
            return [self._ended(ray, job, overrides) for job, overrides in zip(jobs, job_overrides, strict=True)]

    def _connected(self, ray: Any) -> Any:
        """Ray, started on this machine or found at the address."""
        from sise.errors import SuiteError

        place = (self.address or "").removeprefix("ray://")
        host, colon, port = place.rpartition(":")
        try:
            if colon:  # Ray itself tries for minutes
                with contextlib.closing(socket.create_connection((host, int(port)), timeout=SECONDS)):
                    pass
            return ray.init(address=self.address, include_dashboard=False, log_to_driver=True)
        except (OSError, ValueError) as error:
            raise SuiteError(
                f"hydra.launcher.address={self.address}: no Ray cluster answers there ({str(error).splitlines()[0]}); "
                "start one with `ray start --head`, or leave hydra.launcher.address out to use this machine alone."
            ) from error

    def _check_resources(self, ray: Any) -> None:
        """Whether a machine has what one job takes; jobs would wait for it without a word.

        A cluster may grow, this machine does not.
        """
        from sise.errors import SuiteError

        for name, wanted, setting in (("CPU", self.num_cpus, "num_cpus"), ("GPU", self.num_gpus, "num_gpus")):
            most = max((node["Resources"].get(name, 0.0) for node in ray.nodes() if node["Alive"]), default=0.0)
            if wanted > most:
                text = f"hydra.launcher.{setting}={wanted:g}: the largest machine that Ray knows has {most:g}"
                if self.address is None:
                    raise SuiteError(f"{text}; give a smaller number, or the address of a cluster that has as many.")
                print(f"{text}; jobs wait until one with as many joins.", file=sys.stderr)

    def _ended(self, ray: Any, job: Any, overrides: Sequence[str]) -> JobReturn:
        result = JobReturn(overrides=list(overrides), status=JobStatus.COMPLETED)
        try:
            result.return_value = ray.get(job)
        except ray.exceptions.RayError as error:  # lost for good: the end of the sweep says that it did not end
            result.return_value = str(error)
        return result
