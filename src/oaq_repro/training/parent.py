"""The float parent: trained once per task, data, network, schedule and seed, and shared by all methods."""

from oaq_repro.results.store import training_folder
from oaq_repro.run import Run
from oaq_repro.settings.identity import parent_hash
from oaq_repro.tasks.base import Task
from oaq_repro.training.shared import Trained, train_or_load
from oaq_repro.training.stage import evaluate, fit


def float_parent(run: Run, task: Task) -> Trained:
    """Bring `task.dense` to the float parent's weights, training them when nobody has yet.

    Without a float schedule (`schedule.float=null`, for pretrained networks and checkpoints) the weights stay
    as the model config made them. The metrics are those on held-out data.
    """
    name = parent_hash(run.settings, run.fingerprint)
    folder = training_folder(run.settings.results, "parents", name, run.seed)

    def train() -> dict[str, float]:
        if task.schedule is not None:
            fit(run, task, folder, "float", "float parent")
        return evaluate(run, task, "float on held-out data")

    return train_or_load(folder, task.dense, train)
