"""The task of one stage, made from the settings of a run."""

from typing import Any

from torch import nn

from oaq_repro.models.network import Network
from oaq_repro.run import Run
from oaq_repro.settings.forms import locate
from oaq_repro.settings.kinds import KINDS
from oaq_repro.settings.schema import arguments_of
from oaq_repro.tasks.base import Task


def make_task(
    run: Run,
    network: Network,
    stage: str,
    parent: nn.Module | None = None,
    form: type[Task] | None = None,
    **own: Any,
) -> Task:
    """The LightningModule of one stage (`float`, `prepare`, `finetune`); `parent`: the float network, a teacher.

    form: another class than that of the task, with arguments of its `own`.
    """
    settings = run.settings.task
    made = form or locate(KINDS["task"][settings.kind].target)
    given = {"schedule": getattr(run.settings.schedule, stage), "parent": parent} | run.data.for_task()
    task: Task = made(**arguments_of(settings) | {"network": network} | given | own)
    return task
