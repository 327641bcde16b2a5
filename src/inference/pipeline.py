"""From uint8 images to class probabilities in one module, for prediction, export, page and benchmarks alike."""

from torch import Tensor, nn

from src.transforms.patchify import normalize


class ImageClassifier(nn.Module):
    """Normalization, patches and network.

    Args:
        network: any network that takes normalized images; a Vision Transformer makes its patches by itself.
        mean: mean of each channel of the training images, 0 to 1.
        std: their standard deviation, likewise.
    """

    def __init__(self, network: nn.Module, mean: list[float], std: list[float]):
        super().__init__()
        self.network, self.mean, self.std = network, mean, std

    def logits(self, images: Tensor) -> Tensor:
        """uint8 [B, C, H, W] -> float32 [B, K]"""
        return self.network(normalize(images, self.mean, self.std)).float()

    def forward(self, images: Tensor) -> Tensor:
        """uint8 [B, C, H, W] -> probabilities, float32 [B, K]; every row sums to 1."""
        return self.logits(images).softmax(dim=1)
