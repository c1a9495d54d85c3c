import pickle

import pytest
import timm
import torch
from safetensors.torch import save_file
from torch import nn

from oaq_repro.errors import InputError
from oaq_repro.models.checkpoint import load_backbone, load_checkpoint, read_state_dict
from oaq_repro.models.classification import build


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


def shifted(state, by):
    return {k: v + by if v.is_floating_point() else v for k, v in state.items()}


@pytest.mark.parametrize("plain, averaged", [("state_dict", "state_dict_ema"), ("model", "model_ema")])
def test_of_plain_and_averaged_weights_a_field_chooses_and_the_default_is_said(tmp_path, plain, averaged):
    state = Net().state_dict()
    both = {plain: state, averaged: {"n_averaged": torch.tensor(7)} | {f"module.{k}": v + 1 for k, v in state.items()}}
    torch.save({**both, "epoch": 3, "optimizer": {"state": {}}}, path := tmp_path / "net.pth")
    target = Net()
    with pytest.warns(UserWarning, match=rf"net\.pth: took '{plain}'; averaged.*\+model\.checkpoint_key={averaged}"):
        load_checkpoint(target, path)
    assert torch.equal(target.conv.weight, state["conv.weight"])
    with pytest.warns(UserWarning, match=r"took the prefix 'module\.' off all names"):
        load_checkpoint(target, path, averaged)
    assert torch.equal(target.conv.weight, state["conv.weight"] + 1)
    with pytest.raises(InputError, match=rf"checkpoint_key: found 'emma', expected one of.*'{plain}', '{averaged}'"):
        load_checkpoint(target, path, "emma")


def test_averaged_weights_alone_are_taken_and_said(tmp_path):
    state = Net().state_dict()
    torch.save({"model_ema": state}, tmp_path / "net.pth")
    with pytest.warns(UserWarning, match="took the averaged weights 'model_ema'"):
        load_checkpoint(target := Net(), tmp_path / "net.pth")
    assert torch.equal(target.conv.weight, state["conv.weight"])


def test_a_key_for_a_file_without_names_or_no_file_is_an_error(tmp_path):
    path = write(tmp_path / "net.safetensors", Net().state_dict())
    with pytest.raises(InputError, match="checkpoint_key: found 'model'.*it holds only one, without a name"):
        load_checkpoint(Net(), path, "model")
    with pytest.raises(InputError, match=r"checkpoint_key: found 'model' without a model\.checkpoint"):
        load_checkpoint(Net(), None, "model")


@pytest.mark.parametrize("prefix", ["module.", "model.", "_orig_mod.", "_orig_mod.module.", "module.model."])
@pytest.mark.parametrize("name", ["net.pth", "net.safetensors"])
def test_prefixes_of_wrappers_are_taken_off_and_said(tmp_path, prefix, name):
    state = Net().state_dict()
    path = write(tmp_path / name, {prefix + k: v for k, v in state.items()})
    with pytest.warns(UserWarning, match=f"{name}: took the prefix '{prefix}' off all names"):
        load_checkpoint(target := Net(), path)
    assert all(torch.equal(value, state[k]) for k, value in target.state_dict().items())


def test_prefixes_that_are_the_networks_own_stay(tmp_path):
    network = nn.ModuleDict({"model": Net()})
    load_checkpoint(network, write(tmp_path / "net.pth", network.state_dict()))


def test_a_backbone_in_a_wrapper(tmp_path):
    source, target = timm.create_model("resnet18", num_classes=7), timm.create_model("resnet18", num_classes=3)
    path = write(tmp_path / "net.pth", {f"module.{k}": v for k, v in source.state_dict().items()})
    with pytest.warns(UserWarning, match="took the prefix 'module.'"):
        load_backbone(target, path)
    assert torch.equal(target.layer4[1].conv2.weight, source.layer4[1].conv2.weight)


def test_weights_of_other_float_types_are_converted(tmp_path):
    state = Net().state_dict()
    load_checkpoint(target := Net(), write(tmp_path / "net.safetensors", {k: v.double() for k, v in state.items()}))
    assert target.conv.weight.dtype == torch.float32 and torch.equal(target.conv.weight, state["conv.weight"])


def test_classifiers_take_the_key(tmp_path):
    state = build(4, (3, 32, 32), width=0.25).dense.state_dict()
    torch.save({"state_dict": state, "state_dict_ema": shifted(state, 1)}, path := tmp_path / "net.pth")
    network = build(4, (3, 32, 32), width=0.25, checkpoint=str(path), checkpoint_key="state_dict_ema").dense
    assert torch.equal(network.classifier.bias, state["classifier.bias"] + 1)
