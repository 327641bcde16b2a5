"""The configs that redo known write-ups have their architecture, and fine-tuning goes from one run to the next."""

import json
from pathlib import Path

import pytest
import torch
import yaml
from program import tiny, train
from src.training.classifier import CNN, ViT

from src.data.modules import CIFAR10DataModule, CIFAR100DataModule, MNISTDataModule
from src.errors import InputError

CONFIGS = Path(__file__).parent.parent / "configs"


def model_of(config: str, dataset: dict):
    """The model that a config describes, built for a dataset; weights to start from are left out."""
    section = yaml.safe_load((CONFIGS / f"{config}.yaml").read_text())["model"]
    arguments = {key: value for key, value in section["init_args"].items() if key != "init_from"}
    return {"ViT": ViT, "CNN": CNN}[section["class_path"]](dataset, **arguments)


def test_mnist_vit_and_cnn():
    vit = model_of("mnist_patch7", MNISTDataModule(patch_size=7).description).net
    assert vit.side**2 == 16 and len(vit.blocks) == 4
    cnn = model_of("mnist_cnn", MNISTDataModule(patch_size=None).description).net
    widths = [layer.out_channels for layer in cnn.layers if isinstance(layer, torch.nn.Conv2d)]
    linear = [(layer.in_features, layer.out_features) for layer in cnn.layers if isinstance(layer, torch.nn.Linear)]
    assert widths == [32, 64] and linear == [(9216, 128), (128, 10)]


def test_vit_b16_has_the_papers_size():
    names = [str(i) for i in range(1000)]
    dataset = {"image_size": 224, "channels": 3, "classes": names, "patch_size": 16}
    with torch.device("meta"):
        net = model_of("vit_b16", dataset).net
    assert sum(p.numel() for p in net.parameters()) == 86_567_656
    assert len(net.blocks) == 12 and net.blocks[0].attention.heads == 12 and net.drop.p == 0.1


def test_mnist_tiny_has_wide_mlps():
    net = model_of("mnist_tiny", MNISTDataModule(patch_size=7).description).net
    assert len(net.blocks) == 3 and net.embed.out_features == 64
    assert net.blocks[0].mlp[0].out_features == 2048


def test_cifar10_tutorial_keeps_architecture_and_schedule():
    model = model_of("cifar10_tutorial", CIFAR10DataModule(patch_size=4).description)
    assert len(model.net.blocks) == 6 and model.net.head.in_features == 512
    assert model.net.blocks[0].attention.heads == 8
    assert (model.hparams.lr, model.hparams.min_lr, model.hparams.weight_decay) == (1e-4, 2.5e-5, 1e-6)


def test_cifar100_encoder_fits_the_finetuning_config(tmp_path):
    first = model_of("cifar100", CIFAR100DataModule(patch_size=4).description)
    second = model_of("cifar10_finetune", CIFAR10DataModule(patch_size=4).description)
    encoder = {key: value for key, value in first.net.state_dict().items() if not key.startswith("head")}
    missing, unexpected = second.net.load_state_dict(encoder, strict=False)
    assert not unexpected and set(missing) == {"head.weight", "head.bias"}
    assert first.net.blocks[0].mlp[0].out_features == 512 and first.net.blocks[0].attention.heads == 8


@pytest.fixture(scope="module")
def pretrained(tmp_path_factory) -> Path:
    runs = tmp_path_factory.mktemp("runs")
    assert train(*tiny(runs, "--name", "first", epochs=2)).code == 0
    return runs / "first" / "version_0"


def test_finetuning_starts_from_a_run_and_can_freeze_the_encoder(pretrained):
    source = pretrained / "checkpoints" / "best.ckpt"
    flags = ["--model.init_from", str(source), "--model.freeze", "encoder", "--model.ema_decay", "0"]
    ended = train(*tiny(pretrained.parents[1], "--name", "second", *flags, epochs=1))
    assert ended.code == 0 and "head" in ended.text, ended.text
    tuned = torch.load(pretrained.parents[1] / "second" / "version_0" / "checkpoints" / "last.ckpt", weights_only=True)[
        "state_dict"
    ]
    start = torch.load(source, weights_only=True)["state_dict"]
    prefix = "averaged." if any(key.startswith("averaged.") for key in start) else "net."
    for key, value in tuned.items():
        if key.startswith("net.") and not key.startswith("net.head"):
            assert torch.equal(value, start[prefix + key.removeprefix("net.")]), key
    assert tuned["net.head.weight"].abs().sum() > 0
    results = json.loads((pretrained.parents[1] / "second" / "version_0" / "results.json").read_text())
    assert 0 <= results["test_accuracy"] <= 1


def test_a_frozen_stem_keeps_its_statistics():
    frozen = ViT(
        CIFAR10DataModule(patch_size=None).description, width=32, depth=1, heads=2, stem_layers=2, freeze="encoder"
    )
    before = {key: value.clone() for key, value in frozen.net.state_dict().items()}
    frozen.net(torch.randn(4, 3, 32, 32)).sum().backward()
    assert all(torch.equal(before[key], value) for key, value in frozen.net.state_dict().items())
    assert frozen.net.head.weight.grad is not None and frozen.net.embed.stages[0].conv1.weight.grad is None


def test_init_from_a_model_of_another_width_is_refused(pretrained):
    from src.models.vit import VisionTransformer
    from src.training.pretrained import load_encoder

    net = VisionTransformer(image_size=8, patch_size=2, channels=1, classes=10, width=20, depth=1, heads=2)
    with pytest.raises(InputError) as error:
        load_encoder(net, str(pretrained / "checkpoints" / "best.ckpt"))
    assert "\n" not in str(error.value) and "--model.width" in str(error.value)
