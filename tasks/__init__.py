"""Stages: one file each, a config, a pure function and a thin Prefect task."""
