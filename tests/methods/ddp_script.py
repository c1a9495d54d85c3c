"""Trains one OAQ step on 8 images, on as many processes as asked for, and writes what rank 0 saw. Run by a test."""

import json
import sys
from pathlib import Path

import pytorch_lightning as pl
import torch
from quant.networks import Classifier, images, quantized, trained
from torch.utils.data import DataLoader, TensorDataset

from oaq_repro.accumulator import Accumulator
from oaq_repro.methods.oaq import OAQ, OAQController
from oaq_repro.models.network import Network
from oaq_repro.quant.network import input_quantizer, layers
from oaq_repro.tasks.classification import ClassificationTask
from oaq_repro.tasks.schedule import Schedule


class Recorder(OAQController):
    """Writes the reduced counts and the alphas after every update."""

    def update(self, model, overflow, batch_size, progress):
        super().update(model, overflow, batch_size, progress)
        rank = torch.distributed.get_rank() if torch.distributed.is_initialized() else 0
        content = {
            "batch_size": batch_size,
            "events": {name: seen.events.tolist() for name, seen in overflow.items()},
            "peaks": {name: seen.peaks.tolist() for name, seen in overflow.items()},
            "alphas": {name: layer.weight_quantizer.alpha.tolist() for name, layer in layers(model).items()},
            "activations": {name: float(input_quantizer(model, name).alpha) for name in layers(model)},
            "shares": self.shares,
        }
        Path(sys.argv[2], f"{sys.argv[1]}-{rank}.json").write_text(json.dumps(content))


def main():
    processes = int(sys.argv[1])
    model = quantized(trained(Classifier()))
    for layer in layers(model).values():
        layer.accumulator = Accumulator(bits=12)
    task = ClassificationTask(Network(model), Schedule(lr=1e-3, steps=1), tuple("abcde"))
    data = TensorDataset(images(8), torch.arange(8) % 5)
    trainer = pl.Trainer(
        accelerator="cpu", devices=processes, strategy="ddp" if processes > 1 else "auto", max_steps=1, logger=False,
        enable_checkpointing=False, enable_progress_bar=False, enable_model_summary=False,
        callbacks=[Recorder(OAQ(rule="scale_free", interval=1))],
    )  # fmt: skip
    task.train()
    trainer.fit(task, DataLoader(data, batch_size=8 // processes))


if __name__ == "__main__":
    main()
