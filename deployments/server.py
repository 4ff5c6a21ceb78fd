"""What must be known of a Prefect server before anything is deployed to it."""

from __future__ import annotations

import httpx
from prefect.client.orchestration import get_client
from prefect.exceptions import ObjectNotFound, PrefectHTTPStatusError
from prefect.settings import get_current_settings

from deployments.declared import read_deployments
from tasks.errors import ConfigError


def check_server() -> None:
    """Make sure that there is a Prefect server that stays, and that it lets us in.

    Raises
    ------
    ConfigError
        If no address of an API is set, nothing answers there, or the server refuses us.
    """
    url = get_current_settings().api.url
    if not url:
        raise ConfigError(
            "There is no Prefect server to deploy to: set PREFECT_API_URL, such as http://127.0.0.1:4200/api, "
            "or start one with `shearline up`."
        )
    try:
        with get_client(sync_client=True) as client:
            client.read_work_pools(limit=1)
    except PrefectHTTPStatusError as error:
        status = error.response.status_code
        hint = " Set PREFECT_API_AUTH_STRING to its name:password." if status == httpx.codes.UNAUTHORIZED else ""
        raise ConfigError(f"The Prefect server at {url} answers with {status}.{hint}") from error
    except (httpx.HTTPError, RuntimeError) as error:
        # the client turns a failure of its first request into a RuntimeError
        reason = error.__cause__ or error
        raise ConfigError(f"No Prefect server answers at {url}: {reason}. Start it, or set PREFECT_API_URL.") from error


def deployed_survey() -> str | None:
    """Return the name of the survey that the deployments of the server have the settings of; none if there is none."""
    with get_client(sync_client=True) as client:
        for deployment in read_deployments():
            try:
                found = client.read_deployment_by_name(f"{deployment.load_flow().name}/{deployment.name}")
            except ObjectNotFound:
                continue
            name = found.parameters.get("config", {}).get("name")
            if name is not None:
                return str(name)
    return None


def refuse_another_survey(survey: str) -> None:
    """Refuse a survey where the server has the deployments of another one, which it would replace.

    Raises
    ------
    ConfigError
        If the server has another survey.
    """
    other = deployed_survey()
    if other not in {None, survey}:
        raise ConfigError(
            f"This Prefect server processes survey {other}, which survey {survey} would replace: give each survey a "
            "server of its own, or replace it with --replace."
        )
