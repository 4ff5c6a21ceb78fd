"""PSFEx files: ours are read by the community's reader, and theirs by us."""

from pathlib import Path

import galsim
import galsim.des
import numpy as np
import pytest
from astropy.io import fits

from blocks.store import DataStore
from tasks.archive.fits_files import put_fits
from tasks.archive.psfex import psf_from_hdus, psf_hdu, read_psf, write_psf
from tasks.errors import BadFileError
from tasks.products.psf import PsfModel
from tasks.science.moments import adaptive_moments
from tasks.science.psf import evaluate_psf

LEGACY = Path(__file__).parents[1] / "data/decam/c4d_170316_062107_ooi_z_ls9-psfex.fits"
KEY = "exposures/2113737/ccd-10/psf.psf"


def make_model(**changes: object) -> PsfModel:
    star = galsim.Moffat(beta=3.0, fwhm=3.8).drawImage(nx=51, ny=51, scale=1.0).array
    offset = np.arange(51) - 25.0
    images = [star, 0.002 * star * offset, np.zeros_like(star), 0.003 * star * offset[:, None]]
    fields: dict[str, object] = {
        "subject": "2113737-10",
        "coefficients": np.array([*images, 0.001 * star, np.zeros_like(star)], np.float32),
        "degree": 2, "x0": 1023.5, "x_scale": 1024.0, "y0": 2303.5, "y_scale": 2304.0,
        "n_loaded": 50, "n_accepted": 48, "chi2": 1.02, "fwhm": 3.9,
    }  # fmt: skip
    return PsfModel(**{**fields, **changes})  # type: ignore[arg-type]


def test_a_model_comes_back_as_it_was(store: DataStore) -> None:
    model = make_model()
    found = read_psf(store, write_psf(store, KEY, model, {"n_stars": 48}))

    np.testing.assert_array_equal(found.coefficients, model.coefficients)
    for name in model.__dataclass_fields__:
        if name != "coefficients":
            assert getattr(found, name) == getattr(model, name)


def test_the_file_has_the_layout_of_psfex_with_positions_from_one(store: DataStore) -> None:
    ref = write_psf(store, KEY, make_model())
    with store.open(ref.key) as handle, fits.open(handle) as hdus:
        table = hdus["PSF_DATA"]

        assert table.data["PSF_MASK"].shape == (1, 6, 51, 51)
        assert table.data["PSF_MASK"].dtype == np.dtype(">f4")
        assert (table.header["POLZERO1"], table.header["POLSCAL1"]) == (1024.5, 1024.0)
        assert (table.header["POLNAXIS"], table.header["POLDEG1"], table.header["PSF_SAMP"]) == (2, 2, 1.0)
        assert (table.header["LOADED"], table.header["ACCEPTED"]) == (50, 48)


def test_galsims_reader_sees_the_same_psf(store: DataStore, tmp_path: Path) -> None:
    model = make_model()
    ref = write_psf(store, KEY, model)
    path = tmp_path / "psf.psf"
    path.write_bytes(store.read_bytes(ref.key))
    theirs = galsim.des.DES_PSFEx(str(path))
    for x, y in ((100.0, 300.0), (1900.0, 4000.0)):
        drawn = theirs.getPSF(galsim.PositionD(x + 1, y + 1)).drawImage(nx=51, ny=51, scale=1.0, method="no_pixel")
        expected = adaptive_moments(drawn.array[None])
        found = adaptive_moments(evaluate_psf(model, np.array([x]), np.array([y])))

        assert found.g1[0] == pytest.approx(expected.g1[0], abs=1e-4)
        assert found.g2[0] == pytest.approx(expected.g2[0], abs=1e-4)
        assert found.sigma[0] == pytest.approx(expected.sigma[0], rel=1e-4)


def test_a_merged_table_of_the_legacy_surveys_is_read() -> None:
    with fits.open(LEGACY) as hdus:
        model = psf_from_hdus(hdus, LEGACY.name)
        same = psf_from_hdus(hdus, LEGACY.name, ccd_name="N2")

    assert (model.subject, model.degree, model.coefficients.shape) == ("630780-N2", 2, (6, 63, 63))
    assert (model.n_loaded, model.n_accepted) == (122, 122)
    assert model.fwhm == pytest.approx(4.2613, abs=1e-4)
    np.testing.assert_array_equal(model.coefficients, same.coefficients)
    psf = evaluate_psf(model, np.array([500.0]), np.array([1000.0]))
    moments = adaptive_moments(psf)

    assert psf.shape == (1, 51, 51)
    assert psf.sum() == pytest.approx(1.0, abs=1e-6)
    assert moments.x[0] == pytest.approx(25.0, abs=1e-3)
    # PSFEx measures its PSF_FWHM in another way than by moments
    assert 2.3548 * moments.sigma[0] == pytest.approx(model.fwhm, rel=0.15)


def test_the_right_row_of_a_merged_table_is_taken() -> None:
    with fits.open(LEGACY) as hdus:
        one = hdus[1].data
        two = fits.BinTableHDU.from_columns(hdus[1].columns, nrows=2)
        for name in one.names:
            two.data[name][1] = one[name][0]
        two.data["ccdname"][1] = "N3"
        two.data["psf_fwhm"][1] = 9.0
        merged = fits.HDUList([fits.PrimaryHDU(), two])

    assert psf_from_hdus(merged, "a.fits", ccd_name="N3").fwhm == 9.0
    with pytest.raises(BadFileError, match=r"a.fits has no PSF model of CCD S7; it has N2, N3\."):
        psf_from_hdus(merged, "a.fits", ccd_name="S7")
    with pytest.raises(BadFileError, match=r"a\.fits has the PSF models of 2 CCDs; say which one is meant"):
        psf_from_hdus(merged, "a.fits")


def test_a_psf_that_does_not_vary_is_read() -> None:
    hdu = psf_hdu(make_model())
    hdu = fits.BinTableHDU(hdu.data, hdu.header)
    plain = fits.Column("PSF_MASK", "2601E", dim="(51,51)", array=hdu.data["PSF_MASK"][:, 0])
    constant = fits.BinTableHDU.from_columns([plain], name="PSF_DATA")
    constant.header["POLNAXIS"], constant.header["PSF_SAMP"] = 0, 1.0
    model = psf_from_hdus(fits.HDUList([fits.PrimaryHDU(), constant]), "c.psf")

    assert model.degree == 0
    assert evaluate_psf(model, np.array([0.0, 900.0]), np.array([0.0, 10.0])).shape == (2, 51, 51)


@pytest.mark.parametrize(
    ("keyword", "value", "sentence"),
    [
        ("POLNAXIS", 3, "depends on 3 parameters; only x and y"),
        ("POLNAME1", "MAG_AUTO", "depends on MAG_AUTO, not on the position X"),
        ("POLDEG1", 3, r"PSF_MASK has shape \(6, 51, 51\), which is no polynomial of degree 3"),
        ("PSF_SAMP", None, "bad.psf is not a PSF model: .*PSF_SAMP"),
    ],
)
def test_a_model_of_another_kind_is_refused(keyword: str, value: object, sentence: str) -> None:
    hdu = psf_hdu(make_model())
    if value is None:
        del hdu.header[keyword]
    else:
        hdu.header[keyword] = value
    with pytest.raises(BadFileError, match=sentence):
        psf_from_hdus(fits.HDUList([fits.PrimaryHDU(), hdu]), "bad.psf")


def test_a_file_without_a_model_is_refused(store: DataStore) -> None:
    ref = put_fits(store, KEY, [fits.ImageHDU(np.zeros((3, 3), np.float32), name="SCI")], subject="2113737-10")

    with pytest.raises(BadFileError, match=r"psf\.psf is not a PSF model: no table of it has a column PSF_MASK"):
        read_psf(store, ref)
