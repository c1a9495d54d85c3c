"""The float parent: trained once per task, data, network, schedule and seed, and shared by all methods."""

from typing import Any

from oaq_repro.data.base import DataModule
from oaq_repro.settings.identity import parent_hash
from oaq_repro.tasks.base import Task
from oaq_repro.training.loggers import make_loggers
from oaq_repro.training.shared import Trained, train_or_load, training_folder
from oaq_repro.training.stage import evaluate, fit


def float_parent(config: dict[str, Any], data: DataModule, task: Task, fingerprint: str) -> Trained:
    """Bring `task.dense` to the float parent's weights, training them when nobody has yet.

    Without a float schedule (`schedule.float=null`, for pretrained networks and checkpoints) the weights stay
    as the model config made them. The metrics are those on held-out data.
    """
    folder = training_folder("parents", config, parent_hash(config, fingerprint))

    def train() -> dict[str, float]:
        trainer, seed = config["trainer"], config["seed"]
        if task.schedule is not None:
            loggers = make_loggers(config, folder, "float")
            fit(task, task.schedule, data, folder, trainer, seed, loggers, description="float parent")
        return evaluate(task, data.val_dataloader(), trainer, "float on held-out data")

    return train_or_load(folder, task.dense, train)
