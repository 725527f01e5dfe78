"""Units: what is accepted, what it comes to, and that everything else is refused with words and never with a crash."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from reconciler.document import units
from reconciler.document.units import BadValue

GOOD: list[tuple[Callable[[Any], Any], Any, Any]] = [
    (units.parse_duration, "30s", 30),
    (units.parse_duration, "5m", 300),
    (units.parse_duration, "24h", 86400),
    (units.parse_duration, "7d", 604800),
    (units.parse_duration, "1h30m", 5400),
    (units.parse_duration, "1w", 604800),
    (units.parse_duration, "250ms", 0.25),
    (units.parse_duration, "1.5h", 5400),
    (units.parse_duration, "0s", 0),
    (units.parse_duration, "0", 0),
    (units.parse_duration, 0, 0),
    (units.parse_size, "64k", 65536),
    (units.parse_size, "512M", 512 << 20),
    (units.parse_size, "512m", 512 << 20),
    (units.parse_size, "1GiB", 1 << 30),
    (units.parse_size, "1 GB", 1 << 30),
    (units.parse_size, "1.5G", 3 << 29),
    (units.parse_size, "100B", 100),
    (units.parse_size, 0, 0),
    (units.parse_percent, "150%", 150),
    (units.parse_percent, "0.5%", 0.5),
    (units.parse_window, "08:00-22:00 Europe/Berlin", {"start": "08:00", "end": "22:00", "zone": "Europe/Berlin"}),
    (units.parse_window, "8:00 - 24:00", {"start": "08:00", "end": "24:00", "zone": ""}),
    (units.parse_window, "22:00-06:00 UTC", {"start": "22:00", "end": "06:00", "zone": "UTC"}),
    (units.parse_cron, "0 */6 * * *", "0 */6 * * *"),
    (units.parse_cron, " 0,30  8-18/2 1 jan-mar mon-fri ", "0,30 8-18/2 1 jan-mar mon-fri"),
    (units.parse_cron, "0 0 * * 7", "0 0 * * 7"),
    (units.parse_date, "2028-02-29", "2028-02-29"),
]
BARE: tuple[Any, ...] = (
    5,
    1.5,
    "5",
    "",
    "s",
    "5 m",
    "1m1h",
    "1h1h",
    "-5s",
    "5sec",
    "1e3s",
    "9" * 60 + "s",
    None,
    True,
    [],
    {},
    "٣s",
)
BAD: list[tuple[Callable[[Any], Any], Any]] = [(units.parse_duration, value) for value in BARE]
BAD += [
    (units.parse_size, value) for value in (5, "5", "", "M", "iB", "5iB", "-1M", "1X", "0.3k", "9999999T", None, True)
]
BAD += [(units.parse_percent, value) for value in (150, "150", "%", "-5%", "0%", "99999999%", None)]
BAD += [
    (units.parse_window, value)
    for value in (
        "",
        "8-22",
        "25:00-26:00",
        "08:60-09:00",
        "08:00-24:01",
        "08:00-08:00",
        "08:00-22:00 Mars/Base",
        "08:00-22:00 ..",
        5,
    )
]
BAD += [
    (units.parse_cron, value)
    for value in (
        "",
        "* * * *",
        "* * * * * *",
        "60 * * * *",
        "* 24 * * *",
        "* * 0 * *",
        "* * * 13 *",
        "* * * * 8",
        "*/0 * * * *",
        "5-1 * * * *",
        "a * * * *",
        "1,,2 * * * *",
        "@daily",
        5,
    )
]
BAD += [(units.parse_date, value) for value in ("2027-02-29", "2027-1-1", "tomorrow", 20270101, None)]


@pytest.mark.req("DOC-7")
@pytest.mark.parametrize(("parse", "value", "expected"), GOOD)
def test_accepted(parse: Callable[[Any], Any], value: Any, expected: Any) -> None:
    assert parse(value) == expected


@pytest.mark.req("DOC-7")
@pytest.mark.parametrize(("parse", "value"), BAD)
def test_refused_with_what_was_expected(parse: Callable[[Any], Any], value: Any) -> None:
    with pytest.raises(BadValue) as caught:
        parse(value)
    assert caught.value.message
    assert caught.value.expected or caught.value.hint


@pytest.mark.req("DOC-7")
def test_a_bare_number_names_the_unit() -> None:
    with pytest.raises(BadValue) as caught:
        units.parse_duration("15")
    assert caught.value.hint == "name the unit: 15s for seconds, 15m for minutes"


@given(st.one_of(st.text(), st.integers(), st.floats(), st.booleans(), st.none(), st.lists(st.text())))
def test_nothing_but_bad_value_is_raised(value: Any) -> None:
    for parse in (
        units.parse_duration,
        units.parse_size,
        units.parse_percent,
        units.parse_window,
        units.parse_cron,
        units.parse_date,
    ):
        try:
            parse(value)
        except BadValue:
            pass


@given(st.integers(1, 10**6), st.sampled_from(["s", "m", "h"]))
def test_durations_add_up(count: int, unit: str) -> None:
    factor = {"s": 1, "m": 60, "h": 3600}[unit]
    if count * factor < 300_000_000:
        assert units.parse_duration(f"{count}{unit}") == count * factor


@pytest.mark.req("DOC-7")
@given(st.one_of(st.integers(0, 10 * 366 * 86400), st.integers(0, 10**9).map(lambda number: round(number / 10**6, 6))))
def test_a_duration_is_what_its_text_says(seconds: float) -> None:
    assert units.parse_duration(units.render_duration(seconds)) == units.tidy(seconds)


@pytest.mark.req("DOC-7")
@given(st.integers(0, 1 << 60), st.integers(0, 4))
def test_a_size_is_what_its_text_says(number: int, power: int) -> None:
    # As a document gives it: its number of bytes is read as a float.
    size = units.parse_size(f"{number >> (10 * power) << (10 * power)}B")
    assert units.parse_size(units.render_size(size)) == size


@pytest.mark.req("DOC-7")
@given(st.integers(1, 10**9).map(lambda number: number / 1000))
def test_a_percentage_is_what_its_text_says(number: float) -> None:
    assert units.parse_percent(units.render_percent(number)) == units.tidy(number)


@pytest.mark.req("DOC-7")
@pytest.mark.parametrize("text", ["08:00-22:00", "22:00-06:30 Europe/Berlin", "00:00-24:00 UTC"])
def test_a_window_of_the_day_is_what_its_text_says(text: str) -> None:
    assert units.render_window(units.parse_window(text)) == text


@pytest.mark.req("DOC-7")
@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (0, "0s"),
        (0.2, "200ms"),
        (90, "90s"),
        (300, "5m"),
        (5400, "90m"),
        (86400, "24h"),
        (604800, "7d"),
        (1.5, "1500ms"),
    ],
)
def test_a_duration_is_written_in_one_unit(seconds: float, text: str) -> None:
    assert units.render_duration(seconds) == text
