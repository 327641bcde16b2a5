"""From uint8 images to class probabilities in one module, for prediction, export and page alike."""

from collections.abc import Sequence

from torch import Tensor, nn

from src.transforms.patchify import normalize


class ImageClassifier(nn.Module):
    """Normalization and network.

    Args:
        network: takes normalized images; a Vision Transformer patchifies them itself.
        mean: mean of each channel of the training images, 0 to 1.
        std: standard deviation of each channel, likewise.
    """

    def __init__(self, network: nn.Module, mean: Sequence[float], std: Sequence[float]):
        super().__init__()
        self.network = network
        self.mean, self.std = mean, std

    def logits(self, images: Tensor) -> Tensor:
        """uint8 [B, C, H, W] -> float32 [B, K]"""
        return self.network(normalize(images, self.mean, self.std)).float()

    def forward(self, images: Tensor) -> Tensor:
        """uint8 [B, C, H, W] -> probabilities, float32 [B, K]; every row sums to 1."""
        return self.logits(images).softmax(dim=1)
