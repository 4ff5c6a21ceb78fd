"""Stage ``simulate``: a small survey in the raw store, as a telescope would leave it there, with its truth."""

from __future__ import annotations

from collections.abc import Sequence

from astropy.table import Table

from blocks.store import DataStore
from tasks.archive import raw_survey
from tasks.archive.documents import read_document, write_document
from tasks.archive.simulated_references import write_reference_cache
from tasks.products.columns import STAR_CATALOG, TRUTH_GALAXIES, TRUTH_STARS
from tasks.products.identity import ExposureId, ProductRef
from tasks.products.raw_survey import RawManifest, StaticMask
from tasks.products.simulated_survey import SurveyParameters
from tasks.science.simulation import (
    SurveyTruth,
    build_survey,
    circle_around_ccd,
    simulate_exposure,
    stars_in_circle,
    static_defects,
)
from tasks.stage import stage


class SimulationConfig(SurveyParameters):
    """Settings of the simulated survey."""


def list_simulated_exposures(config: SimulationConfig) -> tuple[ExposureId, ...]:
    """Return the exposures of a simulated survey, without drawing them."""
    first = config.pointing.first_number
    return tuple(ExposureId(f"{first + k:07d}") for k in range(config.pointing.n_exposures))


def draw_static_masks(config: SimulationConfig) -> list[StaticMask]:
    """Return the static masks of every detector that has a reference, in time order."""
    return [
        StaticMask(ccd, date, static_defects(config, ccd, period).dq)
        for ccd in range(config.camera.n_ccds)
        if ccd not in config.defects.ccds_without_reference
        for period, date in enumerate(config.defects.reference_dates)
    ]


def write_sky(survey: SurveyTruth, config: SimulationConfig, store: DataStore) -> list[ProductRef]:
    """Publish what is not an exposure: the truth, the star catalogues and the reference-file cache."""
    galaxies, stars = survey.galaxies, survey.stars
    listed = stars.mag <= config.stars.catalog_limit
    catalog = Table({"ra": stars.ra[listed], "dec": stars.dec[listed], "mag": stars.mag[listed]})
    refs = [
        write_document(store, raw_survey.TRUTH_SURVEY, config, subject="sky"),
        raw_survey.write_raw_table(store, raw_survey.TRUTH_GALAXIES, Table(vars(galaxies)), TRUTH_GALAXIES),
        raw_survey.write_raw_table(store, raw_survey.TRUTH_STARS, Table(vars(stars)), TRUTH_STARS),
        raw_survey.write_raw_table(store, raw_survey.STAR_CATALOG, catalog, STAR_CATALOG),
    ]
    for exposure in survey.exposures:
        for ccd in range(config.camera.n_ccds):
            circle = circle_around_ccd(survey, exposure, ccd)
            near = stars_in_circle(survey, circle)
            rows = stars.id[near], stars.ra[near], stars.dec[near], stars.mag[near]
            refs.append(raw_survey.write_star_list(store, exposure, ccd, circle, rows))
    return refs + write_reference_cache(store, draw_static_masks(config), config.defects.ccds_without_reference)


def write_exposure(survey: SurveyTruth, exposure: str, config: SimulationConfig, store: DataStore) -> list[ProductRef]:
    """Take one exposure and publish its image, weight and flag files."""
    ccds = simulate_exposure(survey, exposure)
    return raw_survey.write_raw_exposure(store, exposure, ccds, config.camera.distortion_convention)


def listed_files(store: DataStore, manifest: ProductRef) -> Sequence[ProductRef]:
    """Return the raw files that a manifest lists."""
    return read_document(store, manifest, RawManifest).files


def write_manifest(store: DataStore, key: str, files: Sequence[ProductRef], subject: str) -> ProductRef:
    """Publish the list of raw files, by key."""
    manifest = RawManifest(files=tuple(sorted(files, key=lambda ref: ref.key)))
    size = sum(ref.size for ref in files) / 1e6
    return write_document(store, key, manifest, subject=subject, summary={"n_files": len(files), "size_mb": size})


@stage(name="simulate", subject=lambda arguments: "survey", parts=listed_files)
def simulate_survey_task(config: SimulationConfig, store: DataStore) -> ProductRef:
    """Simulate a whole survey in one process; the bytes are those of the stages below."""
    survey = build_survey(config)
    files = write_sky(survey, config, store)
    for exposure in survey.exposures:
        files += write_exposure(survey, exposure, config, store)
    return write_manifest(store, raw_survey.survey_manifest_key(), files, "survey")


@stage(name="simulate_sky", subject=lambda arguments: "sky", parts=listed_files)
def simulate_sky_task(config: SimulationConfig, store: DataStore) -> ProductRef:
    """Draw the sky: truth, star catalogues, reference files; returns the list of these."""
    files = write_sky(build_survey(config), config, store)
    return write_manifest(store, raw_survey.part_manifest_key("sky"), files, "sky")


@stage(name="simulate_exposure", parts=listed_files)
def simulate_exposure_task(exposure: ExposureId, config: SimulationConfig, store: DataStore) -> ProductRef:
    """Take one exposure, independently of all others; returns the list of its files."""
    files = write_exposure(build_survey(config), exposure.name, config, store)
    return write_manifest(store, raw_survey.part_manifest_key(exposure.name), files, exposure.name)


@stage(name="simulate_manifest", subject=lambda arguments: "survey")
def list_survey_task(parts: list[ProductRef], config: SimulationConfig, store: DataStore) -> ProductRef:
    """Join the lists of the sky and of every exposure."""
    files = [ref for part in parts for ref in listed_files(store, part)]
    return write_manifest(store, raw_survey.survey_manifest_key(), files, "survey")
