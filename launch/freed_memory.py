"""The C library is told to keep what a training step frees, because the next step wants it again."""

import ctypes
import platform

M_TRIM_THRESHOLD, M_MMAP_THRESHOLD = -1, -3
"""Parameters of glibc's mallopt(3)."""

KEPT_BYTES = 1 << 30
"""Blocks up to this size are kept."""


def keep_freed_memory() -> None:
    """Have glibc keep freed blocks instead of giving them back to the kernel; elsewhere nothing is done.

    On a CPU, XLA takes the memory of its intermediate results anew for every step. glibc would give so large a block
    back after each one, and the kernel would fill it with zeros for the next, page by page: a fifth of the time of
    the demo's training steps.
    """
    if platform.libc_ver()[0] == "glibc":
        libc = ctypes.CDLL(None)
        libc.mallopt(M_MMAP_THRESHOLD, KEPT_BYTES)
        libc.mallopt(M_TRIM_THRESHOLD, KEPT_BYTES)
