"""Find identical images in several splits or under several classes."""

import csv
import hashlib
import io
from collections import defaultdict
from collections.abc import Mapping
from pathlib import Path

import torch
from torch import Tensor

from src.data.image_set import ImageSet
from src.errors import without_formula
from src.runs.atomic import write_atomically


def hash_image(image: Tensor) -> int:
    """Return a 64-bit hash; two of a million different images share one with probability 3e-8."""
    digest = hashlib.blake2b(image.numpy().tobytes(), digest_size=8).digest()
    return int.from_bytes(digest, "little", signed=True)


def write_duplicates(
    sets: Mapping[str, ImageSet | None], classes: tuple[str, ...], file: Path
) -> str:
    """List the images that occur in several splits or under several classes in a CSV file.

    Copies within a split and class are not listed.

    Args:
        sets: splits by name; those without hashes are not searched.
        classes: class names in label order.
        file: CSV file to write if there are such images.

    Returns:
        A one-line summary, or "" if there are no such images.
    """
    searched = [
        (split, images, hashes)
        for split, images in sets.items()
        if images and (hashes := images.image_hashes) is not None
    ]
    if not searched:
        return ""
    every = torch.cat([hashes for _, _, hashes in searched])
    _, group, counts = every.unique(return_inverse=True, return_counts=True)
    sizes = [len(images) for _, images, _ in searched]
    copies = defaultdict(list)
    for (split, images, _), groups in zip(searched, group.split(sizes), strict=True):
        labels = images.labels
        for row in (counts[groups] > 1).nonzero().flatten().tolist():
            copy = (split, classes[int(labels[row])], images.name(row))
            copies[int(groups[row])].append(copy)
    across = {n for n, found in copies.items() if len({split for split, _, _ in found}) > 1}
    ambiguous = {n for n, found in copies.items() if len({name for _, name, _ in found}) > 1}
    listed = [(n, copies[n]) for n in sorted(across | ambiguous)]
    if not listed:
        return ""
    text = io.StringIO()
    writer = csv.writer(text)
    writer.writerow(("image", "split", "class", "path"))
    for i, (_, found) in enumerate(listed):
        writer.writerows((i, *map(without_formula, copy)) for copy in found)
    write_atomically(file, text.getvalue().encode(errors="surrogateescape"))
    found = listed[0][1]
    return (
        f"identical images: {len(across):,} in several splits, {len(ambiguous):,} under several "
        f"classes, for example {found[0][2]} and {found[-1][2]}; all are listed in {file}"
    )
