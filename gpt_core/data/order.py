"""The order of samples: a seeded bijection on [0, n), computed and never stored.

A Feistel network over pairs: sample i is (i // columns, i % columns), each round adds to one half a keyed hash of
the other, modulo its size, and the sum is undone by subtracting (Luby and Rackoff 1988; with unequal halves: Black
and Rogaway 2002, "Ciphers with arbitrary finite domains"). rows x columns exceeds n by less than a row, so hardly
any number leaves [0, n); one that does is permuted again until it is back ("cycle walking", ibid.).
Not cryptography: the round hash is splitmix64's finalizer (Steele, Lea and Flood 2014).
"""

import math

import numpy as np
import numpy.typing as npt

ROUNDS = 12  # with 6, windows of the smallest sets were not equally likely in every place (chi-square)
_GOLDEN = 0x9E3779B97F4A7C15
_MASK = 2**64 - 1


class SampleOrder:
    """Sample number -> window. Number i of epoch e is i + e n_samples; every epoch has its own permutation.

    The state is two integers, the seed and the next number; memory does not grow with n_samples.
    """

    def __init__(self, n_samples: int, seed: int) -> None:
        if n_samples < 1:
            raise ValueError(f"n_samples={n_samples} must be at least 1")
        self.n_samples = n_samples
        self.seed = seed
        self._rows = math.isqrt(n_samples - 1) + 1
        self._columns = -(-n_samples // self._rows)

    def __getitem__(self, number: int) -> int:
        """The window of one sample number >= 0."""
        return int(self.take(np.array([number]))[0])

    def take(self, numbers: npt.NDArray[np.int64]) -> npt.NDArray[np.int64]:
        """The window in [0, n_samples) of each sample number >= 0; any shape, int64."""
        if numbers.size and numbers.min() < 0:
            raise ValueError(f"sample number {numbers.min()} is negative")
        epochs, places = np.divmod(numbers.astype(np.uint64).ravel(), np.uint64(self.n_samples))
        keys = _mix(np.uint64((self.seed * _GOLDEN) & _MASK) ^ _mix(epochs))
        windows = self._permute(places, keys)
        while (outside := np.flatnonzero(windows >= self.n_samples)).size:
            windows[outside] = self._permute(windows[outside], keys[outside])
        return windows.astype(np.int64).reshape(numbers.shape)

    def _permute(self, places: npt.NDArray[np.uint64], keys: npt.NDArray[np.uint64]) -> npt.NDArray[np.uint64]:
        """One pass of the network over [0, rows x columns)."""
        rows, columns = np.uint64(self._rows), np.uint64(self._columns)
        left, right = np.divmod(places, columns)
        for number in range(ROUNDS):
            round_keys = keys + np.uint64((number * _GOLDEN) & _MASK)
            if number % 2 == 0:
                left = (left + _mix(_mix(round_keys ^ right)) % rows) % rows
            else:
                right = (right + _mix(_mix(round_keys ^ left)) % columns) % columns
        return left * columns + right


def _mix(values: npt.NDArray[np.uint64]) -> npt.NDArray[np.uint64]:
    """splitmix64's finalizer: every input bit flips every output bit about half of the time."""
    values = values + np.uint64(_GOLDEN)
    values = (values ^ (values >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    values = (values ^ (values >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return values ^ (values >> np.uint64(31))
