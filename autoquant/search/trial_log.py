"""`TrialLogs`: what was said while a trial was evaluated, beside the study, one file a trial."""

from pathlib import Path

__all__ = ["MOST_CHARACTERS", "TrialLogs", "shorten"]

MOST_CHARACTERS = 64_000
_BEGINNING = 16_000


class TrialLogs:
    """Logs of a study's trials.

    Args:
        folder: where they lie; made when the first one is written.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def keep(self, number: int, text: str) -> None:
        """Write what was said of a trial; a trial that is evaluated anew has the last one."""
        if number < 0 or not text:  # one that is looked at again has its log already
            return
        self.folder.mkdir(parents=True, exist_ok=True)
        self._path(number).write_text(shorten(text), encoding="utf-8", errors="replace")

    def read(self, number: int) -> str | None:
        """What was said; None where nothing was kept."""
        path = self._path(number)
        return path.read_text(encoding="utf-8", errors="replace") if path.is_file() else None

    def _path(self, number: int) -> Path:
        return self.folder / f"{number}.log"


def shorten(text: str, most: int = MOST_CHARACTERS) -> str:
    """A text of at most about so many characters: its beginning, and more of its end."""
    if len(text) <= most:
        return text
    beginning = min(_BEGINNING, most // 4)
    left_out = len(text) - most
    end = text[len(text) - (most - beginning) :]
    return f"{text[:beginning]}\n... {left_out} characters left out ...\n{end}"
