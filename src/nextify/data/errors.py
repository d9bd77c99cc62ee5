"""What is wrong with the images, in one line that names the remedy."""

from collections.abc import Iterator
from contextlib import contextmanager

from nextify.system.text import printable


class DataError(ValueError):
    """Images that cannot be trained or tested on; the message is one line and names the remedy."""


@contextmanager
def reading_of(path: object) -> Iterator[None]:
    """Turn an ``OSError`` within into a ``DataError`` that names ``path``."""
    try:
        yield
    except OSError as error:
        reason = error.strerror or str(error).partition("\n")[0]
        raise DataError(f"{printable(str(path))} cannot be read ({reason}): check its permissions") from None
