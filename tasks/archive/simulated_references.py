"""A CRDS cache of an observatory of its own: static masks per detector and date, and the rules that choose them.

The layout and the text of the mappings are those of the Calibration Reference Data System, so that its own rule engine
reads them; the checksum of a mapping is the SHA-1 of its text without the line that states it.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from typing import Final

import numpy as np
from astropy.io import fits

from blocks.store import DataStore
from tasks.archive.fits_files import fits_bytes, put_bytes
from tasks.archive.raw_survey import INSTRUMENT, detector_name
from tasks.products.dq import DQ_MEANINGS
from tasks.products.identity import ProductRef
from tasks.products.raw_survey import STATIC_FLAGS, StaticMask

ROOT: Final = "crds"
OBSERVATORY: Final = "shearsim"
CONTEXT: Final = f"{OBSERVATORY}_0001.pmap"
INSTRUMENT_RULES: Final = f"{OBSERVATORY}_{INSTRUMENT.lower()}_0001.imap"
TYPE_RULES: Final = f"{OBSERVATORY}_{INSTRUMENT.lower()}_dq_0001.rmap"
SUBARRAYS: Final = "FULL|CUSTOM|GENERIC"
"""A subarray has the reference of the full detector, from which its window is cut."""

PMAP: Final = """\
header = {{
    'derived_from' : 'generated with the simulated survey',
    'mapping' : 'PIPELINE',
    'name' : '{name}',
    'observatory' : '{observatory}',
    'parkey' : ('INSTRUME',),
    'sha1sum' : '{sha1}',
}}

selector = {{
    '{instrument}' : '{rules}',
}}
"""

IMAP: Final = """\
header = {{
    'derived_from' : 'generated with the simulated survey',
    'instrument' : '{instrument}',
    'mapping' : 'INSTRUMENT',
    'name' : '{name}',
    'observatory' : '{observatory}',
    'parkey' : ('REFTYPE',),
    'sha1sum' : '{sha1}',
}}

selector = {{
    'DARK' : 'N/A',
    'DQ' : '{rules}',
}}
"""

RMAP: Final = """\
header = {{
    'classes' : ('Match', 'UseAfter'),
    'derived_from' : 'generated with the simulated survey',
    'filekind' : 'DQ',
    'instrument' : '{instrument}',
    'mapping' : 'REFERENCE',
    'name' : '{name}',
    'observatory' : '{observatory}',
    'parkey' : (('DETECTOR', 'SUBARRAY'), ('DATE-OBS', 'TIME-OBS')),
    'sha1sum' : '{sha1}',
}}

selector = Match({{
{rules}}})
"""


def reference_name(serial: int) -> str:
    """Return the file name of a reference by its number."""
    return f"{OBSERVATORY}_{INSTRUMENT.lower()}_dq_{serial:04d}.fits"


def write_reference_cache(
    store: DataStore, masks: Sequence[StaticMask], ccds_without_reference: Sequence[int]
) -> list[ProductRef]:
    """Publish a CRDS cache below ``crds/``: configuration, mappings, and one reference file per mask.

    Parameters
    ----------
    store
        The raw store.
    masks
        Static masks, in time order for each CCD.
    ccds_without_reference
        CCDs for which the rules answer that no reference applies.

    Returns
    -------
    list of ProductRef
        Everything that was written.
    """
    refs, rules = [], dict.fromkeys(sorted(ccds_without_reference), "'N/A'")
    dates: dict[int, list[str]] = {}
    for serial, mask in enumerate(masks, start=1):
        name = reference_name(serial)
        key = f"{ROOT}/references/{OBSERVATORY}/{INSTRUMENT.lower()}/{name}"
        refs.append(put_bytes(store, key, _reference_bytes(name, mask), subject=detector_name(mask.ccd)))
        dates.setdefault(mask.ccd, []).append(f"        '{mask.use_after}' : '{name}',\n")
    rules |= {ccd: f"UseAfter({{\n{''.join(lines)}    }})" for ccd, lines in dates.items()}
    matches = "".join(f"    ('{detector_name(ccd)}', '{SUBARRAYS}') : {rules[ccd]},\n" for ccd in sorted(rules))
    texts = {
        f"config/{OBSERVATORY}/ref_cache_subdir_mode": "instrument",
        f"config/{OBSERVATORY}/server_config": _server_config(),
        f"mappings/{OBSERVATORY}/{CONTEXT}": _mapping(PMAP, CONTEXT, INSTRUMENT_RULES),
        f"mappings/{OBSERVATORY}/{INSTRUMENT_RULES}": _mapping(IMAP, INSTRUMENT_RULES, TYPE_RULES),
        f"mappings/{OBSERVATORY}/{TYPE_RULES}": _mapping(RMAP, TYPE_RULES, matches),
    }
    refs += [put_bytes(store, f"{ROOT}/{key}", text.encode(), subject=OBSERVATORY) for key, text in texts.items()]
    return refs


def _server_config() -> str:
    config = {
        "bad_files_list": [],
        "crds_version": {"str": "14.0.0"},
        "observatory": OBSERVATORY,
        "operational_context": CONTEXT,
        "server": "none",
        "status": "context parameter",
    }
    return f"{config!r}\n"


def _mapping(template: str, name: str, rules: str) -> str:
    def fill(sha1: str) -> str:
        return template.format(
            name=name, observatory=OBSERVATORY.upper(), instrument=INSTRUMENT, rules=rules, sha1=sha1
        )

    lines = fill("").splitlines(keepends=True)
    counted = "".join(line for line in lines if "sha1sum" not in line)
    return fill(hashlib.sha1(counted.encode(), usedforsecurity=False).hexdigest())


def _reference_bytes(name: str, mask: StaticMask) -> bytes:
    ny, nx = mask.dq.shape
    primary = fits.PrimaryHDU()
    header = primary.header
    header["FILENAME"] = name
    header["TELESCOP"] = OBSERVATORY.upper()
    header["INSTRUME"] = INSTRUMENT
    header["DETECTOR"] = detector_name(mask.ccd)
    header["REFTYPE"] = "DQ"
    header["USEAFTER"] = mask.use_after.replace(" ", "T")
    header["PEDIGREE"] = "GROUND"
    header["AUTHOR"] = "Shearline simulation"
    header["DESCRIP"] = "Static bad pixels of a simulated detector"
    header["SUBARRAY"] = "FULL"
    header["SUBSTRT1"], header["SUBSTRT2"] = 1, 1
    header["SUBSIZE1"], header["SUBSIZE2"] = nx, ny
    header["FASTAXIS"], header["SLOWAXIS"] = 1, 2
    numbered = np.zeros(mask.dq.shape, np.uint32)
    for bit, flag in enumerate(STATIC_FLAGS):
        numbered[(mask.dq & np.uint32(flag)) != 0] |= np.uint32(1 << bit)
    return fits_bytes([primary, fits.ImageHDU(numbered, name="DQ"), _definitions_hdu()])


def _definitions_hdu() -> fits.BinTableHDU:
    bits = np.arange(len(STATIC_FLAGS))
    columns = [
        fits.Column("BIT", "J", array=bits.astype(np.int32)),
        fits.Column("VALUE", "J", bzero=2**31, array=(1 << bits).astype(np.uint32)),
        fits.Column("NAME", "40A", array=np.array([flag.name for flag in STATIC_FLAGS])),
        fits.Column("DESCRIPTION", "80A", array=np.array([DQ_MEANINGS[flag] for flag in STATIC_FLAGS])),
    ]
    return fits.BinTableHDU.from_columns(columns, name="DQ_DEF")
