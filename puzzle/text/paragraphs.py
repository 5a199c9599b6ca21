"""Documents of one string or of a text file: what blank lines separate."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

from puzzle.errors import DataError

BYTE_ORDER_MARK = "\ufeff"
# A line end is taken whole, so that "\r\n" is never read as two.
_END = r"(?>\r\n|\r|\n)"
_BLANK_LINES = re.compile(rf"{_END}(?:[^\S\r\n]*{_END})+")


def split_documents(text: str) -> list[str]:
    r"""Returns the documents of a string, which blank lines separate.

    A line is blank if it holds nothing but white space; it may end in "\n", "\r\n" or "\r".

    Example:
        >>> split_documents("One paragraph.\r\n \r\nAnother.")
        ['One paragraph.', 'Another.']
    """
    parts = _BLANK_LINES.split(text.removeprefix(BYTE_ORDER_MARK))
    return [part.strip() for part in parts if part.strip()]


def read_documents(path: str) -> Iterator[str]:
    """Yields the documents of a text file as `split_documents` cuts them, a few lines at a time.

    Raises:
        DataError: The file cannot be read, or is not UTF-8.
    """
    lines: list[str] = []
    number = 0  # of lines that were read
    try:
        with Path(path).open(encoding="utf-8-sig") as file:
            for line in file:
                number += 1
                if line.strip():
                    lines.append(line)
                elif lines:
                    yield "".join(lines).strip()
                    lines = []
    except OSError as error:
        raise DataError(f"{path} cannot be read ({error.strerror or error})") from error
    except UnicodeDecodeError as error:
        raise DataError(
            f"{path} is not UTF-8 text after line {number} ({error.reason}); convert it"
        ) from error
    if lines:
        yield "".join(lines).strip()
