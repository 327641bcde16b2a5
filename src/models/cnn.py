"""A small convolutional network, the baseline for Vision Transformers."""

from torch import Tensor, nn

from src.config import CNNConfig, DatasetInfo
from src.errors import InputError


class ConvNet(nn.Module):
    """Two 3x3 convolutions, max pooling and two linear layers, as in PyTorch's MNIST example.

    Raises:
        InputError: images are smaller than 6x6 pixels, or a patch size is set.
    """

    def __init__(self, config: CNNConfig, dataset: DatasetInfo):
        super().__init__()
        size, dropout = dataset.image_size, config.dropout
        if size < 6:
            raise InputError(f"the CNN needs images of at least 6x6 pixels, got {size}x{size}")
        if dataset.patch_size:
            raise InputError(
                f"data.patch_size {dataset.patch_size}: a CNN reads whole images; set it to null"
            )
        side = (size - 4) // 2
        self.layers = nn.Sequential(
            nn.Conv2d(dataset.channels, 32, 3),
            nn.ReLU(),
            nn.Conv2d(32, 64, 3),
            nn.ReLU(),
            nn.MaxPool2d(2),
            nn.Dropout(dropout),
            nn.Flatten(),
            nn.Linear(64 * side**2, 128),
            nn.ReLU(),
            nn.Dropout(min(0.9, 2 * dropout)),
            nn.Linear(128, len(dataset.classes)),
        )

    def forward(self, images_BCHW: Tensor) -> Tensor:
        """[B, C, H, W] -> logits [B, K]"""
        return self.layers(images_BCHW)

    def features(self, images_BCHW: Tensor) -> Tensor:
        """Return the input of the last layer, [B, 128]."""
        return self.layers[:-1](images_BCHW)
