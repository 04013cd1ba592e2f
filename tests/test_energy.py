"""Energy and cost of a run: seconds x watts, and what that costs."""

import pytest

from p2ptrain.errors import ConfigError
from p2ptrain.train.energy import Tariff, energy_of


def test_a_hundred_cores_for_an_hour_are_a_kilowatt_hour() -> None:
    energy = energy_of(100 * 3600, Tariff())
    assert energy.kwh == pytest.approx(1)
    assert energy.cost == pytest.approx(0.30)


def test_the_line_says_what_was_assumed() -> None:
    energy = energy_of(1200, Tariff(watts_per_core=12, price_per_kwh=0.25, currency="CHF"))
    assert str(energy) == "0.004 kWh, 0.001 CHF (1200 CPU seconds at 12 W, 0.25 CHF a kWh)"
    assert str(energy_of(0, Tariff())).startswith("0 kWh, 0 EUR")


@pytest.mark.parametrize(
    "wrong",
    [
        {"watts_per_core": -1.0},
        {"watts_per_core": float("nan")},
        {"price_per_kwh": float("inf")},
        {"price_per_kwh": -0.1},
        {"currency": ""},
        {"currency": "  "},
        {"currency": "E\nR"},
        {"currency": "far too long"},
    ],
)
def test_what_is_no_tariff_is_refused(wrong: dict[str, object]) -> None:
    with pytest.raises(ConfigError, match=next(iter(wrong))):
        Tariff(**wrong)  # type: ignore[arg-type]
