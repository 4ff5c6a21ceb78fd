"""A MEDS file is checked three ways: read back by us, read as its format says, and read by the public package."""

import fitsio
import numpy as np
import pytest
from astropy.io import fits

from tasks.archive.fits_files import fits_bytes, put_bytes
from tasks.archive.meds import open_stamps, read_stamps, write_stamps
from tasks.errors import BadFileError, MissingProductError, ShapeMismatchError
from tasks.products.identity import ProductRef
from tasks.products.stamps import MultiEpochStamps

KEY = "tiles/210.296/stamps.fits"
SIZE, PSF_SIZE = 9, 7
CCDS = ("2113737-10", "2113738-3", "2113739-11")


@pytest.fixture
def stamps():
    """Three sources with 2, 0 and 3 epochs; a neighbour sits in a corner of the first."""
    rng = np.random.default_rng(1)
    first = np.array([0, 3, 4, 8])
    m = 8
    image_index = np.array([0, 1, 3, 0, 0, 1, 2, 3])
    orig_row, orig_col = rng.uniform(-3, 60, m), rng.uniform(-3, 60, m)
    start_row, start_col = np.floor(orig_row + 0.5).astype(int) - 4, np.floor(orig_col + 0.5).astype(int) - 4
    jacobian = np.array([[0.187, 0.001], [-0.002, -0.187]]) + rng.normal(0, 1e-3, (m, 2, 2))
    seg = np.zeros((m, SIZE, SIZE), np.int32)
    for i in range(3):
        seg[first[i] : first[i + 1], 3:6, 3:6] = 11 + i
    seg[:3, :2, :2] = 77
    psf = rng.uniform(0, 1, (m, PSF_SIZE, PSF_SIZE)).astype(np.float32)
    psf[image_index == 0] = 0
    return MultiEpochStamps(
        tile="210.296",
        ids=np.array([11, 12, 13]),
        ra=np.array([10.1, 10.2, 10.3]),
        dec=np.array([58.0, 58.1, 58.2]),
        first=first,
        images=("210.296", *CCDS),
        image_index=image_index,
        orig_row=orig_row,
        orig_col=orig_col,
        start_row=start_row,
        start_col=start_col,
        jacobian=jacobian,
        image=rng.normal(size=(m, SIZE, SIZE)).astype(np.float32),
        weight=rng.uniform(0.5, 1, (m, SIZE, SIZE)).astype(np.float32),
        bmask=rng.integers(0, 512, (m, SIZE, SIZE)).astype(np.int32),
        seg=seg,
        psf=psf,
    )


def all_cutouts(stamps, i):
    return [stamps.coadd(i), *stamps.epochs(i)]


def assert_same_epoch(found, expected):
    for name, value in vars(expected).items():
        np.testing.assert_array_equal(getattr(found, name), value, err_msg=name)


def test_stamps_come_back_as_they_were_written(store, stamps):
    back = read_stamps(store, write_stamps(store, KEY, stamps, summary={"n_sources": 3}))
    assert (back.tile, back.images) == (stamps.tile, stamps.images)
    assert back.n_epoch.tolist() == [2, 0, 3]
    for i in range(3):
        assert (back.ids[i], back.ra[i], back.dec[i]) == (stamps.ids[i], stamps.ra[i], stamps.dec[i])
        for found, expected in zip(all_cutouts(back, i), all_cutouts(stamps, i), strict=True):
            assert_same_epoch(found, expected)


def test_opened_stamps_give_arrays_in_the_byte_order_of_the_machine(store, stamps):
    ref = write_stamps(store, KEY, stamps)
    with open_stamps(store, ref) as back:
        epoch = back.epochs(2)[1]
        assert epoch.image.dtype.isnative
        assert epoch.image.dtype == np.float32
        assert_same_epoch(epoch, stamps.epochs(2)[1])


def test_epochs_are_without_the_coadd_and_keep_the_position_exactly(stamps):
    epoch = stamps.epochs(0)[1]
    assert [e.source_image for e in stamps.epochs(0)] == [CCDS[0], CCDS[2]]
    assert stamps.coadd(0).source_image == "210.296"
    assert epoch.cutout_row == epoch.orig_row - epoch.orig_start_row
    assert not stamps.coadd(0).psf.any()


def test_the_same_stamps_give_the_same_bytes(store, stamps):
    first = write_stamps(store, KEY, stamps)
    assert write_stamps(store, KEY, stamps).sha256 == first.sha256
    assert write_stamps(store, KEY, read_stamps(store, first)).sha256 == first.sha256


def test_any_fits_reader_finds_the_cutouts_where_the_format_says(store, stamps):
    ref = write_stamps(store, KEY, stamps)
    with store.local_copy(ref.key) as path, fitsio.FITS(str(path)) as file:
        table, info = file["object_data"][:], file["image_info"][:]
        assert file["metadata"][:]["magzp_ref"] == 30.0
        assert table["ncutout"].tolist() == [3, 1, 4]
        for i in range(3):
            for j, expected in enumerate(all_cutouts(stamps, i)):
                start, box = table["start_row"][i, j], table["box_size"][i]
                for plane in ("image", "weight", "seg", "bmask"):
                    flat = file[f"{plane}_cutouts"][start : start + box * box]
                    np.testing.assert_array_equal(flat.reshape(box, box), getattr(expected, plane))
                start, box = table["psf_start_row"][i, j], table["psf_box_size"][i]
                np.testing.assert_array_equal(file["psf"][start : start + box * box].reshape(box, box), expected.psf)
                assert table["cutout_row"][i, j] == expected.cutout_row
                assert table["orig_start_col"][i, j] == expected.orig_start_col
                assert table["dudcol"][i, j] == expected.jacobian[1, 1]
                assert table["dvdrow"][i, j] == expected.jacobian[0, 0]
                assert info["image_id"][table["file_id"][i, j]].strip() == expected.source_image
            assert (table["file_id"][i, table["ncutout"][i] :] == -9999).all()
        assert info["image_path"][1].strip() == "exposures/2113737/ccd-10/image.fits"
        assert info["image_path"][0].strip() == "tiles/210.296/coadd.fits"


def test_columns_of_cutouts_stay_two_dimensional_when_no_source_has_an_epoch(store, stamps):
    coadd_only = stamps.first[:-1]
    per_cutout = ("image_index", "orig_row", "orig_col", "start_row", "start_col", "jacobian")
    planes = ("image", "weight", "bmask", "seg", "psf")
    alone = MultiEpochStamps(
        **(vars(stamps) | {name: getattr(stamps, name)[coadd_only] for name in (*per_cutout, *planes)})
        | {"first": np.arange(4)}
    )
    ref = write_stamps(store, KEY, alone)
    with store.local_copy(ref.key) as path, fitsio.FITS(str(path)) as file:
        assert file["object_data"][:]["start_row"].shape == (3, 2)
    assert read_stamps(store, ref).n_epoch.tolist() == [0, 0, 0]


@pytest.mark.filterwarnings("ignore::PendingDeprecationWarning")
def test_the_public_package_reads_everything(store, stamps):
    meds = pytest.importorskip("meds", reason="esheldon/meds is on conda-forge")
    if not hasattr(meds, "MEDS"):
        pytest.skip("the installed `meds` is the medical package of that name on PyPI; esheldon/meds is on conda-forge")
    ref = write_stamps(store, KEY, stamps)
    with store.local_copy(ref.key) as path, meds.MEDS(str(path)) as file:
        assert file.size == 3
        assert file.has_psf()
        for i in range(3):
            expected = all_cutouts(stamps, i)
            for plane in ("image", "weight", "seg", "bmask", "psf"):
                for found, cutout in zip(file.get_cutout_list(i, type=plane), expected, strict=True):
                    np.testing.assert_array_equal(found, getattr(cutout, plane))
            for j, cutout in enumerate(expected):
                np.testing.assert_array_equal(file.get_cutout(i, j), cutout.image)
                np.testing.assert_array_equal(file.get_psf(i, j), cutout.psf)
                np.testing.assert_array_equal(file.get_jacobian_matrix(i, j), cutout.jacobian[::-1])
                assert file.get_jacobian(i, j)["row0"] == cutout.cutout_row
                assert file.get_source_info(i, j)["image_id"].strip() == cutout.source_image
        assert file.get_source_path(0, 0).strip() == "tiles/210.296/coadd.fits"
        # the neighbour of the first source takes its corner away, and nothing takes from the last
        uberseg = file.get_uberseg(0, 0, fast=False)
        assert uberseg[0, 0] == 0
        assert uberseg[4, 4] == stamps.coadd(0).weight[4, 4]
        np.testing.assert_array_equal(file.get_uberseg(2, 0, fast=False), stamps.coadd(2).weight)
        for i in range(3):
            for j in range(file["ncutout"][i]):
                assert file.get_uberseg(i, j, fast=False)[4, 4] > 0
                assert file.get_cseg_weight(i, j)[4, 4] > 0


def test_stamps_that_are_not_in_the_store_are_missing(store):
    ref = ProductRef(key=KEY, sha256="0" * 64, size=1, subject="210.296")
    with pytest.raises(MissingProductError, match=r"stamps\.fits of 210\.296 is not in"):
        read_stamps(store, ref)


@pytest.mark.parametrize("keep", [5000, 40000])
def test_a_truncated_file_is_refused(store, stamps, keep):
    data = store.read_bytes(write_stamps(store, KEY, stamps).key)
    assert len(data) > 40000
    ref = put_bytes(store, KEY, data[:keep], subject="210.296")
    with pytest.raises(BadFileError, match=r"tiles/210\.296/stamps\.fits"):
        read_stamps(store, ref)


def test_a_fits_file_that_is_no_meds_file_is_refused(store):
    table = fits.BinTableHDU(np.zeros(2, dtype=[("id", "i8")]), name="object_data")
    info = fits.BinTableHDU(np.zeros(1, dtype=[("image_id", "S3")]), name="image_info")
    with pytest.raises(BadFileError, match="has no HDU object_data"):
        read_stamps(store, put(store, [fits.PrimaryHDU()]))
    with pytest.raises(BadFileError, match="lacks the columns cutout_row, dudrow, ncutout, psf_box_size"):
        read_stamps(store, put(store, [fits.PrimaryHDU(), table, info]))


def put(store, hdus):
    return put_bytes(store, KEY, fits_bytes(hdus), subject="210.296")


def test_arrays_that_do_not_belong_together_are_refused(stamps):
    with pytest.raises(ShapeMismatchError, match=r"stamps of tile 210\.296 have 2 values of ra where 3 are needed"):
        MultiEpochStamps(**(vars(stamps) | {"ra": stamps.ra[:2]}))
    with pytest.raises(ShapeMismatchError, match="all four must agree"):
        MultiEpochStamps(**(vars(stamps) | {"seg": stamps.seg[:, 1:]}))
