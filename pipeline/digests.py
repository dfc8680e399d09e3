"""Many SHA-256 digests at once: folded into 16 bytes each, so that ten millions of them fit into memory.

Owns the folding. Two different digests fold into the same 16 bytes by chance with a probability of 2⁻¹²⁸.
"""

from __future__ import annotations

import hashlib

import numpy as np
import numpy.typing as npt

#: Characters of a digest.
CHARACTERS = 64

# Value of a hexadecimal digit by its character.
_NO_DIGIT = 255
_VALUE = np.full(256, _NO_DIGIT, np.uint8)
_VALUE[np.frombuffer(b"0123456789abcdef", np.uint8)] = np.arange(16)

Folded = npt.NDArray[np.uint64]


def fold(characters: npt.NDArray[np.uint8]) -> Folded:
    """Fold digests, the first half of each over its second half.

    Parameters
    ----------
    characters : ndarray of uint8, shape (n, 64)
        Hexadecimal digits in lower case. What is anything else (zeros follow a shorter text) is hashed first.

    Returns
    -------
    ndarray of uint64, shape (n, 2)
    """
    values = _VALUE[characters]
    odd = np.flatnonzero((values == _NO_DIGIT).any(axis=1)) if (values == _NO_DIGIT).any() else ()
    for row in odd:
        other = hashlib.sha256(characters[row].tobytes()).hexdigest().encode()
        values[row] = _VALUE[np.frombuffer(other, np.uint8)]
    digests = values[:, ::2] << 4 | values[:, 1::2]
    folded: Folded = (digests[:, :16] ^ digests[:, 16:]).view(np.uint64)
    return folded


def in_order(heads: npt.NDArray[np.uint64], tails: npt.NDArray[np.uint64]) -> npt.NDArray[np.int64]:
    """Return the order of folded digests, given as two columns; equal ones keep theirs."""
    order = np.argsort(heads)
    ascending = heads[order]
    if (ascending[1:] == ascending[:-1]).any():  # seldom, and then the order of the tails counts
        del ascending
        return np.lexsort((tails, heads))
    return order
