"""Which sequences share a batch: best-fit-decreasing bins, so that batches are full and of equal size."""

from bisect import bisect_left, insort


def best_fit_decreasing(lengths: list[int], capacity: int) -> list[list[int]]:
    """Indices of `lengths` in bins of at most `capacity`: longest first, each into the fullest bin that still fits.

    Ties go to the earlier index and the earlier bin, so the result is a function of the lengths. O(n log n).
    Raises `ValueError` for a length beyond the capacity.
    """
    if lengths and max(lengths) > capacity:
        raise ValueError(f"a length of {max(lengths)} does not fit a capacity of {capacity}")
    bins: list[list[int]] = []
    room: list[tuple[int, int]] = []                            # (free, bin), sorted
    for index in sorted(range(len(lengths)), key=lambda i: (-lengths[i], i)):
        at = bisect_left(room, (lengths[index], -1))
        if at < len(room):
            free, chosen = room.pop(at)
        else:
            free, chosen = capacity, len(bins)
            bins.append([])
        bins[chosen].append(index)
        insort(room, (free - lengths[index], chosen))
    return bins


def concat_chunk(documents: list[list[int]], context: int, eos: int, *, drop_last: bool = True) -> list[list[int]]:
    """Documents joined with `eos` after each and cut to `context`; the tail is dropped or kept short."""
    flat = [token for document in documents for token in (*document, eos)]
    chunks = [flat[i:i + context] for i in range(0, len(flat), context)]
    return chunks[:-1] if drop_last and chunks and len(chunks[-1]) < context else chunks
