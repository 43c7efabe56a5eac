"""A wall clock of its own for one command: a library loaded before libc adds an offset, which can be stepped."""

import struct
import subprocess
from pathlib import Path

_SOURCE = r"""
#define _GNU_SOURCE
#include <fcntl.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>
static volatile long long *offset_ns;
__attribute__((constructor)) static void begin(void) {
    const char *path = getenv("SHIFTED_CLOCK");
    int file = path ? open(path, O_RDONLY) : -1;
    if (file < 0) return;
    void *memory = mmap(0, 8, PROT_READ, MAP_SHARED, file, 0);
    if (memory != MAP_FAILED) offset_ns = memory;
}
int clock_gettime(clockid_t clock, struct timespec *out) {
    int result = syscall(SYS_clock_gettime, clock, out);
    if (result == 0 && clock == CLOCK_REALTIME && offset_ns) {
        long long ns = out->tv_sec * 1000000000LL + out->tv_nsec + *offset_ns;
        out->tv_sec = ns / 1000000000LL;
        out->tv_nsec = ns % 1000000000LL;
    }
    return result;
}
"""


class ShiftedClock:
    """`environment` is for the command whose clock is shifted; built in `folder` with the C compiler."""

    def __init__(self, folder: Path, offset_s: float) -> None:
        source, library, self._file = folder / "shift.c", folder / "shift.so", folder / "shift.bin"
        source.write_text(_SOURCE)
        subprocess.run(["cc", "-shared", "-fPIC", "-O1", "-o", library, source], check=True)
        self.step(offset_s)
        self.environment = {"LD_PRELOAD": str(library), "SHIFTED_CLOCK": str(self._file)}

    def step(self, offset_s: float) -> None:
        """Set the clock to the true time plus `offset_s`."""
        with self._file.open("r+b" if self._file.exists() else "w+b") as file:
            file.write(struct.pack("q", round(offset_s * 1e9)))
