"""One exposure: split, flag, mask, detect, and a PSF model for every CCD."""

from __future__ import annotations

from prefect import flow

from blocks.crds import CrdsCache
from blocks.store import DataStore
from flows.config import ExposureConfig, ReferenceCache
from flows.outcome import TASK_RUNNER, Chain, settle
from tasks.archive.manifests import write_exposure_products
from tasks.archive.raw import find_raw_exposure, list_ccds, raw_file
from tasks.detect import detect_ccd_task
from tasks.dq_init import initialize_dq_task
from tasks.errors import DataError
from tasks.headers import index_headers_task
from tasks.mask import mask_ccd_task
from tasks.products.identity import CcdId, CcdProducts, ExposureId, ExposureProducts, ProductRef, RawExposure
from tasks.psf_fit import fit_psf_task
from tasks.psf_validate import validate_psf_task
from tasks.references import open_rules, select_reference_task
from tasks.report import write_exposure_report_task
from tasks.split import split_ccd_task
from tasks.stage import session
from tasks.stars import select_stars_task


@flow(name="exposure", flow_run_name="exposure {exposure}", task_runner=TASK_RUNNER)
def process_exposure(
    exposure: ExposureId, config: ExposureConfig, store: DataStore, raw: DataStore, workers: int = 2
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
    workers
        Number of worker processes.

    Returns
    -------
    ExposureProducts
        The good CCDs' products and the table of what was set aside; also published as ``products.json``.

    Raises
    ------
    DataError
        If fewer CCDs are good than the configured floor.
    """
    with session(workers):
        files = find_raw_exposure(raw, exposure, config.instrument)
        ccds = list_ccds(raw, files, config.instrument)
        stars = star_catalog(raw, config.star_catalog, exposure)
        good, set_aside = settle(_submit_ccds(ccds, files, stars, config, store, raw))
        if len(good) < config.min_ccds:
            reasons = "; ".join(f"{item.subject} ({item.stage}): {item.reason}" for item in set_aside[:3])
            raise DataError(
                f"Exposure {exposure} has {len(good)} good CCDs of {len(ccds)}; it needs {config.min_ccds}. {reasons}"
            )
        headers = index_headers_task(exposure, [stages["split"] for stages in good.values()], config.headers, store)
        products = ExposureProducts(
            exposure=exposure,
            headers=headers,
            ccds=tuple(_products(ccd, stages) for ccd, stages in good.items()),
            set_aside=set_aside,
        )
        write_exposure_products(store, products)
        write_exposure_report_task(products, config.report, store)
        return products


def _submit_ccds(
    ccds: list[CcdId],
    files: RawExposure,
    stars: ProductRef | None,
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
        mask = mask_ccd_task.submit(image, dq, stars, config.mask, store, raw)
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
    """Return the CRDS cache of the settings; ``{raw}`` in its root stands for the raw store.

    Raises
    ------
    ConfigError
        If the cache or its context cannot be used.
    """
    if settings is None:
        return None
    cache = CrdsCache(
        root=settings.root.replace("{raw}", raw.url),
        observatory=settings.observatory,
        context=settings.context,
        checksum=settings.checksum,
        endpoint_url=raw.endpoint_url,
        access_key=raw.access_key,
        secret_key=raw.secret_key,
    )
    open_rules(cache)
    return cache
