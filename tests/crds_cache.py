"""Writes small CRDS caches for tests, with right checksums, their DQ references, and a CCD that they are chosen for."""

import hashlib
from pathlib import Path

import numpy as np
from astropy.io import fits
from astropy.wcs import WCS

from tasks.archive.images import write_ccd_image
from tasks.products.identity import CcdId
from tasks.products.images import CcdImage, Photometry, Window

HEADER = {"INSTRUME": "CAM", "DETECTOR": "CCD0", "SUBARRAY": "FULL", "DATE-OBS": "2022-03-04T05:06:07"}


def mapping_text(header, selector):
    """Text of a mapping file; ``selector`` is the source after ``selector =``."""
    lines = [f"    {name!r} : {value!r},\n" for name, value in header.items()]
    body = "header = {\n" + "".join(lines), "}\n\nselector = " + selector + "\n"
    sha1 = hashlib.sha1("".join(body).encode()).hexdigest()
    return f"{body[0]}    'sha1sum' : '{sha1}',\n{body[1]}"


def dictionary(items):
    return "{\n" + "".join(f"    {key!r} : {value!r},\n" for key, value in items.items()) + "}"


def match(cases):
    """Source of a Match over UseAfter selector: ``{("IMG1", "FULL"): {"2020-01-01 00:00:00": "a.fits"}}``."""
    rows = []
    for key, value in cases.items():
        rows.append(
            f"    {key!r} : UseAfter({dictionary(value)}),\n"
            if isinstance(value, dict)
            else f"    {key!r} : {value!r},\n"
        )
    return "Match({\n" + "".join(rows) + "})"


class Cache:
    """A cache of one observatory in a folder."""

    def __init__(self, root: Path, observatory: str = "testobs", instrument_key: str = "INSTRUME"):
        self.root, self.observatory, self.instrument_key = root, observatory, instrument_key
        self.mappings = root / "mappings" / observatory
        self.references = root / "references" / observatory
        self.mappings.mkdir(parents=True, exist_ok=True)
        self.references.mkdir(parents=True, exist_ok=True)

    @property
    def context(self):
        return f"{self.observatory}_0001.pmap"

    def read(self, name):
        return (self.mappings / name).read_text()

    def write(self, name, text):
        (self.mappings / name).write_text(text)
        return name

    def write_pmap(self, instruments, name=None, **header):
        header = {
            "derived_from": "generated", "mapping": "PIPELINE", "name": name or self.context,
            "observatory": self.observatory.upper(), "parkey": (self.instrument_key,),
        } | header  # fmt: skip
        return self.write(name or self.context, mapping_text(header, dictionary(instruments)))

    def write_imap(self, instrument, types, serial=1, **header):
        name = f"{self.observatory}_{instrument.lower()}_{serial:04d}.imap"
        header = {
            "derived_from": "generated", "instrument": instrument.upper(), "mapping": "INSTRUMENT", "name": name,
            "observatory": self.observatory.upper(), "parkey": ("REFTYPE",),
        } | header  # fmt: skip
        return self.write(name, mapping_text(header, dictionary(types)))

    def write_rmap(
        self, instrument, reference_type, selector,
        parkey=(("DETECTOR", "SUBARRAY"), ("DATE-OBS", "TIME-OBS")), serial=1, **header,
    ):  # fmt: skip
        name = f"{self.observatory}_{instrument.lower()}_{reference_type}_{serial:04d}.rmap"
        header = {
            "classes": ("Match", "UseAfter"), "derived_from": "generated", "filekind": reference_type.upper(),
            "instrument": instrument.upper(), "mapping": "REFERENCE", "name": name,
            "observatory": self.observatory.upper(), "parkey": parkey,
        } | header  # fmt: skip
        return self.write(name, mapping_text(header, selector))

    def write_server_config(self, text):
        folder = self.root / "config" / self.observatory
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "server_config").write_text(text)

    def write_reference(self, name, dq=None, definitions=None, **keywords):
        write_dq_reference(self.references / name, dq, definitions, **keywords)


def write_simple_cache(root, observatory="testobs", **keys):
    """A cache of one instrument CAM with DQ references of the detectors CCD0 and CCD1 from two dates on."""
    cache = Cache(root, observatory, **keys)
    dates = {detector: {"2020-01-01 00:00:00": f"{detector}_a.fits", "2024-06-01 00:00:00": f"{detector}_b.fits"}
             for detector in ("CCD0", "CCD1")}  # fmt: skip
    rmap = cache.write_rmap(
        "CAM",
        "dq",
        match({("CCD0", "*"): dates["CCD0"], ("CCD1", "FULL|STRIPE"): dates["CCD1"], ("CCD2", "N/A"): "N/A"}),
    )
    imap = cache.write_imap("CAM", {"DQ": rmap, "FLAT": "N/A", "DARK": "OMIT"})
    cache.write_pmap({"CAM": imap, "SPEC": "N/A"})
    return cache


def dq_hdus(dq=None, definitions=None, **keywords):
    """HDUs of a DQ reference file; definitions are pairs of value and name."""
    primary = fits.PrimaryHDU()
    primary.header.update({key.upper(): value for key, value in keywords.items()})
    plane = np.zeros((8, 12), np.uint32) if dq is None else np.asarray(dq)
    hdus = [primary, fits.ImageHDU(plane, name="DQ")]
    if definitions is not None:
        values = [value for value, _ in definitions]
        columns = [
            fits.Column("BIT", "J", array=[max(value, 1).bit_length() - 1 for value in values]),
            fits.Column("VALUE", "J", bzero=2**31, array=np.array(values, np.uint32)),
            fits.Column("NAME", "40A", array=[name for _, name in definitions]),
            fits.Column("DESCRIPTION", "80A", array=["" for _ in definitions]),
        ]
        hdus.append(fits.BinTableHDU.from_columns(columns, name="DQ_DEF"))
    return fits.HDUList(hdus)


def write_dq_reference(path, dq=None, definitions=None, **keywords):
    dq_hdus(dq, definitions, **keywords).writeto(path, overwrite=True)


def store_ccd(store, keywords=None, **changes):
    wcs = WCS(naxis=2)
    wcs.wcs.ctype = ["RA---TAN", "DEC--TAN"]
    wcs.wcs.crval, wcs.wcs.crpix, wcs.wcs.cdelt = [10, 20], [6, 4], [-1e-4, 1e-4]
    image = CcdImage(
        id=CcdId(exposure="2113737", ccd=4), sci=np.ones((8, 12), np.float32), weight=np.ones((8, 12), np.float32),
        dq=np.zeros((8, 12), np.uint32), wcs=wcs, photometry=Photometry(1.5, 5, 60000, 200, 26, 59000, "r"),
        data_section=Window(0, 0, 12, 8), keywords=(HEADER if keywords is None else keywords) | changes,
    )  # fmt: skip
    return write_ccd_image(store, "exposures/2113737/ccd-04/image.fits", image)
