"""What became of the mapped stages: good chains go on, bad ones are set aside, bugs stop the run."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from prefect.futures import PrefectFuture
from prefect.task_runners import TaskRunner, ThreadPoolTaskRunner

from tasks.errors import DataError, RunStoppedError
from tasks.products.identity import CcdId, ProductRef, SetAside

# threads only wait for the session's worker processes and for each other
TASK_RUNNER: TaskRunner[PrefectFuture[Any]] = ThreadPoolTaskRunner(max_workers=32)  # type: ignore[assignment]

Chain = Mapping[str, PrefectFuture[ProductRef]]


def settle(chains: Mapping[CcdId, Chain]) -> tuple[dict[CcdId, dict[str, ProductRef]], tuple[SetAside, ...]]:
    """Wait for the stages of every CCD and sort the CCDs into good and set aside.

    Parameters
    ----------
    chains
        For every CCD its stages in order, by name, each a running task.

    Returns
    -------
    tuple
        Products by stage of every good CCD; and the table of what was set aside.

    Raises
    ------
    Exception
        The first error that is not about data: a bug, a lost store, wrong settings.
    """
    good: dict[CcdId, dict[str, ProductRef]] = {}
    bad: list[SetAside] = []
    errors: list[BaseException] = []
    for ccd, chain in chains.items():
        failure = _first_failure(chain)
        if failure is None:
            good[ccd] = {name: future.result() for name, future in chain.items()}
        elif isinstance(failure[1], DataError):
            bad.append(SetAside(subject=str(ccd), stage=failure[0], reason=str(failure[1])))
        else:
            errors.append(failure[1])
    for error in sorted(errors, key=lambda error: isinstance(error, RunStoppedError)):
        raise error
    return good, tuple(bad)


def _first_failure(chain: Chain) -> tuple[str, BaseException] | None:
    """Return the stage that failed and its error; the stages after it never start."""
    for future in chain.values():
        future.wait()
    for name, future in chain.items():
        if not future.state.is_completed():
            result = future.state.result(raise_on_failure=False) if future.state.is_final() else None
            return name, result if isinstance(result, BaseException) else RuntimeError(f"{name}: {future.state}")
    return None
