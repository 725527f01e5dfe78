"""The texts of a document that need not be valid, fit to be shown beside those of one that was.

Opens files through `sources` and `files`. Knows nothing of the schema.
"""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from contextlib import suppress
from itertools import zip_longest
from typing import Final

from reconciler.document.compose import compose
from reconciler.document.files import ReadError, read_file
from reconciler.document.marks import mark_doubtful
from reconciler.document.masking import mask_words
from reconciler.document.nodes import Source
from reconciler.document.problems import quote
from reconciler.document.sources import Reading, read_document

# What follows the sign, where it is one of a comment; inside of a text too much may be masked.
_COMMENT: Final = re.compile(r"((?:^|(?<=\s))#\s*)(.+)")
_BREAKS: Final = re.compile("\r\n|\r|\n")


def texts_beside(path: str, known: Mapping[str, str], *, name: str) -> dict[str, str] | None:
    """The text of each file of the document at `path`, called `name`, by its path relative to the document's directory;
    None where the document itself cannot be read.

    A line that stands in the same file of `known`, the texts of a valid document, is the same here. Every other one may
    hold what no valid document does, a literal secret or what a terminal would obey: it is as a message would quote it.
    While it cannot be told what the document includes, the files of `known` count as included.
    """
    reading = read_document(path, name=name)
    main = os.path.abspath(path)
    if main not in reading.contents:
        return None
    directory = os.path.dirname(main)
    sources = {source.key: source for source in reading.sources}
    texts = {}
    for key, data in _contents(reading, directory, known).items():
        source = sources.get(key)
        if source is None or not source.text:
            source = Source(key, key, data.decode("utf-8-sig", "replace"))
        texts[key] = _shown(source, frozenset(_BREAKS.split(known.get(key, ""))))
    return texts


def _contents(reading: Reading, directory: str, known: Mapping[str, str]) -> dict[str, bytes]:
    found = {os.path.relpath(file, directory): data for file, data in reading.contents.items()}
    if not reading.whole:
        for key in known.keys() - found.keys():
            with suppress(ReadError):
                found[key] = read_file(os.path.join(directory, key))
    return found


def _masked(comment: re.Match[str]) -> str:
    return comment[1] + mask_words(comment[2])


def _shown(source: Source, known: frozenset[str]) -> str:
    root, _problems = compose(source)
    if root is not None:
        mark_doubtful(root)
    shown = []
    for number in range(1, source.line_count + 1):
        line = source.line(number)
        shown.append(line if line in known else quote(_COMMENT.sub(_masked, source.shown(number, 1)[0]), 1)[0])
    ends = _BREAKS.findall(source.text)
    return "".join(line + end for line, end in zip_longest(shown, ends, fillvalue=""))
