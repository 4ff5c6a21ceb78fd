"""Where the bodies of stages run: in processes of this machine, or on a Dask cluster."""

from __future__ import annotations

import re
from typing import Annotated, Literal

from pydantic import AfterValidator, Field, model_validator

from tasks.products.config import StageConfig

# what prepares the environment of a job; settings come from forms, so they must not become commands of any kind
PROLOGUE = re.compile(
    r"module (load|use|unload|purge)( [\w./+-]+)*"
    r"|source [\w./-]+|conda activate [\w./-]+|export [A-Za-z_]\w*=[\w./:,@%+-]*"
)


def _prepares_the_environment(lines: tuple[str, ...]) -> tuple[str, ...]:
    for line in lines:
        if not PROLOGUE.fullmatch(line):
            raise ValueError(
                f"{line[:80]!r} is not allowed: a prologue consists of `module load NAME`, `source FILE`, "
                "`conda activate NAME` and `export NAME=VALUE`"
            )
    return lines


Name = Annotated[str, Field(pattern=r"^[\w.,+@-]+$", max_length=80)]
Directive = Annotated[str, Field(pattern=r"^--[a-z][a-z-]*(=[\w.,:/+@&|*\[\]-]+)?$", max_length=200)]


class SlurmJobs(StageConfig):
    """Batch jobs of SLURM, each with one or several worker processes."""

    account: Name | None = None
    """Account that is charged; none takes your default."""

    partition: Name | None = None
    """Partition (queue) of the jobs; none takes the default of the machine."""

    processes: Annotated[int, Field(ge=1, le=512)] = 1
    """Worker processes of one job."""

    cores: Annotated[int, Field(ge=1, le=1024)] = 1
    """Cores that one job books: at least one for every worker process."""

    memory: Annotated[str, Field(pattern=r"^[1-9]\d* ?[GMT]i?B$")] = "4 GB"
    """Memory of one job, such as `16 GB`; its worker processes share it evenly."""

    walltime: Annotated[str, Field(pattern=r"^(\d+-)?\d{1,2}:\d{2}:\d{2}$")] = "04:00:00"
    """Longest duration of one job, as hours:minutes:seconds or days-hours:minutes:seconds."""

    directives: tuple[Directive, ...] = ()
    """Further options of sbatch, such as `--qos=night`."""

    prologue: Annotated[tuple[str, ...], AfterValidator(_prepares_the_environment)] = ()
    """Lines that prepare the environment of a job, such as `module load gcc` or `source /opt/venv/bin/activate`."""

    python: Annotated[str, Field(pattern=r"^[\w./+-]+$")] | None = None
    """Python on the nodes in which Shearline is installed; none takes the path of the one that runs the flow."""

    interface: Name | None = None
    """Network interface over which workers reach the scheduler, such as `ib0`; none takes the default."""

    adaptive: bool = False
    """Whether idle jobs are given back and asked for again when there is work; otherwise all stay until the end."""

    @model_validator(mode="after")
    def _every_process_has_a_core(self) -> SlurmJobs:
        if self.processes > self.cores:
            raise ValueError(
                f"{self.processes} worker processes need {self.processes} cores, and a job books {self.cores}: "
                "raise `cores` or lower `processes`"
            )
        return self


class Runner(StageConfig):
    """Where the bodies of stages run; the products are the same to the bit."""

    kind: Literal["local", "dask"] = "local"
    """Processes of this machine, or a Dask cluster."""

    workers: Annotated[int, Field(ge=0, le=4096)] = 2
    """Number of worker processes; 0 runs the bodies in the process of the flow itself."""

    scheduler: Annotated[str, Field(pattern=r"^[a-z]+://\S+$")] | None = None
    """Address of a running Dask scheduler, such as `tcp://node1:8786`; none starts a cluster for the run."""

    slurm: SlurmJobs | None = None
    """Jobs in which the workers of the run's own Dask cluster are started; none starts them on this machine."""

    @model_validator(mode="after")
    def _fits_its_kind(self) -> Runner:
        if self.kind == "local" and (self.scheduler or self.slurm):
            name = "scheduler" if self.scheduler else "slurm"
            raise ValueError(f"`{name}` belongs to the kind `dask`, and the kind is `local`: set `kind` to `dask`")
        if self.scheduler and self.slurm:
            raise ValueError(
                f"workers are either those of the scheduler {self.scheduler} or jobs of SLURM: leave out "
                "`scheduler` or `slurm`"
            )
        if self.kind == "dask" and not self.scheduler and not self.workers:
            raise ValueError("a Dask cluster of the run's own needs at least 1 worker: raise `workers`")
        return self


LOCAL = Runner()
"""Two processes of this machine."""
