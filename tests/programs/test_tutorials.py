"""The configs that redo known write-ups have their architecture, and fine-tuning goes from one run to the next."""

import torch
import yaml
from program import ROOT, run

from src.data.modules import CIFAR10DataModule, CIFAR100DataModule, MNISTDataModule
from src.runs.checkpoint import load_checkpoint, network_weights
from src.training.classifier import CNN, ViT


def model_of(config: str, dataset: dict):
    """The model that a config describes, built for a dataset; weights to start from are left out."""
    section = yaml.safe_load((ROOT / "configs" / f"{config}.yaml").read_text())["model"]
    arguments = {key: value for key, value in section["init_args"].items() if key != "init_from"}
    return {"ViT": ViT, "CNN": CNN}[section["class_path"]](dataset, **arguments)


def test_mnist_vit_and_cnn():
    vit = model_of("mnist_patch7", MNISTDataModule(patch_size=7).description).net
    assert vit.side**2 == 16 and len(vit.blocks) == 4
    cnn = model_of("mnist_cnn", MNISTDataModule(patch_size=None).description).net
    widths = [layer.out_channels for layer in cnn.layers if isinstance(layer, torch.nn.Conv2d)]
    linear = [
        (layer.in_features, layer.out_features)
        for layer in cnn.layers
        if isinstance(layer, torch.nn.Linear)
    ]
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
    assert (model.hparams.lr, model.hparams.min_lr, model.hparams.weight_decay) == (
        1e-4,
        2.5e-5,
        1e-6,
    )


def test_cifar100_encoder_fits_the_finetuning_config(tmp_path):
    first = model_of("cifar100_cpu", CIFAR100DataModule(patch_size=None).description)
    second = model_of("cifar10_finetune", CIFAR10DataModule(patch_size=None).description)
    encoder = {
        key: value for key, value in first.net.state_dict().items() if not key.startswith("head")
    }
    missing, unexpected = second.net.load_state_dict(encoder, strict=False)
    assert not unexpected and set(missing) == {"head.weight", "head.bias"}
    write_up = model_of("cifar100", CIFAR100DataModule(patch_size=4).description).net
    assert len(write_up.blocks) == 6 and write_up.head.in_features == 256
    assert write_up.blocks[0].mlp[0].out_features == 512 and write_up.blocks[0].attention.heads == 8


def settings(*names) -> list[dict]:
    return [yaml.safe_load((ROOT / "configs" / f"{name}.yaml").read_text()) for name in names]


def test_cifar100_on_a_laptop_is_the_recipe_of_cifar10_but_for_the_images():
    both = settings("cifar10_cpu", "cifar100_cpu")
    assert [keys["data"].pop("class_path") for keys in both] == [
        "CIFAR10DataModule",
        "CIFAR100DataModule",
    ]
    assert both[0] == both[1]


def test_an_evening_of_cifar10_is_its_recipe_with_thrice_the_passes_over_all_images():
    both = settings("cifar10_cpu", "cifar10_evening")
    passes = [keys["trainer"].pop("max_epochs") for keys in both]
    held_out = [keys["data"]["init_args"].pop("val_fraction") for keys in both]
    assert passes[1] == 3 * passes[0] and held_out[1] == 0
    assert both[0] == both[1]


def test_finetuning_starts_from_a_run_and_can_freeze_the_encoder(digits_run, tmp_path):
    tuned = run(
        tmp_path,
        "--model.init_from",
        digits_run,
        "--model.freeze",
        "encoder",
        "--model.ema_decay",
        0,
    )
    start, averaged = network_weights(load_checkpoint(digits_run / "checkpoints" / "best.ckpt"))
    weights, _ = network_weights(load_checkpoint(tuned / "checkpoints" / "last.ckpt"))
    assert averaged
    for key, value in weights.items():
        assert torch.equal(value, start[key]) != key.startswith("head."), key
