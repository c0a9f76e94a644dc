"""The VFS graph driver: layers by id in one home, made, found and removed whole."""

from __future__ import annotations

from reflayer.driver.driver import Driver

__all__ = ["Driver"]
