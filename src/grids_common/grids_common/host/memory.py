"""How much memory this computer has free; refuses what would not fit instead of being ended by the system."""

from pathlib import Path

from grids_common.errors import GridsError

_MEMINFO = Path("/proc/meminfo")


class TooLittleMemory(GridsError, ValueError):  # noqa: N818 - reads as what it says
    """Something needs more memory than is free; the text says how much of each, and what to do."""


def available_bytes(meminfo: Path = _MEMINFO) -> int | None:
    """Memory that a new program can use without swapping; None where the system does not say."""
    try:
        lines = meminfo.read_text(encoding="ascii").splitlines()
    except OSError:
        return None
    found = next((line.split()[1] for line in lines if line.startswith("MemAvailable:")), None)
    return None if found is None else int(found) * 1024


def require_memory(needed: int, what: str, advice: str, meminfo: Path = _MEMINFO) -> None:
    """Raise TooLittleMemory where fewer than `needed` bytes are free."""
    free = available_bytes(meminfo)
    if free is not None and free < needed:
        raise TooLittleMemory(
            f"{what} needs about {needed / 2**30:.1f} GiB of memory, and {free / 2**30:.1f} GiB are free: {advice}"
        )
