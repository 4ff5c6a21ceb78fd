"""One exposure: split, flag, mask, detect, and a PSF model for every CCD."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from prefect import flow, get_run_logger

from blocks.crds import CrdsCache
from blocks.store import DataStore
from flows.artifacts import Progress, progress, show_exposure
from flows.claim import claim
from flows.config import ExposureConfig, ReferenceCache
from flows.notifications import TELL
from flows.outcome import TASK_RUNNER, Chain, refusal_kept, settle, verify_products
from flows.recipes import exposure_recipe, reference_cache
from tasks.archive.manifests import forget_exposure_products, read_exposure_summary, write_exposure_products
from tasks.archive.raw import find_raw_exposure, list_ccds, raw_file
from tasks.archive.star_lists import star_list_key
from tasks.detect import detect_ccd_task
from tasks.dq_init import initialize_dq_task
from tasks.errors import ConfigError, DataError
from tasks.headers import index_headers_task
from tasks.mask import mask_ccd_task
from tasks.products.identity import CcdId, CcdProducts, ExposureId, ExposureProducts, ProductRef, RawExposure
from tasks.products.recipe import Recipe
from tasks.psf_fit import fit_psf_task
from tasks.psf_validate import validate_psf_task
from tasks.references import open_rules, select_reference_task
from tasks.report import write_exposure_report_task
from tasks.runner import LOCAL, Runner
from tasks.session import session
from tasks.split import split_ccd_task
from tasks.stars import select_stars_task


@flow(name="exposure", flow_run_name="exposure {exposure}", task_runner=TASK_RUNNER, **TELL)
def process_exposure(
    exposure: ExposureId, config: ExposureConfig, store: DataStore, raw: DataStore, runner: Runner = LOCAL
) -> ExposureProducts:
    """Take one raw exposure to masks, source tables and PSF models.

    Parameters
    ----------
    exposure
        Name of the exposure in the raw store.
    config
        Settings of every stage.
    store
        Where the products go.
    raw
        Where the raw files are; never written.
    runner
        Where the stages run.

    Returns
    -------
    ExposureProducts
        The good CCDs' products and the table of what was set aside; also published as ``products.json``.

    Raises
    ------
    DataError
        If fewer CCDs are good than the configured floor.
    """
    with claim(store, f"exposure-{exposure}"), session(runner):
        files = find_raw_exposure(raw, exposure, config.instrument)
        recipe = exposure_recipe(files, config, raw)
        _forget_if_changed(store, exposure, recipe)
        with refusal_kept(store, exposure, recipe), progress(f"exposure {exposure}") as board:
            products = _process_ccds(files, config, store, raw, board).model_copy(update={"recipe": recipe})
        verify_products(store, products.all_products(), f"exposure {exposure}")
        write_exposure_products(store, products)
        report = write_exposure_report_task(products, config.report, store)
        show_exposure(products, report, store)
        return products


def _forget_if_changed(store: DataStore, exposure: ExposureId, recipe: Recipe) -> None:
    """Take an exposure off the processed ones before its products change: a tile must not mix old lists and new ones.

    If it is made by and from the same things again, its products stay what they are, and tiles that look for it
    meanwhile find it.
    """
    before = read_exposure_summary(store, exposure)
    if before is None or before.recipe != recipe:
        forget_exposure_products(store, exposure)


def _process_ccds(
    files: RawExposure, config: ExposureConfig, store: DataStore, raw: DataStore, board: Progress
) -> ExposureProducts:
    """Process every CCD and index the good ones."""
    exposure = files.exposure
    ccds = list_ccds(raw, files, config.instrument)
    stars = star_lists(raw, config, ccds)
    good, set_aside = settle(_submit_ccds(ccds, files, stars, config, store, raw), board)
    if len(good) < config.min_ccds:
        reasons = "; ".join(f"{item.subject} ({item.stage}): {item.reason}" for item in set_aside[:3])
        raise DataError(
            f"Exposure {exposure} has {len(good)} good CCDs of {len(ccds)}; it needs {config.min_ccds}. {reasons}"
        )
    return ExposureProducts(
        exposure=exposure,
        headers=index_headers_task(exposure, [stages["split"] for stages in good.values()], config.headers, store),
        ccds=tuple(_products(ccd, stages) for ccd, stages in good.items()),
        set_aside=set_aside,
    )


def _submit_ccds(
    ccds: list[CcdId],
    files: RawExposure,
    stars: Mapping[CcdId, ProductRef | None],
    config: ExposureConfig,
    store: DataStore,
    raw: DataStore,
) -> dict[CcdId, Chain]:
    """Start the stages of every CCD; each waits for its own CCD only."""
    cache = open_reference_cache(config.reference_cache, raw)
    images = [split_ccd_task.submit(ccd, files, config.split, config.instrument, raw, store) for ccd in ccds]
    references = [select_reference_task.submit(image, config.references, cache, store) for image in images]
    chains: dict[CcdId, Chain] = {}
    for ccd, image, reference in zip(ccds, images, references, strict=True):
        dq = initialize_dq_task.submit(image, reference, config.dq_init, store)
        mask = mask_ccd_task.submit(image, dq, stars[ccd], config.mask, store, raw)
        sources = detect_ccd_task.submit(image, mask, config.detect, store)
        selected = select_stars_task.submit(image, sources, config.stars, store)
        psf = fit_psf_task.submit(image, mask, sources, selected, config.psf_fit, store)
        residuals = validate_psf_task.submit(image, mask, sources, selected, psf, config.psf_validate, store)
        chains[ccd] = {
            "split": image,
            "references": reference,
            "dq_init": dq,
            "mask": mask,
            "detect": sources,
            "stars": selected,
            "psf_fit": psf,
            "psf_validate": residuals,
        }
    return chains


def _products(ccd: CcdId, stages: dict[str, ProductRef]) -> CcdProducts:
    return CcdProducts(
        ccd=ccd,
        image=stages["split"],
        dq=stages["dq_init"],
        mask=stages["mask"],
        sources=stages["detect"],
        stars=stages["stars"],
        psf=stages["psf_fit"],
        residuals=stages["psf_validate"],
    )


def star_catalog(raw: DataStore, key: str | None, subject: object) -> ProductRef | None:
    """Return the reference of the star catalogue, if the survey has one."""
    return raw_file(raw, key, subject) if key else None


def open_reference_cache(settings: ReferenceCache | None, raw: DataStore) -> CrdsCache | None:
    """Return the CRDS cache of the settings, whose rules are known to load.

    Raises
    ------
    ConfigError
        If the cache or its context cannot be used.
    """
    cache = reference_cache(settings, raw)
    if cache is not None:
        open_rules(cache)
    return cache


def star_lists(raw: DataStore, config: ExposureConfig, ccds: Sequence[CcdId]) -> dict[CcdId, ProductRef | None]:
    """Return the star list of every CCD: its own if the camera has such files, else that of the survey.

    Without any, halos and spikes of bright stars are not masked; the log says so.

    Raises
    ------
    DataError
        If the star list of a CCD is not in the raw store.
    ConfigError
        If the settings name a star catalogue that is not in the raw store.
    """
    template = config.instrument.star_list_file
    if template is not None:
        return {ccd: _star_list(raw, star_list_key(template, ccd), ccd) for ccd in ccds}
    if config.star_catalog is None and (config.mask.halo_mag_limit, config.mask.spike_mag_limit) != (None, None):
        get_run_logger().warning("There is no star catalogue, so halos and spikes of bright stars are not masked.")
    catalog = star_catalog(raw, config.star_catalog, ccds[0].exposure)
    return dict.fromkeys(ccds, catalog)


def _star_list(raw: DataStore, key: str, ccd: CcdId) -> ProductRef:
    try:
        return raw_file(raw, key, ccd)
    except ConfigError as error:
        # not a matter of the settings, which name no single file: this exposure lacks one of its own
        raise DataError(
            f"CCD {ccd.ccd} of exposure {ccd.exposure} has no star list {key} in {raw.url}; deliver it, and announce "
            "the exposure again."
        ) from error
