"""Which p2ptrain this is, as people and provenance name it."""

from importlib.metadata import PackageNotFoundError, version

from p2ptrain.config import ARITHMETIC


def version_number() -> str:
    """The release, such as 0.1.0; "unknown" when run from a checkout that is not installed."""
    try:
        return version("p2ptrain")
    except PackageNotFoundError:
        return "unknown"


def describe_version() -> str:
    """One line with everything that decides whether two peers can work together."""
    return f"p2ptrain {version_number()} (arithmetic {ARITHMETIC})"
