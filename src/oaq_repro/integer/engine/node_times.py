"""How long every node of a graph takes in the engine, and what its kernels make of a cycle.

Cycles are not counted, for no counter is open to every user and system: they are the time at the clock of one core,
which `_kernels.clock_hz` measures by additions that wait for one another, a cycle each. Where the clock changes between
that measurement and the run, MAC/cycle changes with it; MAC/ns does not.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from oaq_repro import _kernels
from oaq_repro.integer.engine.engine import Engine
from oaq_repro.integer.engine.explain import aligned
from oaq_repro.integer.graph.arithmetic import Array

CLOCK_TRIALS = 10  # a trial that the system interrupts finds a slower clock, none a faster one


@dataclass(frozen=True)
class NodeTime:
    """One node. seconds: mean of one image. share: of the time of all nodes. macs: products, 0 unless it is a layer.

    route: the kernel that runs a layer, and its registers (explain.py); empty for other nodes. mac_per_ns: of all
    threads together; mac_per_cycle: of one thread; 0 unless it is a layer. A layer that runs in the step of another has
    no products of its own: the other one has them, and the time of both.
    """

    name: str
    operator: str
    route: str
    seconds: float
    share: float
    macs: int
    mac_per_ns: float
    mac_per_cycle: float


def clock_hz() -> float:
    """The clock of the core that this thread runs on, in Hz; takes about 0.2 s."""
    return max(_kernels.clock_hz() for _ in range(CLOCK_TRIALS))


def node_times(engine: Engine, image: Array, repeats: int, clock: float) -> tuple[NodeTime, ...]:
    """Of every node, in the order of the graph. image: float32 [C, H, W]; clock: Hz. InputError as `Engine.profile`."""
    seconds = engine.profile(image, repeats)
    total = sum(seconds.values())
    shapes = engine.graph.shapes(engine.input_shape)
    layers = {layer.name: layer for layer in engine.graph.layers()}
    words, products = {}, dict.fromkeys(seconds, 0)
    for route in engine.routes:
        joined = "" if route.step == route.name else f"; by rows, in the step of {route.step}"
        words[route.name] = f"{route.kind}, {route.registers}{joined}"
        products[route.step] += layers[route.name].products(shapes[route.name])
    times = []
    for node in engine.graph.nodes:
        taken, macs = seconds[node.name], products[node.name]
        rate = macs / taken if taken > 0 else 0.0
        times.append(
            NodeTime(
                name=node.name,
                operator=type(node).__name__,
                route=words.get(node.name, ""),
                seconds=taken,
                share=taken / total if total > 0 else 0.0,
                macs=macs,
                mac_per_ns=1e-9 * rate,
                mac_per_cycle=rate / clock / engine.threads,
            )
        )
    return tuple(times)


def table(times: Sequence[NodeTime], clock: float, threads: int) -> str:
    """One line per node, aligned, and one for all of them."""
    rows = [("node", "operator", "ms", "share", "MAC/cycle", "MAC/ns", "route")]
    for t in times:
        rates = (f"{t.mac_per_cycle:.1f}", f"{t.mac_per_ns:.1f}") if t.macs else ("", "")
        rows.append((t.name, t.operator, f"{1e3 * t.seconds:.4f}", f"{100 * t.share:.1f} %", *rates, t.route))
    seconds, macs = sum(t.seconds for t in times), sum(t.macs for t in times)
    rate = macs / seconds if seconds > 0 else 0.0
    total = (f"{1e3 * seconds:.4f}", "100.0 %", f"{rate / clock / threads:.1f}", f"{1e-9 * rate:.1f}")
    rows.append(("all", "", *total, f"{macs / 1e6:.1f} million products"))
    legend = f"MAC/cycle: products of one thread, at {clock / 1e9:.2f} GHz as measured; MAC/ns: of {threads} thread(s)"
    return "\n".join([*aligned(rows, right=(2, 3, 4, 5)), legend])
