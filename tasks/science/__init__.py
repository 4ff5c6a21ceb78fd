"""Algorithms on numpy and astropy objects: no files, no Prefect, no settings models."""
