"""What became of a flow's stages: good chains go on, bad ones are set aside, bugs stop the run."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import Any

import httpx
from prefect.exceptions import PrefectHTTPStatusError
from prefect.futures import PrefectFuture
from prefect.task_runners import TaskRunner, ThreadPoolTaskRunner

from blocks.store import DataStore, ObjectNotFoundError
from flows.artifacts import Progress
from flows.graph import end_unstarted
from tasks.archive.manifests import forget_refusal, write_refusal
from tasks.errors import DataError, MissingProductError, RunStoppedError
from tasks.products.identity import CcdId, ExposureId, ProductRef, Refusal, SetAside, TileId
from tasks.products.recipe import Recipe

# threads only wait for the session's worker processes and for each other
TASK_RUNNER: TaskRunner[PrefectFuture[Any]] = ThreadPoolTaskRunner(max_workers=32)  # type: ignore[assignment]

# lookups of objects wait for the network, not for the processor
LOOKUPS = 16

SERVER_ERROR = 500

Chain = Mapping[str, PrefectFuture[ProductRef]]


def settle(
    chains: Mapping[CcdId, Chain], board: Progress
) -> tuple[dict[CcdId, dict[str, ProductRef]], tuple[SetAside, ...]]:
    """Wait for the stages of every CCD and sort the CCDs into good and set aside.

    Parameters
    ----------
    chains
        For every CCD its stages in order, by name, each a running task.
    board
        Is told of every CCD that ends.

    Returns
    -------
    tuple
        Products by stage of every good CCD; and the table of what was set aside.

    Raises
    ------
    Exception
        The first error that is not about data: a bug, a lost store, wrong settings.
    """
    chains_by_subject = {str(ccd): chain for ccd, chain in chains.items()}
    good: dict[CcdId, dict[str, ProductRef]] = {}
    bad: list[SetAside] = []
    errors: list[BaseException] = []
    for done, (ccd, chain) in enumerate(chains.items(), 1):
        failure = _first_failure(chain)
        board.update(done, len(chains))
        if failure is None:
            good[ccd] = {name: future.result() for name, future in chain.items()}
        elif isinstance(failure[1], DataError):
            bad.append(SetAside(subject=str(ccd), stage=failure[0], reason=str(failure[1])))
        else:
            errors.append(failure[1])
    for error in sorted(errors, key=lambda error: isinstance(error, RunStoppedError)):
        raise error
    end_unstarted(
        {
            future.task_run_id: (f"{name} {item.subject}", f"{item.stage} of {item.subject} was set aside")
            for item in bad
            for name, future in chains_by_subject[item.subject].items()
            if not future.state.is_final()
        }
    )
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


@contextmanager
def refusal_kept(store: DataStore, name: ExposureId | TileId, recipe: Recipe) -> Iterator[None]:
    """Keep the sentence of a ``DataError`` in the store, so that nobody tries again until something changes."""
    forget_refusal(store, name)
    try:
        yield
    except DataError as error:
        write_refusal(store, name, Refusal(subject=str(name), reason=str(error), recipe=recipe))
        raise


def is_outage_of_prefect(error: BaseException) -> bool:
    """Tell whether an error says only that the Prefect server cannot be reached or cannot answer."""
    if isinstance(error, PrefectHTTPStatusError):
        return error.response.status_code >= SERVER_ERROR
    return isinstance(error, httpx.TransportError)


def verify_products(store: DataStore, products: Sequence[ProductRef], subject: object) -> None:
    """Make sure that what a flow is about to list is in the store.

    Raises
    ------
    MissingProductError
        If a product is not there, or has another size.
    """

    def fault(ref: ProductRef) -> str:
        try:
            size = store.size(ref.key)
        except ObjectNotFoundError:
            return f"{ref.key} is not there"
        return "" if size == ref.size else f"{ref.key} has {size} bytes instead of {ref.size}"

    with ThreadPoolExecutor(LOOKUPS) as threads:
        faults = [sentence for sentence in threads.map(fault, products) if sentence]
    if faults:
        raise MissingProductError(
            f"{len(faults)} of {len(products)} products of {subject} are not in {store.url} as they were made: "
            f"{'; '.join(faults[:3])}. Start the run again."
        )
