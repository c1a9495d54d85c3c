"""Short names of a configuration's sections and of layers, for tables and figures."""

from collections.abc import Mapping, Sequence
from typing import Any

from oaq_repro.accumulator import Accumulator
from oaq_repro.errors import InputError

USUAL_BATCHES = 8
"""Of calibration: what `quantization.calibration_batches` is where nobody says."""
SECTIONS = ("task", "data", "model", "method", "accumulator")


def label(config: Mapping[str, Any], section: str) -> str:
    """Short name of a section, for a table's cell; "-" for a section that is absent or empty.

    The accumulator is named by its fields. Another section is named by the config file that was chosen
    (`choices`, as Hydra reports them), else by its text or its `kind`. A method says in parentheses where its range
    mapping factors are not those of output channels, an excess is not split by the output's error, the margin of
    settling is not the usual one, factors are settled before training as well or fall for another part of it, a
    teacher takes the place of labels, biases are corrected, sums are requantized by integers, how its bits per layer
    were searched for, how PMF trains weights where that is not the usual, how many weights pruning left, and what it
    has of the survey's axes.
    """
    value = config.get(section)
    if value is None or value == {}:
        return "-"
    if section == "method":
        return f"{name(config, section)}{_marks(config)}"
    return _accumulator(value) if section == "accumulator" else name(config, section)


def name(config: Mapping[str, Any], section: str) -> str:
    """The config file that was chosen for a section that is there, else the section's text or `kind`."""
    value, choices = config.get(section), config.get("choices")
    if isinstance(choices, Mapping) and isinstance(choices.get(section), str):
        return str(choices[section])
    return str(value.get("kind", "-")) if isinstance(value, Mapping) else str(value)


def _marks(config: Mapping[str, Any]) -> str:
    factors = (
        (at(config, "quantization", "granularity"), "channel"),
        (at(config, "method", "settle", "split"), "output_error"),
        (at(config, "method", "share"), "output_error"),
        (at(config, "quantization", "requantization"), "float32"),
    )
    own = [str(value) for value, usual in factors if value not in (None, usual)]
    margin = at(config, "method", "settle", "margin")
    if margin not in (None, 1.5):
        own.append(f"margin {margin:g}")
    if at(config, "method", "settle", "before_training"):
        own.append("settled first")
    decrease = at(config, "method", "decrease_until")
    if decrease not in (None, 0.8):
        own.append(f"decrease until {decrease:g}")
    tuned = at(config, "method", "fine_tune") is True and at(config, "method", "kind") != "float32"
    if tuned and at(config, "task", "teacher") is not None:
        own.append("teacher")
    if at(config, "method", "bias_correction"):
        own.append("bias correction")
    search = at(config, "method", "search")
    if isinstance(search, Mapping):
        own.append(search_label(search) + ("" if tuned else ", not trained"))
    weights = at(config, "method", "weights")
    if isinstance(weights, Mapping):
        own += weights_marks(weights)
    own += pruning_marks(config)
    own += [mark for mark in survey_marks(config) if mark.split()[0] not in name(config, "method")]  # said once
    return f" ({', '.join(own)})" if own else ""


def weights_marks(weights: Mapping[str, Any]) -> list[str]:
    """What is not the usual in how PMF trains weights: "ternary", "sparsemax", "reference gradient", "beta to 7"."""
    own = ["ternary"] * (weights["levels"] == 3)
    own += [weights["projection"]] * (weights["projection"] != "softmax")
    own += ["reference gradient"] * (weights["gradient"] == "reference")
    annealed = weights["projection"] != "argmax" and weights["beta_max"] != 1e4
    return own + [f"beta to {weights['beta_max']:g}"] * annealed


def pruning_marks(config: Mapping[str, Any]) -> list[str]:
    """Which weights pruning left, and what the network became: "lsq", "density 0.2", "random", "rewound"."""
    pruning = at(config, "method", "pruning")
    if not isinstance(pruning, Mapping):
        return []
    kind = at(config, "method", "kind")
    own = [kind] * (kind not in ("int8", name(config, "method")))
    own.append(f"density {pruning['densities'][pruning['step'] - 1]:g}" if pruning["step"] else "dense")
    if pruning["step"]:
        own += ["random"] * (pruning["ranking"] == "random") + ["rewound"] * (pruning["rewind"] == "start")
    return own + [f"L1 {pruning['l1']:g}"] * (pruning["l1"] != 1e-4)


def survey_marks(config: Mapping[str, Any]) -> list[str]:
    """What is not the usual in codebook, groups, rounding, ranges and calibration: "apot", "mse ranges"."""
    quantization, method = config.get("quantization"), config.get("method")
    kind, percentile = (at(quantization, "observer", field) for field in ("kind", "percentile"))
    own = [str(at(method, "codebook"))] * (at(method, "codebook") is not None)
    own += [f"groups of {at(method, 'group')}"] * (at(method, "group") is not None)
    own += {"stochastic": ["stochastic rounding"], "optq": ["optq"]}.get(str(at(method, "rounding")), [])
    if kind not in (None, "minmax"):
        own.append(f"percentile {percentile:g}" if kind == "percentile" else f"{kind} ranges")
    own += ["symmetric"] * bool(at(quantization, "observer", "symmetric"))
    source, batches = at(quantization, "calibration", "source"), at(quantization, "calibration_batches")
    if source not in (None, "real"):
        own.append({"distilled": "distilled images"}.get(source, f"{source} noise"))
    return own + [f"calibration batches: {batches}"] * (batches is not None and batches < USUAL_BATCHES)


def search_label(search: Mapping[str, Any]) -> str:
    """The settings of a search for bits per layer: "2/4 bits, bops 0.5, random 3"."""
    choice = {"best": "", "most": ", most sensitive", "random": f", random {search['draw']}"}[search["choice"]]
    certified = ", certified" if search["certified"] else ""
    widths = "/".join(map(str, search["widths"]))
    return f"{widths} bits, {search['constraint']} {search['fraction']:g}{choice}{certified}"


def at(config: Any, *where: str) -> Any:
    """What stands there in nested mappings; None where nothing does."""
    for part in where:
        config = config.get(part) if isinstance(config, Mapping) else None
    return config


def operand_bits(config: Mapping[str, Any]) -> str:
    """Bits of activations and weights, "8/8", or "2-4" of both where they were searched for; "-" where nothing says."""
    if isinstance(widths := at(config, "method", "search", "widths"), Sequence) and widths:
        return f"{widths[0]}-{widths[-1]}"
    if at(config, "method", "kind") == "float32":
        return "32/32"
    found = config.get("quantization")
    if not isinstance(found, Mapping) or not {"activation_bits", "weight_bits"} <= set(found):
        return "-"
    return f"{found['activation_bits']}/{found['weight_bits']}"


def short_names(names: Sequence[str], width: int | None = None) -> list[str]:
    """Qualified names without the parts that all of them begin with, then without their middle beyond `width`."""
    parts = [name.split(".") for name in names]
    shared = 0
    while len(parts) > 1 and all(len(p) > shared + 1 for p in parts) and len({p[shared] for p in parts}) == 1:
        shared += 1
    short = [".".join(part[shared:]) for part in parts]
    if width is None:
        return short
    head, tail = width // 2, width - 1 - width // 2
    return [name if len(name) <= width else f"{name[:head].rstrip('._')}…{name[-tail:].lstrip('._')}" for name in short]


def _accumulator(value: Any) -> str:
    try:
        return Accumulator.parse(value).name
    except InputError:
        return str(value)
