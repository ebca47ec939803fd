"""What ``fewmask check`` can find: kinds, and for each finding its file, value, place and remedy."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, Self, get_args

from fewmask.errors import DataError

Kind = Literal[
    "missing_file", "empty_file", "unknown_format", "damaged_file", "too_large", "several_pictures", "pixel_format",
    "transparency", "lossy_mask", "undeclared_id", "undeclared_colour", "size_mismatch", "orientation",
    "two_readings", "empty_masks", "no_mask", "classes", "same_picture",
    "group_in_two_roles", "near_picture", "repeated_picture", "names_alike", "named_after", "rare_class",
    "absent_class", "mask_without_image", "image_without_mask", "other_file",
]  # fmt: skip
"""Names for scripts; the order is that of the text."""

KINDS: tuple[Kind, ...] = get_args(Kind)
TITLES: dict[Kind, str] = {
    "missing_file": "files that do not exist",
    "empty_file": "empty files",
    "unknown_format": "files that are no image of a known format",
    "damaged_file": "files that cannot be read",
    "too_large": "images that are too large",
    "several_pictures": "files of several frames or pages",
    "pixel_format": "pixels of a kind that is not read without declaration",
    "transparency": "transparent pixels",
    "lossy_mask": "masks of a lossy format",
    "undeclared_id": "class ids that nothing declares",
    "undeclared_colour": "mask colours that nothing declares",
    "size_mismatch": "masks of another size than their image",
    "orientation": "EXIF orientations that may or may not apply",
    "two_readings": "masks with two readings",
    "empty_masks": "empty masks",
    "no_mask": "no masks at all",
    "classes": "classes",
    "same_picture": "the same picture in two roles",
    "group_in_two_roles": "groups in two roles",
    "near_picture": "nearly the same picture in two roles",
    "repeated_picture": "pictures that are repeated within a role",
    "names_alike": "names that differ in case or Unicode form alone",
    "named_after": "unlabelled images named after a labelled one",
    "rare_class": "rare classes",
    "absent_class": "absent classes",
    "mask_without_image": "masks without an image",
    "image_without_mask": "val and test images without a mask",
    "other_file": "other files among the images and masks",
}


@dataclass(frozen=True)
class Finding:
    """Something that was found in the data.

    Attributes:
        kind: what sort of finding.
        what: what is wrong.
        where: the file; "" where it is about the whole data set.
        todo: what to do about it.
        name: the item, "" where it is about several or none.
        value: the class id, the colour as "r,g,b", the sizes of image and mask as "16x12 20x14" (width x height), the
            orientation, the format, the class, the group, or the other file; None where there is none.
        position: (x, y) of the first pixel that is wrong, from the upper left; None where it is about no pixel.
        names: the items, where it is about several.
    """

    kind: Kind
    what: str
    where: str
    todo: str = ""
    name: str = ""
    value: int | str | None = None
    position: tuple[int, int] | None = None
    names: tuple[str, ...] = ()

    @classmethod
    def of(cls, error: DataError, name: str) -> Self:
        """Return what an error says about the file of an item; one of no stated kind is a file that cannot be read."""
        if isinstance(error, BadFile):
            return cls(error.kind, error.what, error.where, error.todo, name, error.value, error.position)
        return cls("damaged_file", error.what, error.where, error.todo, name)


class BadFile(DataError):
    """A file is not what it should be; besides the sentence it says what kind of fault, which value, and where.

    Args:
        kind: as of a finding.
        what: as of every error, like ``where`` and ``todo``.
        value: as of a finding.
        position: as of a finding.
    """

    def __init__(
        self, kind: Kind, what: str, *, where: object = "", todo: str = "", value: int | str | None = None,
        position: tuple[int, int] | None = None,
    ) -> None:  # fmt: skip
        super().__init__(what, where=where, todo=todo)
        self.kind: Kind = kind
        self.value, self.position = value, position

    def __reduce__(self) -> tuple[object, ...]:
        """Pickle by keyword: errors travel from loader processes."""
        return _rebuild, (type(self), self.kind, self.what, self.where, self.todo, self.value, self.position)


def _rebuild(
    cls: type[BadFile], kind: Kind, what: str, where: str, todo: str, value: int | str | None,
    position: tuple[int, int] | None,
) -> BadFile:  # fmt: skip
    return cls(kind, what, where=where, todo=todo, value=value, position=position)


class Remark(str):
    """A sentence that sums up, and the findings that it sums up; a text to everything that does not ask for them."""

    findings: tuple[Finding, ...]

    def __new__(cls, sentence: str, findings: Sequence[Finding] = ()) -> Self:
        """Make one.

        Args:
            sentence: the text.
            findings: each of what it is about.
        """
        made = super().__new__(cls, sentence)
        made.findings = tuple(findings)
        return made
