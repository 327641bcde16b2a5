"""Module that maps uint8 images to probabilities, for prediction, export and the web page."""

from collections.abc import Sequence

from torch import Tensor, nn

from src.transforms.patchify import normalize


class ImageClassifier(nn.Module):
    """A network with input normalization and softmax.

    Args:
        network: network that takes normalized images; a Vision Transformer patchifies them itself.
        mean: per-channel mean of the training images, with pixel values scaled to [0, 1].
        std: per-channel standard deviation of the training images, on the same scale.
        temperature: divides the logits, so that probabilities are calibrated.
    """

    def __init__(
        self,
        network: nn.Module,
        mean: Sequence[float],
        std: Sequence[float],
        temperature: float = 1.0,
    ):
        super().__init__()
        self.network = network
        self.mean, self.std, self.temperature = mean, std, temperature

    def logits(self, images: Tensor) -> Tensor:
        """Return the calibrated logits, float32 [B, K], of uint8 images [B, C, H, W]."""
        return self.network(normalize(images, self.mean, self.std)).float() / self.temperature

    def forward(self, images: Tensor) -> Tensor:
        """Return class probabilities, float32 [B, K], of uint8 images [B, C, H, W]."""
        return self.logits(images).softmax(dim=1)
