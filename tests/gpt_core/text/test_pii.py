"""Personal data: what is replaced, and above all what is not."""

import pyarrow as pa
import pytest

from gpt_core.text.pii import replace_pii

KINDS = ("email", "ip", "phone", "card", "iban")


def replace(text: str) -> str:
    return str(replace_pii(pa.array([text]), KINDS)[0][0].as_py())


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("Write to jane.o'doe+news@mail.example.co.uk, please.", "Write to jane.o'<|email|>, please."),
        ("jane@example.org.", "<|email|>."),
        ("from 8.8.8.8:80 and 2001:4860:4860::8888 on", "from <|ip|>:80 and <|ip|> on"),
        ("Call +44 20 7946 0958 or (212) 555-0100.", "Call <|phone|> or <|phone|>."),
        ("Call 212-555-0100; +1 (212) 555-0100; 030 1234 5678", "Call <|phone|>; <|phone|>; <|phone|>"),
        ("card 4111 1111 1111 1111 ends", "card <|card|> ends"),
        ("card 378282246310005, or 5500-0000-0000-0004", "card <|card|>, or <|card|>"),
        ("pay DE89 3704 0044 0532 0130 00 or GB82WEST12345698765432", "pay <|iban|> or <|iban|>"),
    ],
)
def test_personal_data_is_replaced_by_its_kind(text: str, expected: str) -> None:
    assert replace(text) == expected
    assert replace(expected) == expected


@pytest.mark.parametrize(
    "text",
    [
        "In 1812, 1813 and 1914-1918 there were 123,456,789 people.",
        "ISBN 978-3-16-148410-0 and ISBN 0-306-40615-2",
        "private 192.168.1.1, 10.0.0.7, 127.0.0.1 and fe80::1",
        "version 1.2.3.4.5 of 2024-11-23 at 12:30:45",
        "a 16-digit number 4111111111111112 fails Luhn, 1234567890123456 has no issuer",
        "DE89 3704 0044 0532 0130 01 has a wrong check number",
        "@home and a@b stay; so does pi = 3.14159265358979",
        "48.8584 N, 2.2945 E; 299 792 458 m/s; 6.02214076",
        "1 000 000 000 francs, No. 12345678",
    ],
)
def test_what_only_looks_like_it_stays(text: str) -> None:
    assert replace(text) == text


def test_findings_are_counted_by_kind_and_text() -> None:
    texts = pa.array(["nothing here", "a@b.org, c@d.org and 8.8.8.8", "e@f.org"])
    found, counts = replace_pii(texts, ("email", "ip"))
    assert found.to_pylist() == ["nothing here", "<|email|>, <|email|> and <|ip|>", "<|email|>"]
    assert {kind: numbers.tolist() for kind, numbers in counts.items()} == {"email": [0, 2, 1], "ip": [0, 1, 0]}


def test_a_kind_that_is_not_asked_for_stays() -> None:
    assert replace_pii(pa.array(["a@b.org 8.8.8.8"]), ("ip",))[0].to_pylist() == ["a@b.org <|ip|>"]
