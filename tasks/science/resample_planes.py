"""The output of `Resample`: settings, planes, and how they are begun and completed."""

from __future__ import annotations

import warnings
from collections import defaultdict
from collections.abc import Mapping, MutableMapping, Sequence
from typing import Any, ClassVar, get_args

import numpy as np
from numpy.typing import DTypeLike

from tasks.science import resample_settings as settings
from tasks.science.drizzling import Drizzler, FluxKernel
from tasks.science.good_bits import FlagNames, GoodBits, interpret_good_bits, names_flags
from tasks.science.resample_grid import ResampleGrid
from tasks.science.resample_output import empty_output, total_error, variance_factor
from tasks.science.resample_settings import ComputeErr, FillValue, VarianceRule

READ_NOISE = "var_rnoise"
SMALLEST_PIXFRAC = 1e-6
"""A point to the engine."""


class ResamplePlanes(ResampleGrid):
    """The part of `Resample` that keeps the output."""

    output_array_types: ClassVar[MutableMapping[str, DTypeLike]] = defaultdict(
        lambda: np.float32,
        dict.fromkeys(("data", "wht", "var_rnoise", "var_flat", "var_poisson", "err"), np.float32) | {"con": np.int32},
    )
    """Types of the arrays of the output; any other variance is float32."""
    variance_array_names: Sequence[str] = ["var_rnoise", "var_flat", "var_poisson"]
    """Keys of the variances that are resampled."""
    error_from_variances: Sequence[str] | None = None
    """Variances of which ``"from_var"`` makes the error; None takes all."""
    dq_flag_name_map: FlagNames = None
    """Bits of the flag names that ``good_bits`` may use."""

    def __init__(
        self,
        output_wcs: Mapping[str, Any] | None,
        n_input_models: int | None = None,
        pixfrac: float = 1.0,
        kernel: str = "square",
        fillval: FillValue = 0.0,
        weight_type: str = "ivm",
        good_bits: GoodBits = 0,
        enable_ctx: bool = True,
        enable_var: bool = True,
        compute_err: ComputeErr = None,
        propagate_dq: bool = False,
        pixmap_stepsize: int | None = 1,
        pixmap_order: int = 1,
        *,
        variance_rule: VarianceRule = "averaged",
        n_threads: int = 1,
        memory_limit_gib: float | None = None,
    ) -> None:
        """See the class."""
        self.pixfrac, self.kernel, self.fillval, self.good_bits = pixfrac, kernel, fillval, good_bits
        self.weight_type, self.variance_rule, self.n_threads = weight_type, variance_rule, n_threads
        self.pixmap_stepsize, self.pixmap_order = settings.check_pixel_map(pixmap_stepsize, pixmap_order), pixmap_order
        self._enable_ctx, self._propagate_dq = bool(enable_ctx), bool(propagate_dq)
        self._enable_var = bool(enable_var) or compute_err == "from_var"
        self._compute_err = compute_err
        self._memory_limit_gib = memory_limit_gib
        self._check_settings()
        super().__init__(output_wcs)
        self.reset_arrays(n_input_models=n_input_models)

    def _check_settings(self) -> None:
        self._engine_kernel = settings.parse_kernel(self.kernel)
        self._engine_pixfrac = max(settings.check_pixfrac(self.pixfrac), SMALLEST_PIXFRAC)
        self._fill_value = settings.parse_fill_value(self.fillval)
        settings.check_choice(self.weight_type, settings.WEIGHT_TYPES, "weight_type")
        settings.check_choice(self._compute_err, ("from_var", "driz_err", None), "compute_err")
        settings.check_choice(self.variance_rule, ("averaged", "propagated"), "variance_rule")
        settings.check_number(self.n_threads, "n_threads")
        if self._memory_limit_gib is not None:
            settings.check_scale(self._memory_limit_gib, "memory_limit_gib")
        if self._compute_err == "from_var":
            settings.check_error_names(self.error_from_variances, self.variance_array_names)
        if self.dq_flag_name_map is not None or not names_flags(self.good_bits):
            # a table of names may still be set before the first model
            interpret_good_bits(self.good_bits, self.dq_flag_name_map)
        if self._engine_kernel not in get_args(FluxKernel):
            warnings.warn(f"The kernel {self.kernel!r} does not conserve flux.", stacklevel=3)

    @property
    def output_model(self) -> MutableMapping[str, Any]:
        """The output: arrays and what is known about them; see the page on Resample for its keys."""
        return self._output_model

    @property
    def enable_ctx(self) -> bool:
        """Whether the context is made."""
        return self._enable_ctx

    @property
    def enable_var(self) -> bool:
        """Whether variances are resampled."""
        return self._enable_var

    @property
    def compute_err(self) -> ComputeErr:
        """How the error is made; None if it is not."""
        return self._compute_err

    @property
    def propagate_dq(self) -> bool:
        """Whether flags are combined."""
        return self._propagate_dq

    def reset_arrays(self, n_input_models: int | None = None) -> None:
        """Make an empty output; `n_input_models` is the number of models that are expected."""
        if n_input_models is not None:
            settings.check_number(n_input_models, "n_input_models")
        self._n_models = 0
        self._pixel_scale_ratio = self._given_pixel_scale_ratio
        self._finalized = False
        options: dict[str, Any] = {
            "n_images": n_input_models,
            "context": self._enable_ctx,
            "error": self._compute_err == "driz_err",
            "dq": self._propagate_dq,
        }
        planes = options | self._variance_planes() | {"error": self._compute_err is not None}
        shape = self._output_array_shape
        settings.check_memory(shape, settings.output_bytes(shape, **planes), self._memory_limit_gib)
        self._output_model = self.create_output_model()
        together = {} if self._variances_apart() else self._variance_planes()
        self._drizzler = self._make_drizzler(**options, **together)
        self._apart: Drizzler | None = None
        if self._enable_var:
            self.init_variance_arrays()

    def create_output_model(self) -> MutableMapping[str, Any]:
        """Return an output model without data; subclasses may add to it."""
        names = ("pixfrac", "kernel", "fillval", "weight_type", "pixel_scale_ratio")
        planes = list(self.variance_array_names) if self._enable_var else []
        return empty_output(
            self._output_wcs,
            self._output_pixel_scale,
            {name: getattr(self, name) for name in names},
            planes + (["err"] if self._compute_err else []),
        )

    def init_variance_arrays(self) -> None:
        """Make the planes that variances are summed in; called by `reset_arrays`.

        They are part of those of the data, which are summed with them in one pass; a subclass with its own
        `resample_variance_arrays` has them apart.
        """
        if self._variances_apart():
            self._apart = self._make_drizzler(context=False, **self._variance_planes())

    def is_finalized(self) -> bool:
        """Tell whether the output is complete, so that no model can be added."""
        return self._finalized

    def finalize(self) -> None:
        """Complete the output: variances, error, times. Doing it again changes nothing.

        Raises
        ------
        RuntimeError
            If no model has been added.
        """
        if self._finalized:
            return
        if not self._n_models:
            raise RuntimeError("No model has been added, so there is nothing to finalize; call add_model first.")
        self._finalized = True
        self._publish()
        if self._enable_var:
            self.finalize_resample_variance(self._output_model)
        if self._compute_err == "from_var":
            names = self.variance_array_names if self.error_from_variances is None else self.error_from_variances
            self._output_model["err"] = total_error([self._output_model[name] for name in names])
        self.finalize_time_info()
        for name, dtype in self.output_array_types.items():
            if self._output_model.get(name) is not None:
                self._output_model[name] = self._output_model[name].astype(dtype, copy=False)
        # the running sums are not needed any more
        del self._drizzler, self._apart

    def finalize_resample_variance(self, output_model: MutableMapping[str, Any]) -> None:
        """Put the variances into an output model, with the factor of the pixel scale that `variance_rule` has.

        Parameters
        ----------
        output_model
            Gets an array for each name of ``variance_array_names``; NaN where nothing contributed.

        Raises
        ------
        RuntimeError
            If it is not called by `finalize`: the factor would count twice.
        """
        if not self._finalized or not hasattr(self, "_drizzler"):
            raise RuntimeError("finalize completes the variances, once; call that.")
        drizzler = self._apart or self._drizzler
        if self.variance_rule == "propagated":
            planes, factor = drizzler.propagated_variances, 1.0
        else:
            planes = drizzler.averaged_variances
            factor = self._variance_factor()
        if planes is None:
            return
        with np.errstate(over="ignore"):
            planes *= np.float32(factor)
        for name, plane in zip(self.variance_array_names, planes, strict=True):
            output_model[name] = plane.astype(self.output_array_types.get(name, np.float32), copy=False)

    def finalize_time_info(self) -> None:
        """Do nothing: there are no models yet."""

    def _publish(self) -> None:
        planes = {"data": self._drizzler.data, "wht": self._drizzler.weight}
        optional = {"con": self._drizzler.context, "dq": self._drizzler.dq, "err": self._drizzler.error}
        self._output_model.update(planes | {key: plane for key, plane in optional.items() if plane is not None})

    def _variance_factor(self) -> float:
        return variance_factor(self._pixel_scale_ratio, imaging=self._output_frame.imaging)

    def _variance_planes(self) -> dict[str, Any]:
        if not self._enable_var:
            return {}
        return {
            "variances": len(self.variance_array_names),
            "averaged": self.variance_rule == "averaged",
            "propagated": self.variance_rule == "propagated",
        }

    def _make_drizzler(self, **options: Any) -> Drizzler:  # noqa: ANN401 (those of Drizzler)
        names = list(self.variance_array_names)
        return Drizzler(
            self._output_array_shape,
            kernel=self._engine_kernel,
            pixfrac=self._engine_pixfrac,
            fill_value=self._fill_value,
            n_threads=self.n_threads,
            weight_plane=names.index(READ_NOISE) if READ_NOISE in names else 0,
            **options,
        )

    def _variances_apart(self) -> bool:
        """Tell whether variances are not resampled in one pass with the data."""
        return False
