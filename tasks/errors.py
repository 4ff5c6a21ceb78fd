"""The error tree, sorted by what to do next.

Every error takes one message: a sentence that names the thing and the numbers and says what to do. One argument also
means that every error survives pickling, which errors cross on their way out of a worker process.
"""


class ShearlineError(Exception):
    """Base class of all errors that Shearline raises on purpose."""


class ConfigError(ShearlineError):
    """The settings cannot work: nothing is started, or the run stops at once."""


class RulesError(ConfigError):
    """The rules that choose reference files cannot be used."""


class MissingRulesError(RulesError):
    """A cache, its context or one of its mappings is not there."""


class DamagedRulesError(RulesError):
    """A mapping cannot be read as one."""


class RulesChecksumError(RulesError):
    """A mapping does not have the checksum that it states."""


class WrongObservatoryError(RulesError):
    """A mapping belongs to another observatory."""


class BadRulesError(RulesError):
    """A mapping is marked as bad by the server of its observatory."""


class UnsupportedRulesError(RulesError):
    """A mapping needs programs of its observatory."""


class UnknownReferenceTypeError(RulesError):
    """The rules of an instrument do not know a reference type."""


class DataError(ShearlineError):
    """An input is bad and stays bad: never retried; the CCD, tile or object is set aside and reported."""


class BadFileError(DataError):
    """A file is truncated, of the wrong format or lacks an HDU."""


class PointerFileError(BadFileError):
    """A git-LFS pointer lies where the file itself should be."""


class TruncatedFileError(BadFileError):
    """A file is empty or ends before its end."""


class MissingKeywordError(DataError):
    """A header lacks a keyword that the instrument description names."""


class WCSError(DataError):
    """A header has no usable celestial coordinate system."""


class ShapeMismatchError(DataError):
    """Two arrays that belong together have different shapes."""


class NoGoodPixelsError(DataError):
    """An image has no usable pixel."""


class TooFewStarsError(DataError):
    """A CCD has fewer usable stars than the PSF model needs."""


class TooFewEpochsError(DataError):
    """A tile or object has fewer exposures than it needs."""


class UnknownExposureError(DataError):
    """An exposure is not in the raw store, or its name does not match the instrument's pattern."""


class ReferenceSelectionError(DataError):
    """No reference file can be chosen for an image, or the chosen file is not usable."""


class NoReferenceError(ReferenceSelectionError):
    """No rule fits the header of an image."""


class MissingReferenceError(ReferenceSelectionError):
    """The rules choose a file that the cache does not have."""


class BadReferenceError(ReferenceSelectionError):
    """The rules choose a file that is marked as bad by the server of its observatory."""


class ReferenceMismatchError(DataError):
    """A reference file does not fit the image that it was chosen for."""


class MissingProductError(ShearlineError):
    """A product that should be in the store is not there, or is not the one that was recorded: retried."""


class RunStoppedError(ShearlineError):
    """Work was not started because an earlier error stopped the run."""
