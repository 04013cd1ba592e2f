"""What a run has cost: from CPU seconds to kilowatt hours and money.

Nothing here is measured. A core that computes draws about `watts_per_core`, which the owner may set
to what a meter shows, and electricity costs `price_per_kwh`; both are stated beside the result, so
that nobody takes it for more than it is. CPU seconds are those of all processes of the peer, of
each core: two cores that work for a minute are 120.
"""

from dataclasses import dataclass
from math import isfinite

from p2ptrain.errors import ConfigError

JOULES_PER_KWH = 3_600_000.0
CURRENCY_LETTERS_MAX = 8


@dataclass(frozen=True, slots=True)
class Tariff:
    """What computing draws and what electricity costs.

    watts_per_core  of a core that computes, its share of memory and power supply included
    price_per_kwh   in the currency
    currency        such as "EUR"
    """

    watts_per_core: float = 10.0
    price_per_kwh: float = 0.30
    currency: str = "EUR"

    def __post_init__(self) -> None:
        """Refuse what is no power, no price and no currency.

        Raises:
          ConfigError  with the key, the value and what is allowed
        """
        for key in ("watts_per_core", "price_per_kwh"):
            value = getattr(self, key)
            if not (isfinite(value) and value >= 0):
                raise ConfigError(f"{key} = {value}: allowed is 0 or more")
        word = self.currency
        if not (0 < len(word) <= CURRENCY_LETTERS_MAX and word.isprintable() and word.strip()):
            raise ConfigError(
                f"currency = {word!r}: allowed are 1 to {CURRENCY_LETTERS_MAX} letters"
            )


@dataclass(frozen=True, slots=True)
class Energy:
    """What a run has drawn.

    cpu_seconds  of all cores together
    kwh          kilowatt hours
    cost         in the tariff's currency
    tariff       by which it was reckoned
    """

    cpu_seconds: float
    kwh: float
    cost: float
    tariff: Tariff

    def __str__(self) -> str:
        """Both figures and what they are made of, in one line."""
        tariff = self.tariff
        return (
            f"{self.kwh:.3g} kWh, {self.cost:.2g} {tariff.currency} ({self.cpu_seconds:.0f} CPU "
            f"seconds at {tariff.watts_per_core:g} W, {tariff.price_per_kwh:g} {tariff.currency} "
            "a kWh)"
        )


def energy_of(cpu_seconds: float, tariff: Tariff) -> Energy:
    """The energy and the cost of so many seconds of one core."""
    assert cpu_seconds >= 0, cpu_seconds
    kwh = cpu_seconds * tariff.watts_per_core / JOULES_PER_KWH
    return Energy(cpu_seconds, kwh, kwh * tariff.price_per_kwh, tariff)
