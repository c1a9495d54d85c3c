"""What is said about the user's data: repairs, counted and said once, and choices that a reader has made."""

import warnings
from collections import Counter

from oaq_repro.data.fields import unexpected


class DataWarning(UserWarning):
    """One sentence on the user's data: they are used, but not quite as they stand there."""


def say(where: object, text: str) -> None:
    """Say one sentence on a file or folder."""
    warnings.warn(f"{where}: {text}", DataWarning, stacklevel=3)


class Repairs:
    """Counts what is repaired in one annotation file or list of images."""

    def __init__(self, where: object) -> None:
        self.where = where
        self.counts: Counter[str] = Counter()
        self.first: dict[str, str] = {}

    def count(self, what: str, place: str) -> None:
        """Count one repair of a kind (a plural and what was done: "boxes without width, dropped") and its place."""
        self.counts[what] += 1
        self.first.setdefault(what, place)

    def limit(self, what: str, total: int, share: float, least: int, why: str) -> None:
        """InputError where more than a `share` of `total`, but at least more than `least`, needed this repair."""
        most = max(least, int(share * total))
        if self.counts[what] > most:
            found = f"{what.split(',')[0]}: {self.counts[what]} of {total} (first: {self.first[what]})"
            raise unexpected(self.where, found, f"at most {most}: {why}")

    def say(self) -> None:
        """Say all of them in one sentence, where there were any."""
        if self.counts:
            say(self.where, "; ".join(f"{what}: {n} (first: {self.first[what]})" for what, n in self.counts.items()))
