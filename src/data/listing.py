"""List the image files of class folders, and describe the unused files."""

import hashlib
import os
import unicodedata
from collections import defaultdict
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, get_args

from src.data.images import EXTENSIONS
from src.errors import InputError

Split = Literal["train", "val", "test"]
ImageFile = tuple[str, int, int]  # relative path, size, modification time

SPELLINGS = {  # in upper or lower case
    "train": ("train", "training"),
    "val": ("val", "valid", "validation", "dev"),
    "test": ("test", "testing"),
}
SYSTEM_FILES = ("thumbs.db", "desktop.ini", "__macosx", "@eadir")  # and all hidden files


@dataclass(frozen=True)
class Listing:
    """The image files of one split.

    Attributes:
        folder: folder that the paths are relative to.
        files: image files, sorted within each class.
        labels: label of each file.
        note: description of missing classes and unused files; "" if there are none.
    """

    folder: Path
    files: list[ImageFile]
    labels: list[int]
    note: str = ""

    def fingerprint(self, classes: tuple[str, ...]) -> dict[str, str]:
        """Return a hash of the relative names and sizes of each class's files.

        Modification times are left out, so that a copy of the images has the same fingerprint.
        """
        lines: dict[int, list[str]] = defaultdict(list)
        for (path, size, _), label in zip(self.files, self.labels, strict=True):
            lines[label].append(f"{path}\0{size}\n")
        return {classes[label]: short_hash("".join(lines[label])) for label in sorted(lines)}


def short_hash(content: str | bytes) -> str:
    """Return 16 hexadecimal digits; all Unicode forms of a text have the same hash."""
    if isinstance(content, str):
        content = normalize(content).encode(errors="surrogateescape")
    return hashlib.blake2b(content, digest_size=8).hexdigest()


def split_named(name: str) -> Split | None:
    """Return the split that a name stands for, or None."""
    found: list[Split] = [split for split in get_args(Split) if name.lower() in SPELLINGS[split]]
    return found[0] if found else None


def find_split(root: Path, split: Split) -> Path | None:
    """Return the folder of a split, or None if there is none.

    Without a folder of training images, class folders in `root` itself contain them.

    Raises:
        InputError: `root` cannot be listed, or has several folders for the split.
    """
    entries = _entries(root) if root.is_dir() else []
    found = [entry.name for entry in entries if _split_of(entry) == split]
    if len(found) > 1:
        raise InputError(
            f"{root}: {' and '.join(sorted(found))} are both folders of {split} images; keep one"
        )
    if entries and not found and split == "train" and any(map(_contains_images, _members(root))):
        return root
    return root / found[0] if found else None


def list_classes(folder: Path) -> list[str]:
    """Return the sorted names of the class folders in `folder`; ignore hidden folders."""
    names = sorted({normalize(entry.name) for entry in _members(folder) if _is_folder(entry)})
    if len(names) < 2:
        found = f"1 ({names[0]})" if names else "none"
        raise InputError(
            f"{folder}: at least two class folders are needed, found {found}; put images in "
            f"{folder}/<class>/*.png"
        )
    return names


def list_images(folder: Path, classes: tuple[str, ...], split: Split) -> Listing:
    """List the images in `folder/<class>/`, including those in subfolders.

    Validation and test images may lack classes.

    Raises:
        InputError: a class has no training images, or there are no images at all.
    """
    unused: dict[str, list[str]] = defaultdict(list)
    found: dict[str, list[ImageFile]] = {name: [] for name in classes}
    for entry in _members(folder):
        if _is_folder(entry):
            images = found.setdefault(normalize(entry.name), [])
            images += _find_images(folder, entry.name, unused)
        else:
            unused[_kind(entry)].append(entry.name)
    not_used = _describe(unused)
    lacking = [name for name in classes if not found[name]]
    unknown = [name for name in list(found)[len(classes) :] if found[name]]
    if unknown:
        raise InputError(
            f"{folder}: {count_names('classes without training images', unknown)}; add training "
            "images, or move these folders out of the dataset"
        )
    if lacking and (split == "train" or len(lacking) == len(classes)):
        because = f" ({not_used})" if not_used else ""
        where = folder / lacking[0] if split == "train" else folder
        raise InputError(f"{where}: no images found{because}; add images, or remove the folder")
    notes = [count_names("missing classes", lacking)] if lacking else []
    notes += [not_used] if not_used else []
    files: list[ImageFile] = []
    labels: list[int] = []
    for label, name in enumerate(classes):
        files += sorted(found[name], key=lambda file: (normalize(file[0]), file))
        labels += [label] * len(found[name])
    return Listing(folder, files, labels, f"{folder}: {'; '.join(notes)}" if notes else "")


def describe_other_folders(root: Path) -> str:
    """Return a description of the files and folders next to the split folders, or ""."""
    unused: dict[str, list[str]] = defaultdict(list)
    for entry in _entries(root) if find_split(root, "train") not in (root, None) else ():
        if not _split_of(entry):
            unused[_kind(entry)].append(entry.name)
    return f"{root}: {_describe(unused)}" if unused else ""


def count_names(kind: str, names: list[str]) -> str:
    """Return a description such as "broken links (2: cat, dog)"."""
    first, more = sorted(names)[:3], ", ..." if len(names) > 3 else ""
    return f"{kind} ({len(names):,}: {', '.join(first)}{more})"


def _find_images(folder: Path, name: str, unused: dict[str, list[str]]) -> list[ImageFile]:
    """Return the images in `folder/name` and its subfolders; add other files to `unused`."""
    images, waiting = [], [name]
    while waiting:
        place = waiting.pop()
        for entry in _entries(folder / place):
            path = f"{place}/{entry.name}"
            if entry.is_dir(follow_symlinks=False):
                waiting.append(path)
            elif entry.name.lower().endswith(EXTENSIONS) and not _is_linked_folder(entry):
                images.append((path, *_size_and_time(entry)))
            else:
                unused[_kind(entry)].append(path)
    return images


def _size_and_time(entry: os.DirEntry) -> tuple[int, int]:
    try:
        status = entry.stat()
    except OSError:  # a broken symlink, which raises an error later, when the image is read
        status = entry.stat(follow_symlinks=False)
    return status.st_size, status.st_mtime_ns


def _split_of(entry: os.DirEntry) -> Split | None:
    return split_named(entry.name) if _is_folder(entry) else None


def _contains_images(entry: os.DirEntry) -> bool:
    return _is_folder(entry) and any(
        inside.name.lower().endswith(EXTENSIONS) for inside in _entries(Path(entry))
    )


def _is_folder(entry: os.DirEntry) -> bool:
    return entry.is_dir(follow_symlinks=False) or _is_linked_folder(entry)


def _is_linked_folder(entry: os.DirEntry) -> bool:
    return entry.is_symlink() and os.path.isdir(entry)


def _kind(entry: os.DirEntry) -> str:
    """Return the kind of an unused entry, for counting."""
    if _is_folder(entry):  # symlinked folders within a class could form a cycle
        return "symlinked folders" if entry.is_symlink() else "folders"
    if entry.is_symlink() and not os.path.exists(entry):
        return "broken links"
    extension = os.path.splitext(entry.name)[1].lower()
    return f"{extension} files" if extension else "files without an extension"


def _describe(unused: dict[str, list[str]]) -> str:
    """Return a description such as "not used: .heic files (2: cat/1.heic, cat/2.heic)"."""
    kinds = sorted(unused, key=lambda kind: (-len(unused[kind]), kind))
    counts = [count_names(kind, unused[kind]) for kind in kinds[:5]]
    if others := sum(len(unused[kind]) for kind in kinds[5:]):
        counts.append(f"others ({others:,})")
    return f"not used: {', '.join(counts)}" if counts else ""


def normalize(name: str) -> str:
    """Return the composed form of a name; macOS decomposes accented letters."""
    return unicodedata.normalize("NFC", name)


def _members(folder: Path) -> list[os.DirEntry]:
    """Return the entries of a split's folder, without the folders of other splits in it."""
    entries = _entries(folder)
    if split_named(folder.name):
        return entries
    return [entry for entry in entries if not _split_of(entry)]


def _entries(folder: Path) -> list[os.DirEntry]:
    """Return the entries of a folder, without hidden and system files."""
    try:
        with os.scandir(folder) as entries:
            return [e for e in entries if e.name[0] != "." and e.name.lower() not in SYSTEM_FILES]
    except (FileNotFoundError, NotADirectoryError):
        raise InputError(
            f"{folder}: no such folder; put images in {folder}/<class>/, or pass the folder that "
            "contains your class folders as --data.root (train.py) or --data (classify.py)"
        ) from None
    except OSError as error:
        raise InputError(
            f"{folder}: cannot be listed ({error.strerror}); change its permissions"
        ) from None
