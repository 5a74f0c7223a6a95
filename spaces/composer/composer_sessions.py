"""What one visitor has made: versions with their parents, and which one is shown."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

MAX_VERSIONS = 20


@dataclass
class Version:
    """The outcome of one action."""

    number: int
    action: str
    prompt: str
    request: dict[str, Any]
    seed: int
    model: str
    midi: list[bytes] = field(repr=False)
    """One Standard MIDI File per output."""
    bars: list[list] = field(repr=False)
    """Notes by bar, per output."""
    measured: list[dict[str, Any]]
    seconds: float
    complete: bool
    primer_bars: int = 0
    parent: int | None = None

    @property
    def label(self) -> str:
        """One line for the list of versions."""
        state = "" if self.complete else ", stopped"
        return f"{self.number}. {self.action}, {max(map(len, self.bars))} bars, seed {self.seed}{state}"


class Session:
    """The versions of one visitor; `current` is the number of the one that is shown.

    No dataclass: Gradio would write the fields of one into the page.
    """

    def __init__(self):
        self.versions: dict[int, Version] = {}
        self.current: int | None = None
        self.made = 0

    @property
    def shown(self) -> Version | None:
        """The version on the page."""
        return self.versions.get(self.current) if self.current is not None else None

    def add(self, **facts: Any) -> Version:
        """A new version with the shown one as its parent; beyond twenty the oldest goes."""
        self.made += 1
        version = Version(number=self.made, parent=self.current, **facts)
        self.versions[version.number] = version
        while len(self.versions) > MAX_VERSIONS:
            del self.versions[min(self.versions)]
        self.current = version.number
        return version

    def undo(self) -> None:
        """Shows the parent of the shown version, where there is one."""
        if self.shown and self.shown.parent in self.versions:
            self.current = self.shown.parent

    def redo(self) -> None:
        """Shows the newest child of the shown version, where there is one."""
        children = [number for number, version in self.versions.items() if version.parent == self.current]
        if children:
            self.current = max(children)
