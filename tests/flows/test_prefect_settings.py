from prefect.settings import (
    PREFECT_CLIENT_MAX_RETRIES,
    PREFECT_FLOWS_HEARTBEAT_FREQUENCY,
    get_current_settings,
    temporary_settings,
)

from flows.prefect_settings import MAX_KEPT, changed_settings


def test_a_change_holds_inside_beside_what_others_have_changed_outside() -> None:
    before = PREFECT_CLIENT_MAX_RETRIES.value()
    for frequency in (45, 60, 45):
        with (
            temporary_settings({PREFECT_FLOWS_HEARTBEAT_FREQUENCY: frequency}),
            changed_settings({PREFECT_CLIENT_MAX_RETRIES: 0}),
        ):
            assert PREFECT_CLIENT_MAX_RETRIES.value() == 0
            assert PREFECT_FLOWS_HEARTBEAT_FREQUENCY.value() == frequency
        assert PREFECT_CLIENT_MAX_RETRIES.value() == before


def test_the_settings_are_built_once_for_the_same_change() -> None:
    built = []
    for _ in range(2):
        with changed_settings({PREFECT_CLIENT_MAX_RETRIES: 3}):
            built.append(get_current_settings())

    assert built[0] is built[1]


def test_many_different_changes_are_all_right() -> None:
    for retries in [*range(2 * MAX_KEPT), 0]:
        with changed_settings({PREFECT_CLIENT_MAX_RETRIES: retries}):
            assert PREFECT_CLIENT_MAX_RETRIES.value() == retries
