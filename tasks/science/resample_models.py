"""The models that `Resample` takes: their checks, arrays, weights and times."""

from __future__ import annotations

import logging
import math
from typing import Any

from astropy import units

from tasks.science.good_bits import interpret_good_bits
from tasks.science.resample_grid import pixel_scale
from tasks.science.resample_inputs import (
    REQUIRED_KEYS,
    InputArrays,
    Model,
    check_area,
    check_keys,
    check_times,
    model_name,
    read_arrays,
    weight_plane,
)
from tasks.science.resample_output import Plane
from tasks.science.resample_planes import READ_NOISE, ResamplePlanes
from tasks.science.resample_time import TimeCounters, weighting_time
from tasks.science.resample_wcs import pixel_frame

log = logging.getLogger(__name__)

WEIGHT_VARIANCES = {"ivm": READ_NOISE, "ivm-sky": "var_sky"}
"""The variance whose inverse is the weight."""


class ResampleModels(ResamplePlanes):
    """The part of `Resample` that reads models."""

    def validate_input_model(self, model: Model) -> None:
        """Check that a model has every key that the settings need, and times that can be.

        Raises
        ------
        TypeError
            If it is not a dictionary, its pixel area is no number, or its start or end cannot be compared with those of
            earlier models.
        KeyError
            If a key is missing.
        ValueError
            If a time cannot be.
        """
        name = model_name(model, self._n_models + 1)
        keys = list(REQUIRED_KEYS)
        if self._enable_var:
            keys += self.variance_array_names
        elif self.weight_type == "ivm":
            keys.append(READ_NOISE)
        if self._compute_err == "driz_err":
            keys.append("err")
        check_keys(model, keys, name)
        if pixel_frame(model["wcs"], name).spectral:
            check_keys(model, ["bunit_data"], name)
        check_area(model, name)
        check_times(model, self.weight_type, name)
        self._times.check(model, name)

    def reset_arrays(self, n_input_models: int | None = None) -> None:
        """Start anew: an empty output, no groups, times or models, and the pixel scale ratio that was given, if any.

        Grid and settings stay. Needed before `add_model` after `finalize`; the former output stays as it is.

        Parameters
        ----------
        n_input_models
            Number of models expected, to have their context planes from the start.
        """
        super().reset_arrays(n_input_models=n_input_models)
        self._group_ids: list[Any] = []
        self.init_time_counters()

    @property
    def group_ids(self) -> list[Any]:
        """Group IDs of the models that reached the output, in the order in which they came."""
        return self._group_ids

    def init_time_counters(self) -> None:
        """Set all times to nothing."""
        self._times = TimeCounters()

    def finalize_time_info(self) -> None:
        """Put the times and the number of pointings into the output model."""
        self._output_model.update(self._times.totals() | {"pointings": len(self._group_ids)})

    def update_time(self, model: Model) -> None:
        """Add the times of a model, unless one of its group has been counted."""
        if model["group_id"] not in self._group_ids:
            self._times.add_group(model)

    def _read(self, model: Model, name: str) -> InputArrays:
        weighting = WEIGHT_VARIANCES.get(self.weight_type)
        return read_arrays(
            model,
            name,
            variances={*(self.variance_array_names if self._enable_var else ()), *([weighting] if weighting else [])},
            drizzle_err=self._compute_err == "driz_err",
            use_dq=self._good_bits() is not None,
            keep_dq=self._propagate_dq,
        )

    def _good_bits(self) -> int | None:
        return interpret_good_bits(self.good_bits, self.dq_flag_name_map)

    def _weight(self, model: Model, arrays: InputArrays) -> Plane:
        variance, constant = None, 1.0
        if self.weight_type == "exptime":
            constant = weighting_time(model)
        else:
            name = WEIGHT_VARIANCES[self.weight_type]
            variance = arrays.variances[name]
            if variance is None:
                log.warning("The model %s has no %r: all of its pixels have weight 1.", arrays.name, name)
        return weight_plane(arrays, self._good_bits(), variance=variance, constant=constant)

    def _find_pixel_scale_ratio(self, model: Model, *, imaging: bool) -> None:
        if self._pixel_scale_ratio is not None or not imaging:
            return
        area = self.get_input_model_pixel_area(model, prefer_mean=False)
        if area is not None and 0 < area < math.inf:
            self._pixel_scale_ratio = self._output_pixel_scale / pixel_scale(area)
            if self._output_model.get("pixel_scale_ratio") is None:
                self._output_model["pixel_scale_ratio"] = self._pixel_scale_ratio

    def _intensity_scale(self, model: Model, *, spectral: bool) -> float:
        """Return the factor that keeps the flux density of a spectrum when its pixels change their size on the sky."""
        if not spectral or not model["pixelarea_steradians"] or self._pixel_scale_ratio is None:
            return 1.0
        return 1.0 / self._pixel_scale_ratio if is_flux_density(model["bunit_data"]) else 1.0

    def _variances(self, arrays: InputArrays) -> tuple[Plane | None, ...]:
        return tuple(arrays.variances[name] for name in self.variance_array_names)

    def _variance_weight(self, model: Model, arrays: InputArrays) -> float | None:
        """Return the weight of a model among the averaged variances; None takes the inverse of its own read noise."""
        if self.weight_type == "exptime":
            return weighting_time(model)
        has_noise = READ_NOISE in self.variance_array_names and arrays.variances.get(READ_NOISE) is not None
        return None if has_noise else 1.0

    def _count(self, model: Model) -> None:
        if model["group_id"] in self._group_ids:
            self._times.extend(model)
            return
        self.update_time(model)
        self._group_ids.append(model["group_id"])
        self._output_model["pointings"] += 1


def is_flux_density(unit: object) -> bool:
    """Tell whether a unit is one of flux density, such as MJy, rather than of surface brightness."""
    try:
        return bool(units.Unit(unit).is_equivalent(units.Jy))
    except (ValueError, TypeError):
        return False
