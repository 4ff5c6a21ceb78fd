"""Simulates the raw exposures of a survey in a process of its own, which `shearline up` starts."""

from __future__ import annotations

import sys

from blocks.store import DataStore
from flows.config import load_survey
from flows.demo import simulate_survey
from tasks.errors import ConfigError
from tasks.runner import Runner


def simulate_into(root: str, survey: str, workers: int, *changes: str) -> None:
    """Simulate the raw exposures of a survey into the collection ``raw`` of a store.

    Raises
    ------
    ConfigError
        If the survey has no settings of a simulation.
    """
    config = load_survey(survey, changes)
    if config.simulation is None:
        raise ConfigError(f"Survey {config.name} has no `simulation` settings, so there is nothing to simulate.")
    simulate_survey(config.simulation, DataStore(root=root, collection="raw"), Runner(workers=workers))


if __name__ == "__main__":
    simulate_into(sys.argv[1], sys.argv[2], int(sys.argv[3]), *sys.argv[4:])
