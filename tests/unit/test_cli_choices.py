"""Choices of the command line are those of the library; the enumerations exist so that ``--help`` imports nothing."""

from __future__ import annotations

from enum import StrEnum
from typing import Any, get_args

import pytest

from fewmask.cli.export import Form
from fewmask.cli.labels import ToolName
from fewmask.cli.use import Rule
from fewmask.data import writers
from fewmask.ops import select
from fewmask.run import export


@pytest.mark.parametrize(("choices", "literal"), [(Form, export.Format), (ToolName, writers.Tool), (Rule, select.Rule)])
def test_the_same_choices(choices: type[StrEnum], literal: Any) -> None:
    """Names and order."""
    assert tuple(one.value for one in choices) == get_args(literal)
