"""The settings of network policies under the names that this room uses."""

from __future__ import annotations

from rulegen.config import Denial
from rulegen.config import PolicySettings as Settings

__all__ = ["Denial", "Settings"]
