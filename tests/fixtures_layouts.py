"""What tests of data layouts ask of a folder: the names of a role, or how it is refused."""

from __future__ import annotations

import pytest

from fewmask.data.layouts import read_folder


def names(index, role):
    return [i.name for i in index.items[role]]


def refuse(root, error, message, **options):
    with pytest.raises(error, match=message) as caught:
        read_folder(root, **options)
    return caught.value
