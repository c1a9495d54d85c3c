"""What pruning costs and gives: accuracy against bit operations, and what zeros mean for the accumulator.

Differences are paired over seeds: with the dense network of the same bits, and with random pruning to the same density.
"""

import json
import math
from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from oaq_repro.results.grid import Grid, csv_text
from oaq_repro.results.labels import at, name, operand_bits
from oaq_repro.results.measures import Metric, Stage
from oaq_repro.results.record import Record
from oaq_repro.results.sections import Layer
from oaq_repro.results.summary import (
    Interval,
    experiments,
    float_parents,
    interval,
    network_key,
    paired,
    percent,
    signed,
    stage_values,
    stem,
)

NOTES = """\
Generated from the run records by `scripts/make_tables.py`; do not edit. {metric} on held-out data in percent: mean over
seeds ± half of the 95 % interval (Student t), of the integer network on its accumulator; of networks of 32 bits as they
are trained. *- dense*: above the network of the same bits with all its weights; *- random*: above that of which random
weights were pruned; both paired over seeds. *AUC*: under the ROC curve. *eta*: neural efficiency, the geometric mean
over layers; *AIQ*: `(AUC² eta)^(1/3)`. *BOPs*: of QAP; *as coded* with the conventions of the authors' code (biases
count in the density, the first input has 32 bits), *real input* without. *not zero*: part of the weights whose code is
not zero. *blocks*: the longest block of products that no input can overflow, over the length of a sum, the mean over
layers. *alpha*: range mapping factor of input times weights, the same mean. Float: {float} %."""
HEADS = (
    "a/w bits", "after", "pruned by", "density", "seeds", "accuracy", "- dense", "- random", "AUC", "eta", "AIQ",
    "BOPs as coded", "BOPs, real input", "weights (bytes)", "not zero", "blocks", "alpha", "layers certified",
)  # fmt: skip


@dataclass(frozen=True)
class Pruned:
    """One experiment with pruning; `series`: what its steps share."""

    group: list[Record]
    series: str

    @property
    def first(self) -> Record:
        """Of the seeds."""
        return self.group[0]

    @property
    def step(self) -> int:
        """Of pruning."""
        assert self.first.pruning is not None
        return self.first.pruning.step

    @property
    def ranking(self) -> str:
        """What was pruned first; `magnitude` where nothing was."""
        return str(at(self.first.config, "method", "pruning", "ranking")) if self.step else "magnitude"

    @property
    def density(self) -> float:
        """That was asked for."""
        assert self.first.pruning is not None
        return self.first.pruning.density

    @property
    def stage(self) -> Stage:
        """The last that was reached; networks of 32 bits end as they are trained."""
        return "integer" if "integer" in self.first.metrics else "soft"

    @property
    def metric(self) -> Metric:
        """The headline."""
        return self.first.metric_names[0]

    @property
    def bits(self) -> str:
        """Of activations and weights."""
        return operand_bits(self.first.config)

    @property
    def after(self) -> str:
        """By what it is quantized, and whether factors are settled."""
        kind = at(self.first.config, "method", "kind")
        settled = ", settled" if at(self.first.config, "method", "settle") is not None else ""
        rewound = ", rewound" if at(self.first.config, "method", "pruning", "rewind") == "start" and self.step else ""
        return f"{kind}{settled}{rewound}"

    def mean(self, value: Callable[[Record], float | None]) -> float | None:
        """Over the seeds that have it."""
        found = [x for record in self.group if (x := value(record)) is not None]
        return math.fsum(found) / len(found) if found else None

    def cost(self, field: str) -> float | None:
        """A field of the record's cost, the mean over the seeds."""
        return self.mean(lambda record: getattr(record.cost, field, None))

    def efficiency(self, record: Record) -> float | None:
        """Eta of the network."""
        return record.pruning.eta if record.pruning is not None else None

    def aiq(self, record: Record) -> float | None:
        """(AUC^2 eta)^(1/3), Hawks et al. 2021, equation 4, with the AUC of the stage."""
        auc, eta = record.metrics[self.stage].get("auc"), self.efficiency(record)
        return None if auc is None or eta is None else (auc**2 * eta) ** (1 / 3)


def pruned_experiments(records: Sequence[Record]) -> dict[str, list[Pruned]]:
    """Experiments with pruning by the key of their network, in the order of the table."""
    found: dict[str, list[Pruned]] = defaultdict(list)
    for group in experiments(records):
        if group[0].pruning is not None:
            found[network_key(group[0])].append(Pruned(group, _series(group[0])))
    for experiments_of_one in found.values():
        experiments_of_one.sort(key=lambda x: (x.bits, x.after, x.ranking, -x.density, x.first.hash))
    return found


def density_files(records: Sequence[Record]) -> dict[str, str]:
    """File name to text of `pruning-<data>-<model>-<hash>.md` and `.csv`."""
    files: dict[str, str] = {}
    for key, found in pruned_experiments(records).items():
        own = f"pruning-{stem(found[0].first, key)}"
        files |= {f"{own}.md": _grid(found).markdown(), f"{own}.csv": _csv(found)}
    return files


def _series(record: Record) -> str:
    """What the steps of one sequence share, whatever they rank by."""
    pruning = dict(at(record.config, "method", "pruning"))
    for field in ("step", "densities", "ranking"):
        pruning.pop(field)
    found: dict[str, Any] = {**dict(record.config["method"]), "pruning": pruning}  # type: ignore[arg-type]
    quantized = record.config["quantization"] if "integer" in record.metrics else None
    return json.dumps([found, quantized], sort_keys=True)


def _sibling(found: Sequence[Pruned], own: Pruned, step: int, ranking: str) -> list[Record]:
    for other in found:
        alike = other.series == own.series and other.step == step and other.ranking == ranking
        if alike and other is not own and (not step or other.density == own.density):
            return other.group
    return []


def _differences(found: Sequence[Pruned], own: Pruned) -> list[Interval | None]:
    dense = _sibling(found, own, 0, "magnitude")
    random = _sibling(found, own, own.step, "random") if own.step and own.ranking == "magnitude" else []
    return [paired(own.group, own.stage, other, own.stage, own.metric) for other in (dense, random)]


def block_part(layer: Layer) -> float | None:
    """The longest certified block of a layer as a part of its whole sum."""
    longest, depth = layer.longest_block, layer.depth
    return None if longest is None or not depth else min(1.0, longest / depth)


def alpha(layer: Layer) -> float:
    """The factor by which a layer's codes, products and sums are smaller than without range mapping."""
    return layer.alpha_activation * layer.alpha_weight


def block_mean(record: Record) -> float | None:
    """`block_part`, the mean over layers."""
    return _layers_mean(record, block_part)


def alpha_mean(record: Record) -> float | None:
    """`alpha`, the mean over layers."""
    return _layers_mean(record, alpha)


def _layers_mean(record: Record, value: Callable[[Layer], float | None]) -> float | None:
    found = [x for layer in record.layers if (x := value(layer)) is not None]
    return math.fsum(found) / len(found) if found else None


def _numbers(own: Pruned) -> dict[str, float | None]:
    """Means over the seeds."""
    return {
        "auc": own.mean(lambda record: record.metrics[own.stage].get("auc")),
        "eta": own.mean(own.efficiency),
        "aiq": own.mean(own.aiq),
        "bops_qap_reference": own.cost("bops_qap_reference"),
        "bops_qap": own.cost("bops_qap"),
        "weight_bytes": own.cost("weight_bytes"),
        "not_zero": own.cost("density"),
        "blocks": own.mean(block_mean),
        "alpha": own.mean(alpha_mean),
    }


def _grid(found: Sequence[Pruned]) -> Grid:
    rows = []
    for own in found:
        numbers = _numbers(own)
        value = interval(stage_values(own.group, own.stage, own.metric))
        certified = sorted({record.certified for record in own.group})
        layers = f"{'-'.join(map(str, certified[:: max(1, len(certified) - 1)]))} of {len(own.first.layers)}"
        rows.append(
            (
                own.bits, own.after, own.ranking if own.step else "-", f"{own.density:g}", str(len(own.group)),
                percent(value), *map(signed, _differences(found, own)),
                *(_text(numbers[x], form) for x, form in FORMS.items()), layers if own.first.layers else "-",
            )
        )  # fmt: skip
    record = found[0].first
    values = float_parents((own.group for own in found), found[0].metric)
    title = f"Pruning: {name(record.config, 'data')}, {name(record.config, 'model')}"
    notes = NOTES.format(metric=found[0].metric, float=percent(values))
    return Grid(title, notes, HEADS, "lllrrrrrrrrrrrrrrl", tuple(rows))


FORMS = {
    "auc": ".4f", "eta": ".3f", "aiq": ".3f", "bops_qap_reference": ",.0f", "bops_qap": ",.0f", "weight_bytes": ",.0f",
    "not_zero": ".3f", "blocks": ".2f", "alpha": ".2f",
}  # fmt: skip


def _text(value: float | None, form: str) -> str:
    return "-" if value is None else f"{value:{form}}"


def _csv(found: Sequence[Pruned]) -> str:
    intervals = ("accuracy", "minus_dense", "minus_random")
    heads = [
        "run",
        "operand_bits",
        "after",
        "ranking",
        "density",
        "seeds",
        *(h for n in intervals for h in (n, f"{n}_half_95")),
    ]
    lines = []
    for own in found:
        three = [interval(stage_values(own.group, own.stage, own.metric)), *_differences(found, own)]
        values = [v for x in three for v in ((None, None) if x is None else (x.mean, x.half))]
        first = [own.first.hash, own.bits, own.after, own.ranking, own.density, len(own.group)]
        lines.append([*first, *values, *_numbers(own).values()])
    return csv_text([*heads, *FORMS], lines)
