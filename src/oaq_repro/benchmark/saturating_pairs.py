"""What saturating pairs of products cost a network that a run left: ONNX Runtime's default against exact. Our choice.

On x86 without VNNI ONNX Runtime adds products two by two in instructions that saturate (`integer.audit`). The run's
integer graph is exported and evaluated on its held-out images twice, with the session option that rules this out and
without. The control: an engine in which exactly the layers that the audit names saturate has to give the default's
outputs, bit for bit; where it does not, the audit describes something else than what ONNX Runtime does.

Which layers matter is counted apart (`integer.saturation`).
"""

from collections.abc import Callable, Sequence
from pathlib import Path

import torch
from torch import Tensor, nn
from tqdm import tqdm

from oaq_repro.accumulator import NAMED
from oaq_repro.deploy.checked_engine import digests
from oaq_repro.experiment import GRAPH_NAME
from oaq_repro.integer.audit import Audit, audit
from oaq_repro.integer.engine import Engine
from oaq_repro.integer.graph import Graph
from oaq_repro.integer.graph.arithmetic import Array
from oaq_repro.integer.onnx.exporter import build_model
from oaq_repro.integer.onnx.session import onnx_session
from oaq_repro.integer.saturation import PairCounter, inexact, with_saturating_pairs
from oaq_repro.models.network import Network
from oaq_repro.results.by_pairs import PairLayer, SaturatingPairs
from oaq_repro.run import Run
from oaq_repro.settings.schema import build
from oaq_repro.tasks.base import Task
from oaq_repro.training.making import make_task
from oaq_repro.training.stage import evaluate, torch_threads


class Outside(nn.Module):
    """A network that something else than torch runs on float32 [N, C, H, W]; `digests`: of every image's outputs."""

    def __init__(self, run: Callable[[Array], Sequence[Array]]) -> None:
        super().__init__()
        self._run = run
        self.digests: list[bytes] = []

    @torch.no_grad()
    def forward(self, images: Tensor) -> Tensor | tuple[Tensor, ...]:
        """The dense part's outputs."""
        outputs = tuple(torch.from_numpy(output) for output in self._run(images.cpu().numpy()))
        self.digests += digests(outputs)
        return outputs if len(outputs) > 1 else outputs[0]


def measure(folder: Path, root: Path | None = None) -> SaturatingPairs:
    """Both kinds of products on the graph and the held-out images of the run in `folder`, beside its record.

    root: of the data, where it is no longer the run's. InputError where record, graph or data are not at hand, or the
    data are others.
    """
    run = Run.finished(folder, root)
    graph = Graph.load(folder / GRAPH_NAME)
    with torch_threads(run.settings.threads):
        return _measured(run, graph)


def _measured(run: Run, graph: Graph) -> SaturatingPairs:
    import onnxruntime  # here: whoever restricts it to AVX2 has to do so before its first import

    model = build_model(graph, run.data.input_shape).SerializeToString()
    exact, default = _outside(model, exact=True), _outside(model, exact=False)
    metrics = {
        "exact": evaluate(run, _task(run, exact), "ONNX Runtime, exact products", on_cpu=True),
        "default": evaluate(
            run, _task(run, default, _outside(model, exact=True)), "ONNX Runtime, default", on_cpu=True
        ),
    }
    audited = Audit(layers=audit(graph))
    named = inexact(audited)
    saturating = with_saturating_pairs(graph.with_accumulator(NAMED["int32"]), named)
    counter = PairCounter(graph, named, run.data.input_shape, torch.get_num_threads())
    predicted = Outside(Engine(saturating, run.data.input_shape, mode="fast").run)
    shown = run.settings.trainer.enable_progress_bar
    for images, _ in tqdm(run.data.val_dataloader(), "pairs that saturate", leave=False, disable=not shown):
        predicted(images)
        counter.add(images.numpy())
    return SaturatingPairs(
        onnxruntime=onnxruntime.__version__,
        images=len(exact.digests),
        exact=metrics["exact"],  # type: ignore[arg-type]
        default=metrics["default"],  # type: ignore[arg-type]
        changed=_differ(default, exact),
        predicted=len(default.digests) - _differ(default, predicted),
        audited=audited.total,
        layers=tuple(
            PairLayer(name=row.name, pairs=row.pairs, **counter.counts[row.name].model_dump())  # type: ignore[arg-type]
            for row in audited.layers
            if row.name in named
        ),
    )


def _outside(model: bytes, exact: bool) -> Outside:
    session = onnx_session(model, exact, threads=torch.get_num_threads())
    return Outside(lambda images: session.run(None, {session.get_inputs()[0].name: images}))


def _task(run: Run, dense: nn.Module, parent: nn.Module | None = None) -> Task:
    network: Network = build(
        "model", run.settings.model, num_classes=len(run.data.classes), input_shape=run.data.input_shape
    )
    return make_task(run, Network(dense, network.codec), "finetune", parent)


def _differ(one: Outside, other: Outside) -> int:
    return sum(a != b for a, b in zip(one.digests, other.digests, strict=True))
