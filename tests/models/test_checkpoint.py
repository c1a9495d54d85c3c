import pickle

import pytest
import timm
import torch
from safetensors.torch import save_file
from torch import nn

from oaq_repro.errors import InputError
from oaq_repro.models.checkpoint import load_backbone, load_checkpoint, read_state_dict


class Net(nn.Module):
    def __init__(self, channels=4, classes=3):
        super().__init__()
        self.conv = nn.Conv2d(3, channels, 3, bias=False)
        self.norm = nn.BatchNorm2d(channels)
        self.classifier = nn.Linear(channels, classes)


def write(path, state):
    if path.suffix == ".safetensors":
        save_file(state, path)
    elif path.suffix == ".ckpt":
        wrapped = {f"dense.{k}": v for k, v in state.items()} | {"codec.anchors": torch.zeros(2)}
        torch.save({"state_dict": wrapped, "epoch": 3}, path)
    else:
        torch.save(state, path)
    return path


@pytest.mark.parametrize("name", ["net.pth", "net.safetensors", "net.ckpt"])
def test_every_format_round_trips(tmp_path, name):
    source, target = Net(), Net()
    load_checkpoint(target, write(tmp_path / name, source.state_dict()))
    for key, value in source.state_dict().items():
        assert torch.equal(target.state_dict()[key], value)


def test_a_file_of_another_network_is_one_message_and_changes_nothing(tmp_path):
    path = write(tmp_path / "wide.pth", Net(channels=8).state_dict() | {"extra.weight": torch.zeros(1)})
    target = Net()
    before = {k: v.clone() for k, v in target.state_dict().items()}
    with pytest.raises(InputError) as error:
        load_checkpoint(target, path)
    message = str(error.value)
    assert "wide.pth" in message and "extra.weight" in message
    assert "conv.weight is [8, 3, 3, 3] in the file, [4, 3, 3, 3] in the network" in message
    assert "and 3 more" in message
    assert all(torch.equal(before[k], v) for k, v in target.state_dict().items())


def test_missing_weights_are_named(tmp_path):
    state = Net().state_dict()
    del state["norm.running_var"]
    with pytest.raises(InputError, match=r"missing: norm\.running_var"):
        load_checkpoint(Net(), write(tmp_path / "net.pth", state))


def test_a_file_without_step_counters_loads(tmp_path):
    state = {k: v for k, v in Net().state_dict().items() if not k.endswith("num_batches_tracked")}
    load_checkpoint(Net(), write(tmp_path / "old.pth", state))


class Secret:
    pass


@pytest.mark.parametrize(
    ("name", "content", "expected"),
    [
        ("absent.pth", None, "no such file"),
        ("noise.pth", b"\x00\x01 not a file of torch", "cannot be read"),
        ("noise.safetensors", b"\x00\x01 nor this", "not a safetensors file"),
        ("objects.pth", pickle.dumps({"model": Secret()}), "cannot be read"),
    ],
)
def test_unreadable_files_are_named(tmp_path, name, content, expected):
    path = tmp_path / name
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(InputError, match=f"{name}.*{expected}"):
        read_state_dict(path)


def test_pickled_objects_are_never_run(tmp_path):
    torch.save({"model": Secret()}, tmp_path / "objects.pth")
    with pytest.raises(InputError, match=r"objects\.pth.*weights_only"):
        read_state_dict(tmp_path / "objects.pth")


def test_a_file_without_tensors_is_refused(tmp_path):
    torch.save({"epoch": 3}, tmp_path / "empty.pth")
    with pytest.raises(InputError, match="no named tensors"):
        read_state_dict(tmp_path / "empty.pth")


def test_a_backbone_takes_all_but_the_classifier(tmp_path):
    source = timm.create_model("resnet18", num_classes=7)
    target = timm.create_model("resnet18", num_classes=3)
    classifier = target.fc.weight.clone()
    load_backbone(target, write(tmp_path / "imagenet.pth", source.state_dict()))
    assert torch.equal(target.layer4[1].conv2.weight, source.layer4[1].conv2.weight)
    assert torch.equal(target.fc.weight, classifier)


def test_a_backbone_of_another_network_is_refused(tmp_path):
    source = timm.create_model("resnet18", num_classes=7)
    with pytest.raises(InputError, match=r"imagenet\.pth.*layer1\.0\.conv3\.weight"):
        load_backbone(timm.create_model("resnet50"), write(tmp_path / "imagenet.pth", source.state_dict()))
