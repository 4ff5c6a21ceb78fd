"""The selection language."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tasks.errors import ConfigError
from tasks.science.selection import parse_selection

TABLE = {
    "mag_auto": np.array([16.0, 18.0, 20.0, 22.0, np.nan]),
    "fwhm": np.array([3.0, 3.1, 3.2, 6.0, 3.0], dtype=np.float32),
    "flags": np.array([0, 0, 4, 0, 0], dtype=np.int16),
}


def select(text: str) -> list[bool]:
    return parse_selection(text).evaluate(TABLE).tolist()


def value_of(text: str) -> float:
    """Find a number by comparison, the only way that the language lets one see it."""
    low, high = -1e6, 1e6
    for _ in range(90):
        middle = 0.5 * (low + high)
        low, high = (middle, high) if all(select(f"{text} > {middle!r}")) else (low, middle)
    return 0.5 * (low + high)


@pytest.mark.parametrize(
    ("text", "rows"),
    [
        ("mag_auto > 17", [False, True, True, True, False]),
        ("17 < mag_auto < 21.5", [False, True, True, False, False]),
        ("17 < mag_auto <= 22 and flags == 0", [False, True, False, True, False]),
        ("mag_auto < 17 or fwhm > 5", [True, False, False, True, False]),
        ("NOT flags != 0 AND fwhm >= 3.05", [False, True, False, True, False]),
        ("not (flags != 0 or fwhm < 3.05)", [False, True, False, True, False]),
        ("abs(fwhm - median(fwhm)) < 0.05", [False, True, False, False, False]),
        ("fwhm < max(fwhm, flags == 4) + 1e-3", [True, True, True, False, True]),
        ("len(fwhm, flags == 0) == 4", [True] * 5),
        ("mean(fwhm, flags > 100) < 1", [False] * 5),
        ("mag_auto == mag_auto", [True, True, True, True, False]),
        ("1 < 2", [True] * 5),
    ],
)
def test_rows_are_selected(text: str, rows: list[bool]) -> None:
    assert select(text) == rows


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("2 + 3 * 4", 14.0),
        ("(2 + 3) * 4", 20.0),
        ("10 - 2 - 3", 5.0),
        ("12 / 3 * 2", 8.0),
        ("-5 + 3 * -2", -11.0),
        ("--5", 5.0),
        ("1e-3 * 1.5E+3", 1.5),
        ("sqrt(log10(exp(log(10000))))", 2.0),
        ("pow(2, -1)", 0.5),
        ("mean(mag_auto - fwhm * 0)", 19.0),
        ("std(mag_auto)", np.sqrt(5.0)),
        ("var(mag_auto)", 5.0),
        ("sigma_mad(mag_auto)", 2.0 * 1.4826022),
        ("min(mag_auto) + max(mag_auto)", 38.0),
        ("mode(fwhm)", 3.1),
    ],
)
def test_arithmetic_has_the_usual_precedence(text: str, value: float) -> None:
    assert value_of(text) == pytest.approx(value, rel=1e-6)


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("17 < mag_aut", r"position 6: there is no column 'mag_aut'; did you mean 'mag_auto'\?"),
        ("zzz > 1", "there is no column 'zzz'; there are flags, fwhm, mag_auto"),
        ("mod(fwhm) > 3", r"position 1: there is no function 'mod'; did you mean 'mode'\?"),
        ("fwhm = 3", "position 6: '=' cannot stand here; equality is written =="),
        ("fwhm > ", "position 8: it ends too early"),
        ("(fwhm > 3", "position 10: it ends too early"),
        ("fwhm > 3)", r"position 9: '\)' is not expected"),
        ("fwhm + 1", "position 1: a condition is needed, and 'fwhm' begins a number"),
        ("fwhm > 3 and flags", "position 14: a condition is needed, and 'flags' begins a number"),
        ("fwhm and flags > 3", "position 1: a condition is needed, and 'fwhm' begins a number"),
        ("(fwhm > 3) + 1 > 0", r"position 1: a number is needed, and '\(' begins a condition"),
        ("pow(fwhm) > 1", "position 1: pow takes 2 arguments, not 1"),
        ("abs(fwhm, 2) > 1", "position 1: abs takes 1 argument, not 2"),
        ("mean(fwhm, 2) > 1", "position 12: a condition is needed, and '2' begins a number"),
        ("3x > 1", "position 1: '3' cannot stand here"),
        ("fwhm > 3; import os", "position 9: ';' cannot stand here"),
        ("fwhm.__class__ > 3", "position 5: '.' cannot stand here"),
        ("and fwhm > 3", "position 1: a number, column or function is needed, not 'and'"),
        ("fwhm > (1,2)", r"position 10: '\)' is needed, not ','"),
        ("", "position 1: it ends too early"),
        ("(" * 60 + "1" + ")" * 60 + " > 0", "nested more than 50 levels deep"),
        ("fwhm > " + "-" * 60 + "1", "nested more than 50 levels deep"),
        ("not " * 60 + "fwhm > 1", "nested more than 50 levels deep"),
        ("1 > 0 or " * 300 + "1 > 0", "at most 2000 characters, not 2705"),
    ],
)
def test_a_fault_is_named_with_its_position(text: str, sentence: str) -> None:
    with pytest.raises(ConfigError, match=sentence):
        parse_selection(text, TABLE)


def test_unknown_columns_are_found_at_the_latest_by_the_table() -> None:
    selection = parse_selection("fwhm_image > 3")

    with pytest.raises(ConfigError, match=r"position 1: there is no column 'fwhm_image'; did you mean 'fwhm'\?"):
        selection.evaluate(TABLE)


def test_a_column_with_several_numbers_per_row_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"column 'flux_aper' has float64 values of shape \(5, 2\)"):
        parse_selection("flux_aper > 1").evaluate({"flux_aper": np.zeros((5, 2))})


def test_the_columns_are_listed_in_the_order_of_their_use() -> None:
    assert parse_selection("mode(fwhm, flags == 0) > mag_auto - fwhm").columns == ("fwhm", "flags", "mag_auto")


def test_the_table_is_not_changed() -> None:
    before = {name: values.copy() for name, values in TABLE.items()}
    select("abs(fwhm - mode(fwhm)) / fwhm < 0.2")

    for name, values in before.items():
        np.testing.assert_array_equal(values, TABLE[name])


@settings(max_examples=200, deadline=None, derandomize=True)
@given(st.text(alphabet="fwhmag_uto0123456789.eE+-*/<>=!(), andornt", max_size=40))
def test_any_text_is_a_selection_or_a_config_error(text: str) -> None:
    try:
        rows = parse_selection(text).evaluate(TABLE)
    except ConfigError:
        return
    assert rows.shape == (5,)
    assert rows.dtype == np.bool_
