"""JSON products: lists of exposures, reference records, manifests."""

from __future__ import annotations

from typing import TypeVar

from pydantic import BaseModel, ValidationError

from blocks.store import DataStore
from tasks.archive.fits_files import get_bytes, put_bytes
from tasks.errors import BadFileError
from tasks.products.identity import ProductRef, SummaryValue

Model = TypeVar("Model", bound=BaseModel)


def write_document(
    store: DataStore, key: str, document: BaseModel, *, subject: object, summary: dict[str, SummaryValue] | None = None
) -> ProductRef:
    """Publish a typed document as JSON."""
    data = (document.model_dump_json(indent=1) + "\n").encode()
    return put_bytes(store, key, data, subject=subject, summary=summary)


def read_document(store: DataStore, ref: ProductRef, model: type[Model]) -> Model:
    """Return a typed document.

    Raises
    ------
    MissingProductError
        If the product is not in the store.
    BadFileError
        If it does not fit the type.
    """
    try:
        return model.model_validate_json(get_bytes(store, ref))
    except ValidationError as error:
        raise BadFileError(f"{ref.key} is not a valid {model.__name__}: {error.errors()[0]['msg']}.") from error
