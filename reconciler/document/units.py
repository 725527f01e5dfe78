"""Text with units to numbers: durations, sizes, percentages, windows of the day, cron expressions. Pure.

Each `parse_` takes the value as YAML gave it and returns the canonical form, or raises `BadValue` with what was
expected; each `render_` is the way back. A bare number is refused wherever it could mean two things; the hint names the units.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Collection, Mapping
from functools import cache
from typing import Any

_DURATION_UNITS = {"ms": 0.001, "s": 1, "m": 60, "h": 3600, "d": 86400, "w": 604800}
_DURATION = re.compile(r"([0-9]+(?:\.[0-9]+)?)(ms|s|m|h|d|w)")
# systemd.resource-control(5) and systemd.exec(5): K, M, G, T are powers of 1024.
_SIZE_POWERS = {"": 0, "k": 1, "m": 2, "g": 3, "t": 4}
_SIZE = re.compile(r"([0-9]+(?:\.[0-9]+)?)\s?([kmgt]?)(i?b)?", re.IGNORECASE)
_WINDOW = re.compile(r"([0-9]{1,2}):([0-9]{2})\s*-\s*([0-9]{1,2}):([0-9]{2})(?:\s+(\S+))?")
_DATE = re.compile(r"([0-9]{4})-([0-9]{2})-([0-9]{2})")
# A number with more digits than this is a mistake, and converting it is where Python spends quadratic time.
_MAX_TEXT = 64
_MAX_SECONDS = 10 * 366 * 86400
_MAX_BYTES = 1 << 60

DURATION_EXPECTED = "a duration such as 30s, 5m, 24h, 7d or 1h30m"
SIZE_EXPECTED = "a size such as 64k, 512M or 1GiB"
PERCENT_EXPECTED = "a percentage such as 150%"
WINDOW_EXPECTED = 'a window of the day such as "08:00-22:00 Europe/Berlin"'
CRON_EXPECTED = 'five cron fields: minute hour day month weekday, such as "0 */6 * * *"'
DATE_EXPECTED = "a date such as 2027-01-31"

# What these texts look like, for JSON Schema (ECMA 262): all that a pattern can tell.
_NUMBER = r"[0-9]+(?:\.[0-9]+)?"
_TIME = r"(?:[01]?[0-9]|2[0-3]):[0-5][0-9]"
DURATION_PATTERN = (
    rf"^\s*(?=[0-9])(?:0|{''.join(rf'(?:{_NUMBER}{unit})?' for unit in ('w', 'd', 'h', 'm', 's', 'ms'))})\s*$"
)
SIZE_PATTERN = rf"^\s*{_NUMBER}\s?(?:[kmgtKMGT](?:[iI]?[bB])?|[bB])\s*$"
PERCENT_PATTERN = rf"^\s*(?=[0-9.]*[1-9]){_NUMBER}\s?%\s*$"
WINDOW_PATTERN = rf"^\s*{_TIME}\s*-\s*(?:{_TIME}|24:00)(?:\s+\S+)?\s*$"


class BadValue(ValueError):
    """A value that cannot be used.

    Attributes:
        code: the constant word for the problem.
        message: what is wrong, to follow "cannot ".
        expected: what would have been right; may be empty.
        hint: what to do; may be empty.
        given: the word that is not known, where that is what is wrong.
        words: gives the words that are known; looking for the one that was meant is left to whoever reports.
    """

    def __init__(
        self,
        message: str,
        *,
        expected: str = "",
        hint: str = "",
        code: str = "bad_value",
        given: str = "",
        words: Callable[[], Collection[str]] = tuple,
    ) -> None:
        super().__init__(message)
        self.code = code
        self.message = message
        self.expected = expected
        self.hint = hint
        self.given = given
        self.words = words


def tidy(number: float) -> int | float:
    """A whole number as int, so that 30 and 30.0 are one in every digest."""
    return int(number) if number == int(number) else round(number, 6)


def parse_duration(value: Any) -> int | float:
    """Seconds. Accepts one or more number-unit pairs, largest first, and a bare 0."""
    if isinstance(value, (int, float)) and not isinstance(value, bool):
        if value == 0:
            return 0
        raise BadValue(
            f"read the bare number {value} as a duration",
            expected=DURATION_EXPECTED,
            hint=f"name the unit: {value}s for seconds, {value}m for minutes",
        )
    text = _text(value, DURATION_EXPECTED)
    if text == "0":
        return 0
    total, at, smallest = 0.0, 0, float("inf")
    for match in _DURATION.finditer(text):
        unit = _DURATION_UNITS[match[2]]
        if match.start() != at or unit >= smallest:
            raise BadValue(f"read {text!r} as a duration", expected=DURATION_EXPECTED)
        total, at, smallest = total + float(match[1]) * unit, match.end(), unit
    if at != len(text) or not text:
        hint = f"name the unit: {text}s for seconds, {text}m for minutes" if text.isdecimal() else ""
        raise BadValue(f"read {text!r} as a duration", expected=DURATION_EXPECTED, hint=hint)
    if total > _MAX_SECONDS:
        raise BadValue(f"use {text!r}: more than ten years", expected=DURATION_EXPECTED)
    return tidy(total)


def render_duration(seconds: float) -> str:
    """The text for a number of seconds, in one unit, which `parse_duration` makes the same number of."""
    # A day or two are 24h and 48h to everybody, a week is 7d.
    units = (("d", 86400), ("h", 3600), ("m", 60)) if seconds >= 7 * 86400 else (("h", 3600), ("m", 60))
    for unit, size in units if seconds else ():
        if seconds % size == 0:
            return f"{seconds // size:.0f}{unit}"
    return f"{seconds:.0f}s" if seconds == int(seconds) else f"{_digits(seconds * 1000)}ms"


def render_size(size: int) -> str:
    """The text for a number of bytes, in the largest unit of which it is a whole number."""
    for power, unit in ((4, "TiB"), (3, "GiB"), (2, "MiB"), (1, "KiB")):
        if size and size % 1024**power == 0:
            return f"{size // 1024**power}{unit}"
    return f"{size}B"


def render_percent(number: float) -> str:
    """The text for a percentage."""
    return f"{_digits(number)}%"


def render_window(window: Mapping[str, str]) -> str:
    """The text for a window of the day, as `parse_window` gives it."""
    return f"{window['start']}-{window['end']} {window['zone']}".rstrip()


def _digits(number: float) -> str:
    """All digits that `tidy` leaves, without an exponent."""
    return f"{number:.6f}".rstrip("0").rstrip(".")


def parse_size(value: Any) -> int:
    """Bytes. M and MiB are both 1024 * 1024, as systemd has it."""
    if isinstance(value, (int, float)) and not isinstance(value, bool):
        if value == 0:
            return 0
        raise BadValue(
            f"read the bare number {value} as a size",
            expected=SIZE_EXPECTED,
            hint=f"name the unit: {value}M for mebibytes, {value}B for bytes",
        )
    text = _text(value, SIZE_EXPECTED)
    match = _SIZE.fullmatch(text)
    if match is None or not (match[2] or match[3]) or ((match[3] or "").lower() == "ib" and not match[2]):
        hint = f"name the unit: {text}M for mebibytes, {text}B for bytes" if text.isdecimal() else ""
        raise BadValue(f"read {text!r} as a size", expected=SIZE_EXPECTED, hint=hint)
    size = float(match[1]) * 1024 ** _SIZE_POWERS[match[2].lower()]
    if size != int(size):
        raise BadValue(f"use {text!r}: not a whole number of bytes", expected=SIZE_EXPECTED)
    if size > _MAX_BYTES:
        raise BadValue(f"use {text!r}: more than an exbibyte", expected=SIZE_EXPECTED)
    return int(size)


def parse_percent(value: Any) -> int | float:
    """Percent as a number: "150%" is 150."""
    if isinstance(value, (int, float)) and not isinstance(value, bool):
        raise BadValue(
            f"read the bare number {value} as a percentage", expected=PERCENT_EXPECTED, hint=f"name the unit: {value}%"
        )
    text = _text(value, PERCENT_EXPECTED)
    match = re.fullmatch(r"([0-9]+(?:\.[0-9]+)?)\s?%", text)
    if match is None:
        hint = f"name the unit: {text}%" if text.isdecimal() else ""
        raise BadValue(f"read {text!r} as a percentage", expected=PERCENT_EXPECTED, hint=hint)
    number = float(match[1])
    if not 0 < number <= 1_000_000:
        raise BadValue(f"use {text!r}: out of range", expected=PERCENT_EXPECTED)
    return tidy(number)


def parse_window(value: Any) -> dict[str, str]:
    """`{"start": "08:00", "end": "22:00", "zone": "Europe/Berlin"}`; the zone is empty for the host's own.

    The start is inclusive, the end exclusive, 24:00 allowed as an end; an end before the start wraps over midnight.
    """
    text = _text(value, WINDOW_EXPECTED)
    match = _WINDOW.fullmatch(text)
    if match is None:
        raise BadValue(f"read {text!r} as a window of the day", expected=WINDOW_EXPECTED)
    start, end = (int(match[1]), int(match[2])), (int(match[3]), int(match[4]))
    if start > (23, 59) or start[1] > 59:
        raise BadValue(f"use {match[1]}:{match[2]} as a time of day", expected="a time from 00:00 to 23:59")
    if end > (24, 0) or end[1] > 59:
        raise BadValue(f"use {match[3]}:{match[4]} as a time of day", expected="a time from 00:00 to 24:00")
    if start == end:
        raise BadValue(f"use {text!r}: it is empty", hint="leave the field out for the whole day")
    zone = match[5] or ""
    if zone:
        check_zone(zone)
    return {"start": f"{start[0]:02}:{start[1]:02}", "end": f"{end[0]:02}:{end[1]:02}", "zone": zone}


def check_zone(zone: str) -> str:
    """`zone` if this host's zone data knows it."""
    from zoneinfo import ZoneInfo

    try:
        ZoneInfo(zone)
    except (OSError, ValueError):
        # ZoneInfoNotFoundError is a KeyError, and stands for what is left.
        pass
    except KeyError:
        pass
    else:
        return zone
    raise BadValue(
        f"find the time zone {zone!r}",
        expected="an IANA time zone such as Europe/Berlin or UTC",
        given=zone,
        words=known_zones,
    )


@cache
def known_zones() -> frozenset[str]:
    """All zones of this host; walks the zone data once."""
    from zoneinfo import available_timezones

    return frozenset(available_timezones())


_CRON_FIELDS = (("minute", 0, 59), ("hour", 0, 23), ("day", 1, 31), ("month", 1, 12), ("weekday", 0, 7))
_CRON_NAMES = {
    "month": {
        name: number
        for number, name in enumerate(
            ["jan", "feb", "mar", "apr", "may", "jun", "jul", "aug", "sep", "oct", "nov", "dec"], 1
        )
    },
    "weekday": {name: number for number, name in enumerate(["sun", "mon", "tue", "wed", "thu", "fri", "sat"])},
}


def parse_cron(value: Any) -> str:
    """The five fields with single spaces between them (crontab(5); names of months and weekdays allowed)."""
    text = _text(value, CRON_EXPECTED, limit=256)
    fields = text.split()
    if len(fields) != 5:
        raise BadValue(f"read {text!r} as a cron expression: {len(fields)} fields, not 5", expected=CRON_EXPECTED)
    for field, (name, low, high) in zip(fields, _CRON_FIELDS, strict=True):
        for part in field.split(","):
            _check_cron_part(part, name, low, high)
    return " ".join(fields)


def _check_cron_part(part: str, name: str, low: int, high: int) -> None:
    span, slash, step = part.partition("/")
    expected = f"{name} from {low} to {high}, a range, a list, or * with an optional /step"
    if slash and not (step.isascii() and step.isdecimal() and 0 < int(step) <= high):
        raise BadValue(f"use {part!r} as a cron {name}", expected=expected)
    if span == "*":
        return
    first, dash, last = span.partition("-")
    numbers = [_cron_number(word, name) for word in ((first, last) if dash else (first,))]
    if any(number is None or not low <= number <= high for number in numbers) or (
        len(numbers) == 2 and (numbers[0] or 0) > (numbers[1] or 0)
    ):
        raise BadValue(f"use {part!r} as a cron {name}", expected=expected)


def _cron_number(word: str, name: str) -> int | None:
    if word.isascii() and word.isdecimal() and len(word) <= 2:
        return int(word)
    return _CRON_NAMES.get(name, {}).get(word.lower())


def parse_date(value: Any) -> str:
    """A calendar date as ISO text."""
    text = _text(value, DATE_EXPECTED)
    match = _DATE.fullmatch(text)
    if match is not None:
        from datetime import date

        try:
            return date(int(match[1]), int(match[2]), int(match[3])).isoformat()
        except ValueError:
            pass
    raise BadValue(f"read {text!r} as a date", expected=DATE_EXPECTED)


def _text(value: Any, expected: str, limit: int = _MAX_TEXT) -> str:
    if not isinstance(value, str):
        raise BadValue(f"use {kind_of(value)} here", expected=expected, code="wrong_type")
    if len(value) > limit:
        raise BadValue(f"use a text of {len(value)} characters here", expected=expected)
    return value.strip()


def kind_of(value: Any) -> str:
    """What `value` is, in a person's words; never the value itself."""
    if value is None:
        return "nothing (null)"
    if isinstance(value, bool):
        return "true or false"
    if isinstance(value, (int, float)):
        return "a number"
    if isinstance(value, str):
        return "a text"
    return "a list" if isinstance(value, (list, tuple)) else "a mapping"
