"""A small convolutional network: the baseline that a Vision Transformer has to beat."""

from torch import Tensor, nn

from src.errors import InputError


class ConvNet(nn.Module):
    """Two 3x3 convolutions, a max pooling and two linear layers, as in the classic MNIST example.

    conv 32 - ReLU - conv 64 - ReLU - max pool 2 - dropout - linear 128 - ReLU - dropout - linear K. With 28x28 images
    and no padding the first linear layer sees 64 * 12 * 12 = 9216 features.

    Args:
        image_size: side of the square images in pixels, at least 6.
        channels: channels of the images.
        classes: number of classes K.
        dropout: dropout before the first linear layer; before the second it is twice as much.
    """

    def __init__(self, *, image_size: int, channels: int, classes: int, dropout: float = 0.25):
        super().__init__()
        if image_size < 6:
            raise InputError(
                f"the CNN needs images of at least 6x6 pixels, not {image_size}x{image_size}"
            )
        side = (image_size - 4) // 2
        self.layers = nn.Sequential(
            nn.Conv2d(channels, 32, 3), nn.ReLU(),
            nn.Conv2d(32, 64, 3), nn.ReLU(), nn.MaxPool2d(2),
            nn.Dropout(dropout), nn.Flatten(),
            nn.Linear(64 * side**2, 128), nn.ReLU(), nn.Dropout(min(0.9, 2 * dropout)),
            nn.Linear(128, classes),
        )  # fmt: skip

    def forward(self, images_BCHW: Tensor) -> Tensor:
        """[B, C, H, W] -> logits [B, K]"""
        return self.layers(images_BCHW)
