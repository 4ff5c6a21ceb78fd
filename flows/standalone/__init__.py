"""One stage alone, on files or products: no flow, no Prefect run, no server."""

from flows.standalone.results import StageResult
from flows.standalone.running import run_stage

__all__ = ["StageResult", "run_stage"]
