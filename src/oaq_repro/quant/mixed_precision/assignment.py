"""Which layer gets how many bits: the integer linear program of HAWQ-V3 (Yao et al., ICML 2021, arXiv 2011.10680).

The sum of the layers' sensitivities is made as small as a bound on the sum of their costs allows. Here layers have any
set of widths, where the paper has 4 and 8 bits, and the solver is HiGHS (`scipy.optimize.milp`) with a gap of zero, so
that what is found is optimal. Costs are whatever is added over layers: bytes, bit operations, measured time.
"""

import math
import random
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field

from scipy.optimize import Bounds, LinearConstraint, milp

from oaq_repro.errors import InputError

Table = Mapping[str, Mapping[int, float]]  # by layer and bits
ROUNDING = 1e-9  # of the bound: what the order of a sum may make of it
SPAN = 1e2  # largest coefficient that the solver sees, whose tolerances are 1e-6
STRICTLY = 1e-5  # beyond these tolerances


@dataclass(frozen=True)
class Assignment:
    """Bits by layer, and the sums over the layers that were free."""

    bits: dict[str, int]
    sensitivity: float
    cost: float


@dataclass(frozen=True)
class Group:
    """Layers that have their bits in common; sensitivity and cost by bits, of all of them together."""

    layers: tuple[str, ...]
    sensitivity: dict[int, float]
    cost: dict[int, float]

    @property
    def cheapest(self) -> int:
        """The bits that cost least, of equal ones those with the least sensitivity."""
        return min(self.cost, key=lambda bits: (self.cost[bits], self.sensitivity[bits]))


@dataclass(frozen=True)
class Problem:
    """Layers and widths to choose from.

    sensitivity, cost: of every layer at each of its widths. ties: layers that get the same bits, as those of a
    residual block's two branches. fixed: layers whose bits are given; they are in no sum, and the tables need not have
    them. Raises InputError where these do not fit together or a number is not finite.
    """

    sensitivity: Table
    cost: Table
    ties: Sequence[Sequence[str]] = ()
    fixed: Mapping[str, int] = field(default_factory=dict)

    def __post_init__(self) -> None:
        _check("sensitivity", "cost", self.sensitivity, self.cost)
        _check("cost", "sensitivity", self.cost, self.sensitivity)
        for tie in self.ties:
            for name in tie:
                if name not in self.free:
                    kind = "a fixed layer" if name in self.fixed else "no layer of the table"
                    raise InputError(f"ties: found {name!r}, {kind}, expected layers whose bits are free")

    @property
    def free(self) -> list[str]:
        """Names of the layers whose bits are chosen."""
        return [name for name in self.cost if name not in self.fixed]

    def groups(self) -> list[Group]:
        """Tied layers as one, in the order of their first."""
        of = {name: {name} for name in self.free}
        for tie in self.ties:
            joined = set().union(*(of[name] for name in tie))
            of |= dict.fromkeys(joined, joined)
        members = dict.fromkeys(tuple(sorted(of[name], key=self.free.index)) for name in self.free)
        return [
            Group(layers, *(_added(table, layers) for table in (self.sensitivity, self.cost))) for layers in members
        ]

    def bound(self, fraction: float, low: int, high: int) -> float:
        """`C_low + fraction (C_high - C_low)`, C_b: the cost with all free layers at b bits.

        Raises InputError where a layer has no such width, or for a fraction outside 0 to 1.
        """
        if not 0 <= fraction <= 1:
            raise InputError(f"fraction: found {fraction}, expected 0 to 1")
        for name in self.free:
            if not {low, high} <= self.cost[name].keys():
                raise InputError(
                    f"cost: {name} has {sorted(self.cost[name])} bits, expected {low} and {high} among them"
                )
        lowest, highest = (math.fsum(self.cost[name][bits] for name in self.free) for bits in (low, high))
        return lowest + fraction * (highest - lowest)

    def assignment(self, groups: Sequence[Group], chosen: Sequence[int]) -> Assignment:
        """What one width for each of the groups comes to."""
        pairs = list(zip(groups, chosen, strict=True))
        bits = {name: width for group, width in pairs for name in group.layers} | dict(self.fixed)
        return Assignment(
            bits,
            math.fsum(group.sensitivity[width] for group, width in pairs),
            math.fsum(group.cost[width] for group, width in pairs),
        )


def assign(problem: Problem, bound: float, worst: bool = False) -> Assignment:
    """The least sensitive assignment that costs at most `bound`.

    With `worst`, as a control, the most sensitive one of those that use the bound up, as `random_assignments` do.
    Raises InputError where not even the cheapest widths fit.
    """
    groups = problem.groups()
    limit = _limit(problem, groups, bound)
    if not groups:
        return problem.assignment([], [])
    cheapest = [group.cost[group.cheapest] for group in groups]
    options = [(i, bits) for i, group in enumerate(groups) for bits in group.cost]
    sign = -1.0 if worst else 1.0
    best = [min(sign * value for value in group.sensitivity.values()) for group in groups]
    lost = _scaled([sign * groups[i].sensitivity[bits] - best[i] for i, bits in options])
    above = [groups[i].cost[bits] - cheapest[i] for i, bits in options]
    # a bound beyond all costs must not make these small beside the solver's tolerances
    *above, room = _scaled([*above, min(limit - math.fsum(cheapest), sum(above))])
    rows = [([float(i == j) for i, _ in options], 1.0, 1.0) for j in range(len(groups))]
    rows.append((above, -math.inf, room))
    if worst:
        rows += [(row, room + STRICTLY, math.inf) for row in _next(options, above, room)]
    while True:
        coefficients, low, high = zip(*rows, strict=True)
        result = milp(
            lost,
            integrality=[1] * len(options),
            bounds=Bounds(0, 1),
            constraints=LinearConstraint(coefficients, low, high),
            options={"mip_rel_gap": 0.0, "presolve": False},  # which loses solutions that just meet the bound
        )
        assert result.success, result.message  # the cheapest widths fit
        taken = [value > 0.5 for value in result.x]
        chosen = [bits for (_, bits), yes in zip(options, taken, strict=True) if yes]
        found = problem.assignment(groups, chosen)
        if found.cost <= limit and not (worst and _raises(groups, chosen, limit)):
            return found
        rows.append(([float(yes) for yes in taken], -math.inf, len(groups) - 1.0))  # wrong by less than the solver sees


def _next(options: Sequence[tuple[int, int]], above: Sequence[float], room: float) -> Iterator[list[float]]:
    """For each group the coefficients of the cost with this group's least raise; beyond the room where it has none."""
    raised = []
    for (i, _), cost in zip(options, above, strict=True):
        others = (other for (j, _), other in zip(options, above, strict=True) if j == i and other > cost)
        raised.append(min(others, default=room + 1))
    for group in dict(options):
        yield [after if i == group else cost for (i, _), cost, after in zip(options, above, raised, strict=True)]


def random_assignments(problem: Problem, bound: float, count: int, seed: int) -> list[Assignment]:
    """Assignments that use the bound up, as controls: from the cheapest widths, random raises until none fits any more.

    Each raise is drawn evenly from all that fit, a raise being a group of layers and a width that costs more than its
    present one. Our choice; the paper has no such control. Raises InputError as `assign` does.
    """
    groups = problem.groups()
    limit = _limit(problem, groups, bound)
    draws = random.Random(seed)
    found = []
    for _ in range(count):
        chosen = [group.cheapest for group in groups]
        while raises := _raises(groups, chosen, limit):
            i, bits = draws.choice(raises)
            chosen[i] = bits
        found.append(problem.assignment(groups, chosen))
    return found


def _raises(groups: Sequence[Group], chosen: Sequence[int], limit: float) -> list[tuple[int, int]]:
    costs = [group.cost[bits] for group, bits in zip(groups, chosen, strict=True)]
    return [
        (i, bits)
        for i, group in enumerate(groups)
        for bits, cost in group.cost.items()
        if cost > costs[i] and math.fsum([*costs[:i], cost, *costs[i + 1 :]]) <= limit
    ]


def _limit(problem: Problem, groups: Sequence[Group], bound: float) -> float:
    """The bound with room for rounding; InputError where nothing is within it."""
    limit = bound + ROUNDING * abs(bound)
    least = problem.assignment(groups, [group.cheapest for group in groups]).cost
    if not least <= limit:
        raise InputError(f"bound: found {bound:g}, expected at least {least:g}, the cost of the cheapest assignment")
    return limit


def _scaled(values: Sequence[float]) -> list[float]:
    """The numbers in another unit, so that the largest is SPAN."""
    top = max(values)
    return [SPAN * (value / top) for value in values] if top else list(values)


def _added(table: Table, layers: Sequence[str]) -> dict[int, float]:
    """Sums over tied layers; InputError unless these have the same widths."""
    for name in layers:
        if table[name].keys() != table[layers[0]].keys():
            raise InputError(
                f"ties: {name} has {sorted(table[name])} bits and {layers[0]} {sorted(table[layers[0]])}, "
                "expected the same for tied layers"
            )
    return {bits: math.fsum(table[name][bits] for name in layers) for bits in sorted(table[layers[0]])}


def _check(name: str, other_name: str, table: Table, other: Table) -> None:
    for layer, by_bits in table.items():
        if layer not in other or by_bits.keys() != other[layer].keys() or not by_bits:
            found = sorted(other[layer]) if layer in other else "nothing"
            raise InputError(
                f"{other_name}: {layer} has {found}, expected the widths that {name} has: {sorted(by_bits)}"
            )
        for bits, value in by_bits.items():
            if not math.isfinite(value):
                raise InputError(f"{name}: {layer} at {bits} bits: found {value}, expected a finite number")
