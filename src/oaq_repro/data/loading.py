"""Between samples on disk and batches: seeded views, order, and errors that survive worker processes."""

import copy
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator
from typing import Any, Self

import numpy as np
import torch
from torch.utils.data import DataLoader, Dataset, Sampler
from torchvision import tv_tensors

from oaq_repro.errors import InputError


class Samples(ABC):
    """Samples of one split before any transform; `indices` says which of those that were read are used."""

    def __init__(self, classes: tuple[str, ...], count: int) -> None:
        self.classes = classes
        self.indices = np.arange(count)

    def __len__(self) -> int:
        return len(self.indices)

    @abstractmethod
    def load(self, index: int) -> tuple[tv_tensors.Image, Any]:
        """Return image uint8 [C, H, W] and target; raises InputError naming the file."""

    @abstractmethod
    def identity(self, index: int) -> bytes:
        """Return name and annotation as bytes: what the fingerprint is made of."""

    def labels(self) -> np.ndarray:
        """Return the class of every used sample where it has one (subsets are balanced over it), zeros otherwise."""
        return np.zeros(len(self.indices), dtype=np.int64)

    def seen(self) -> set[int]:
        """Return the indices in `classes` that occur in the used samples (no more once all do), and 255 for void."""
        return set(np.unique(self.labels()).tolist())

    def cut(self, positions: np.ndarray) -> Self:
        """Return the same samples, restricted to these positions."""
        part = copy.copy(self)
        part.indices = self.indices[positions]
        return part


class View(Dataset):
    """Samples under a transform.

    With a seed, sample `ticket = epoch * len + position` is transformed under a random state that depends
    on seed and ticket alone, so workers, their number, and a resume change nothing.
    """

    def __init__(self, samples: Samples, transform: Callable[[Any, Any], Any], seed: int | None) -> None:
        self.samples, self.transform, self.seed = samples, transform, seed

    def __len__(self) -> int:
        return len(self.samples)

    def __getitem__(self, ticket: int) -> Any:
        index = int(self.samples.indices[ticket % len(self)])
        if self.seed is None:
            return self.transform(*self.samples.load(index))
        before = torch.get_rng_state()
        try:  # the CPU generator alone: torch.manual_seed would also reset those of the accelerators
            state = np.random.SeedSequence([self.seed, ticket]).generate_state(1, np.uint64)
            torch.default_generator.manual_seed(int(state[0] >> np.uint64(1)))
            return self.transform(*self.samples.load(index))
        finally:
            torch.set_rng_state(before)

    def __getitems__(self, tickets: list[int]) -> list[Any] | InputError:
        """Return samples, or the InputError itself: torch would bury the message of a raised one in a traceback.

        One thread is enough for one image; on a busy machine the barriers of more cost far more than they save.
        """
        threads = torch.get_num_threads()
        torch.set_num_threads(1)
        try:
            return [self[ticket] for ticket in tickets]
        except InputError as error:
            return error
        finally:
            torch.set_num_threads(threads)


class ErrorCollate:
    """A collate function that hands an InputError through to `Loader`."""

    def __init__(self, collate: Callable[[list[Any]], Any]) -> None:
        self.collate = collate

    def __call__(self, samples: list[Any] | InputError) -> Any:
        return samples if isinstance(samples, InputError) else self.collate(samples)


class Loader(DataLoader):
    """DataLoader that raises an InputError of its workers unchanged, in the main process."""

    def __iter__(self) -> Iterator[Any]:  # type: ignore[override]
        for batch in super().__iter__():
            if isinstance(batch, InputError):
                raise batch
            yield batch


class Shuffle(Sampler[int]):
    """Random order that depends on seed and epoch alone; yields tickets (see View).

    Lightning calls `set_epoch`; without it every new iteration is the next epoch.
    """

    def __init__(self, length: int, seed: int) -> None:
        self.length, self.seed, self.epoch = length, seed, 0

    def __len__(self) -> int:
        return self.length

    def set_epoch(self, epoch: int) -> None:
        """Choose the epoch of the next iteration."""
        self.epoch = epoch

    def __iter__(self) -> Iterator[int]:
        order = np.random.default_rng([self.seed, self.epoch]).permutation(self.length)
        first = self.epoch * self.length
        self.epoch += 1
        yield from (first + order).tolist()
