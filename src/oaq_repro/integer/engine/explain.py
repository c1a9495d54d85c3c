"""What runs a layer, and why, for people."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

from oaq_repro.accumulator import Accumulator
from oaq_repro.errors import printable
from oaq_repro.integer.engine.routes import Demand, Obstacle
from oaq_repro.integer.engine.sums import EXACT, WHOLE, Permits, Route
from oaq_repro.requantization import Requantization

CAUSES = {
    Obstacle.REACH: "an input could overflow whole sums",
    Obstacle.BIAS: "biases are too large for 16-bit sums",
    Obstacle.PAIRS: "pairs could saturate",
}


@dataclass(frozen=True)
class LayerRoute:
    """The route of one layer.

    kind: dense, depthwise or reference. depth: products per output. sums: of every panel of 16 or block of 32 output
    channels. claim: `certified` (no input can overflow what it computes), `empirical` (exact unless
    a 16-bit sum overflows, which calibration did not see) or `emulated` (the scalar reference). step: the node in whose
    step it runs, its own or that of the depthwise layer behind it, by rows.
    """

    name: str
    kind: str
    depth: int
    q_max: int
    sums: tuple[Route, ...]
    claim: str
    reason: str
    requantization: Requantization
    step: str

    @property
    def registers(self) -> str:
        """The sums in words: how many products 16-bit sums take before they go to 32, for what part of the channels.

        A dense kernel keeps two such sums per output and channels may be reordered, so this can be more than the
        certificate's longest block, which is that of one sum in the given order.
        """
        if self.kind == "reference":
            return "scalar reference"
        counts = Counter(self.sums)
        words = []
        for route in sorted(counts, key=lambda route: (route != WHOLE, -route.fold)):
            share = "" if len(counts) == 1 else f" ({100 * counts[route] / len(self.sums):.0f} %)"
            words.append(self._in_words(route) + share)
        return ", ".join(words)

    def _in_words(self, route: Route) -> str:
        if route == WHOLE:
            return "16 bit"
        if route == EXACT:
            return "32 bit"
        products = 2 * route.fold * (1 if self.kind == "depthwise" else 2)
        return f"16 bit x {min(products, self.depth)}"


def reason_of(
    sums: Sequence[Route], demanded: Demand, obstacles: Obstacle, accumulator: Accumulator, permits: Permits
) -> str:
    """Why a layer has these sums, in words; obstacles: those of any of its channels."""
    if Obstacle.MODE in obstacles:
        wide = permits.longest_fold != 0 and EXACT in sums
        return f"mode {permits.mode}" + ("; pairs that could overflow: 32 bits at once" if wide else "")
    grounds = f"its accumulator is {accumulator.name}" if demanded.claim == "empirical" else ""
    if not obstacles & ~Obstacle.PAIRS:
        fits = grounds or "no input can overflow the whole sum"
        return f"{fits}; {CAUSES[Obstacle.PAIRS]}: one product each" if obstacles else fits
    causes = [words for obstacle, words in CAUSES.items() if obstacle in obstacles]
    if Obstacle.WIDTH in obstacles:
        causes = [f"no register has {demanded.bits} bits"]  # and so it matters little what else there is
    where = "where " if WHOLE in sums else ""
    remedies = ["parts that no input can overflow"] if any(route.sums == "folded" for route in sums) else []
    remedies += ["32 bits at once"] if EXACT in sums else []
    why = f"{where}{' or '.join(causes)}: {' or '.join(remedies)}"
    return f"{grounds}; {why}, then wrapped" if grounds else why


def table(routes: Sequence[LayerRoute], isa: str, mode: str, arena_bytes: int) -> str:
    """One line per layer, aligned. arena_bytes: of all values of codes."""
    rows = [("layer", "kind", "products", "q_max", "accumulator", "requantization", "claim", "why")]
    rows += [
        (printable(r.name), r.kind, str(r.depth), str(r.q_max), r.registers, r.requantization, r.claim, r.reason)
        for r in routes
    ]
    legend = "16 bit x n: n products in 16-bit sums (two per output of a dense layer), then added up in 32 bits"
    head = f"engine: {isa} kernels, mode {mode}; {arena_bytes:,} bytes of memory for the values"
    return "\n".join([head, *aligned(rows), legend])


def aligned(rows: Sequence[Sequence[str]], right: Sequence[int] = ()) -> list[str]:
    """Lines of cells in columns, the columns of these indices at the right."""
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]

    def cell(text: str, column: int) -> str:
        return text.rjust(widths[column]) if column in right else text.ljust(widths[column])

    return ["  ".join(cell(text, column) for column, text in enumerate(row)).rstrip() for row in rows]
