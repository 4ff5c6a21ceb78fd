"""Why a request is refused: the status of the answer, and one sentence for the sender."""


class RefusedError(Exception):
    """A request that is not accepted."""

    status = 400


class UnauthorizedError(RefusedError):
    """The sender did not prove who it is."""

    status = 401


class TooSlowError(RefusedError):
    """The request did not come in time."""

    status = 408


class ReplayedError(RefusedError):
    """The same signed request was accepted before."""

    status = 409


class TooLargeError(RefusedError):
    """The request is larger than any notification."""

    status = 413


class BusyError(RefusedError):
    """The request cannot be dealt with now; the sender should try again."""

    status = 503
