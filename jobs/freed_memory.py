"""What glibc does with the memory that a step of training frees; elsewhere than under glibc nothing changes."""

import ctypes

M_TRIM_THRESHOLD, M_MMAP_THRESHOLD = -1, -3  # malloc.h
KEPT_BYTES = 2**25  # the most that the threshold can be


def keep_freed_memory() -> None:
    """Blocks up to 32 MB that a step frees stay with the process for the next.

    glibc would give them back and get them anew, page by page and zeroed. Larger ones it does get anew, so that holes
    between those that stay cost little: to keep all would take a tenth more memory. Called once all that stays has its
    place.
    """
    libc = ctypes.CDLL(None)
    if hasattr(libc, "mallopt") and hasattr(libc, "malloc_trim"):
        libc.malloc_trim(0)
        libc.mallopt(M_MMAP_THRESHOLD, KEPT_BYTES)
        libc.mallopt(M_TRIM_THRESHOLD, -1)
