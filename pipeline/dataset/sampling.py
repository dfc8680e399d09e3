"""A class-balanced part of a large source, chosen by content.

Owns which images ``dataset.limit`` takes: a pure function of hashes, so that the same images
give the same sample under whatever names, and images added later displace few.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping

from pipeline.dataset.sources.walk import Candidate


def sample(images: Iterable[tuple[Candidate, str]], limit: int) -> list[Candidate]:
    """Take up to `limit` images with different bytes, as many of each class as can be.

    Parameters
    ----------
    images : iterable of (Candidate, str)
        Each with the SHA-256 of its bytes. Of equal ones the first counts.
    limit : int
        How many to take. What a small class lacks, the others give.

    Returns
    -------
    list of Candidate
        Of each class those with the smallest hashes; where the source has splits of its own,
        from each of them in proportion.
    """
    distinct: dict[str, Candidate] = {}
    for candidate, sha256 in images:
        distinct.setdefault(sha256, candidate)
    strata: defaultdict[str, defaultdict[str, list[str]]] = defaultdict(lambda: defaultdict(list))
    for sha256, candidate in sorted(distinct.items(), key=lambda item: item[0]):
        strata[candidate.label][candidate.split].append(sha256)
    quotas = _quotas({label: sum(map(len, splits.values())) for label, splits in strata.items()}, limit)
    return [
        distinct[sha256]
        for label, splits in strata.items()
        for sha256 in _interleaved(splits.values())[: quotas[label]]
    ]


def _quotas(available: Mapping[str, int], limit: int) -> dict[str, int]:
    """Share out `limit` evenly, the smallest classes first, so that the larger ones take what these lack."""
    quotas: dict[str, int] = {}
    left = limit
    for label, count in sorted(available.items(), key=lambda item: (item[1], item[0])):
        quotas[label] = min(count, left // (len(available) - len(quotas)))
        left -= quotas[label]
    return quotas


def _interleaved(lists: Iterable[list[str]]) -> list[str]:
    """Merge lists so that every beginning of the result holds the same part of each of them."""
    placed = [((rank + 0.5) / len(hashes), sha256) for hashes in lists for rank, sha256 in enumerate(hashes)]
    return [sha256 for _, sha256 in sorted(placed)]
