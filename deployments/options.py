"""What the options of `shearline deploy` and `shearline blocks register` say together."""

from __future__ import annotations

import os
from collections.abc import Iterable

from pydantic import SecretStr

from deployments.registration import S3Access, is_address
from tasks.errors import ConfigError


def s3_access(endpoint_url: str | None, access_key: str | None, secret_key_from: str | None) -> S3Access:
    """Return how S3 is reached; the secret comes from the environment, as a command line can be read by others.

    Raises
    ------
    ConfigError
        If the variable is not set, or one of the two keys is missing.
    """
    secret = os.environ.get(secret_key_from) if secret_key_from else None
    if secret_key_from and not secret:
        raise ConfigError(f"--secret-key-from {secret_key_from}: that environment variable is not set.")
    if (access_key is None) != (secret is None):
        raise ConfigError("--access-key and --secret-key-from belong together: give both, or none of them.")
    return S3Access(endpoint_url, access_key, SecretStr(secret) if secret else None)


def refuse_unused_access(access: S3Access, make_buckets: bool, places: Iterable[str | None]) -> None:
    """Refuse options of S3 where nothing is on S3.

    Parameters
    ----------
    access, make_buckets
        What the options say.
    places
        Blocks, folders and URLs that were given.

    Raises
    ------
    ConfigError
        If an option was given, and none of the places is an ``s3://`` URL.
    """
    given = access != S3Access() or make_buckets
    if given and not any(place is not None and place.startswith("s3://") for place in places):
        raise ConfigError(
            "--endpoint-url, --access-key, --secret-key-from and --make-buckets are about s3:// URLs, and none was "
            "given; a block that is there has its own: change it with `shearline blocks register --store NAME=URL`."
        )


def refuse_collection_of_block(collection: str | None, store: str) -> None:
    """Refuse a collection beside the name of a block, which has a collection of its own.

    Raises
    ------
    ConfigError
        If both were given.
    """
    if collection is not None and not is_address(store):
        raise ConfigError(
            f"--collection {collection} cannot be given beside the block {store}, which has a collection of its own: "
            f"give --store a folder or URL, or change the block with `shearline blocks register --store {store}=URL "
            f"--collection {collection}`."
        )


def refuse_without(option: str, value: str | None, needed: str, places: Iterable[str] | None) -> None:
    """Refuse an option that says more about another one, where that was not given.

    Raises
    ------
    ConfigError
        If the option has a value, and there are no places.
    """
    if value is not None and not places:
        raise ConfigError(f"{option} {value} says nothing without {needed} NAME=URL.")


def named(text: str) -> tuple[str, str]:
    """Return name and URL of ``NAME=URL``.

    Raises
    ------
    ConfigError
        If one of the two is missing.
    """
    name, _, url = text.partition("=")
    if not name or not url:
        raise ConfigError(f"{text!r} is not of the form NAME=URL, such as products=s3://bucket/products.")
    return name, url
