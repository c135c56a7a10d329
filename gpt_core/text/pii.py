"""Personal data, each replaced by a token of its kind: <|email|>, <|ip|>, <|phone|>, <|card|>, <|iban|>.

Rather too little is replaced than a year, a sum or an ISBN: payment cards must have an issuer's first digits and
pass Luhn's check (ISO/IEC 7812), IBANs their length and the modulus of 97 (ISO 13616), IP addresses be public.
A scan of the bytes clears texts with neither an @ nor enough digits, so that Python sees only the others.
"""

import functools
import ipaddress
import re
from collections.abc import Callable, Sequence

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from gpt_core.kernel import kernel
from gpt_core.text.words import Bytes, Offsets, buffers

_EMAIL = re.compile(
    r"(?<![\w.+%-])[A-Za-z0-9_%+-]+(?:\.[A-Za-z0-9_%+-]+)*@(?:[A-Za-z0-9](?:[A-Za-z0-9-]*[A-Za-z0-9])?\.)+"
    r"[A-Za-z]{2,24}(?![\w@])"
)
_IPV4 = re.compile(r"(?<![\w.])(?:\d{1,3}\.){3}\d{1,3}(?![\w]|\.\d)")
_IPV6 = re.compile(r"(?<![\w:.])(?=[0-9A-Fa-f]*:[0-9A-Fa-f:]*:)[0-9A-Fa-f:]{6,39}(?![\w:])")
_PHONE = re.compile(
    r"(?<![\w+.,/:-])(?<!\d )(?:"
    r"\+\d{1,3}[ .-]?(?:\(0?\d{1,4}\)[ .-]?)?\d{1,4}(?:[ .-]?\d{2,4}){1,5}"  # +44 20 7946 0958
    r"|\(\d{3}\) ?\d{3}[ .-]\d{4}"  # (212) 555-0100
    r"|[2-9]\d{2}([.-])[2-9]\d{2}\1\d{4}"  # 212-555-0100
    r"|0\d{1,4}[ /-]\d{3,4}[ -]?\d{3,4}"  # 020 7946 0958
    r")(?![\w-]|[.,/:]\d| ?\d)"
)
_CARD = re.compile(r"(?<![\w.,-])(?:\d[ -]?){12,18}\d(?![\w-]|[.,]\d| ?\d)")
_IBAN = re.compile(r"(?<!\w)[A-Z]{2}\d{2}(?: ?[A-Z0-9]{4}){2,7}(?: ?[A-Z0-9]{1,3})?(?!\w)")
_IBAN_LENGTHS = {  # length -> countries
    15: "NO",
    16: "BE",
    18: "DK FI FO GL NL",
    19: "MK SI",
    20: "AT BA EE KZ LT LU XK",
    21: "CH HR LI LV",
    22: "BG BH CR DE GB GE IE ME RS VA",
    23: "AE GI IL IQ TL",
    24: "AD CZ ES MD PK RO SA SE SK TN VG",
    25: "LY PT ST",
    26: "IS TR",
    27: "BI DJ FR GR IT MC MR SM",
    28: "AL AZ BY CY DO GT HU LB NI PL SV",
    29: "BR EG PS QA UA",
    30: "JO KW MU",
    31: "MT SC",
    32: "LC",
}
_LEAST_DIGITS = 7  # dots and colons in: 8.8.8.8


def replace_pii(texts: pa.Array, kinds: Sequence[str]) -> tuple[pa.Array, dict[str, npt.NDArray[np.int64]]]:
    """(the texts with every finding replaced, findings of each kind in each text)."""
    data, offsets = buffers(texts)
    suspects = np.zeros(len(texts), np.bool_)
    _suspect(data, offsets, "email" in kinds, any(kind != "email" for kind in kinds), suspects)
    counts = {kind: np.zeros(len(texts), np.int64) for kind in kinds}
    changed: dict[int, str] = {}
    for row in np.flatnonzero(suspects).tolist():
        text = texts[row].as_py()
        edited = text
        for kind in kinds:
            edited, found = _REPLACE[kind](edited)
            counts[kind][row] = found
        if edited != text:
            changed[row] = edited
    if not changed:
        return texts, counts
    places = np.arange(len(texts))
    places[list(changed)] = len(texts) + np.arange(len(changed))
    return pa.concat_arrays([texts, pa.array(list(changed.values()), texts.type)]).take(pa.array(places)), counts


def _replace(
    text: str, *, kind: str, patterns: tuple[re.Pattern[str], ...], holds: Callable[[str], bool]
) -> tuple[str, int]:
    found = 0

    def put(match: re.Match[str]) -> str:
        nonlocal found
        if not holds(match.group()):
            return match.group()
        found += 1
        return f"<|{kind}|>"

    for pattern in patterns:
        text = pattern.sub(put, text)
    return text, found


def _always(_: str) -> bool:
    return True


def _is_public(address: str) -> bool:
    try:
        return ipaddress.ip_address(address).is_global
    except ValueError:
        return False


def _is_phone(number: str) -> bool:
    return 8 <= sum(map(str.isdigit, number)) <= 15


def _is_card(number: str) -> bool:
    digits = [int(sign) for sign in number if sign.isdigit()]
    first = int("".join(map(str, digits[:4])))
    issuers = {13: (4,), 14: (30, 36, 38), 15: (34, 37), 16: (4, 5, 6, 22, 23, 24, 25, 26, 27, 35), 19: (4, 6)}
    if not any(str(first).startswith(str(prefix)) for prefix in issuers.get(len(digits), ())):
        return False
    doubled = [digit if i % 2 == 0 else sum(divmod(2 * digit, 10)) for i, digit in enumerate(reversed(digits))]
    return sum(doubled) % 10 == 0


def _is_iban(number: str) -> bool:
    compact = number.replace(" ", "")
    if compact[:2] not in _IBAN_LENGTHS.get(len(compact), "").split():
        return False
    return int("".join(str(int(sign, 36)) for sign in compact[4:] + compact[:4])) % 97 == 1


_REPLACE: dict[str, Callable[[str], tuple[str, int]]] = {
    "email": functools.partial(_replace, kind="email", patterns=(_EMAIL,), holds=_always),
    "ip": functools.partial(_replace, kind="ip", patterns=(_IPV4, _IPV6), holds=_is_public),
    "phone": functools.partial(_replace, kind="phone", patterns=(_PHONE,), holds=_is_phone),
    "card": functools.partial(_replace, kind="card", patterns=(_CARD,), holds=_is_card),
    "iban": functools.partial(_replace, kind="iban", patterns=(_IBAN,), holds=_is_iban),
}


@kernel
def _suspect(data: Bytes, offsets: Offsets, with_at: bool, with_digits: bool, suspects: npt.NDArray[np.bool_]) -> None:
    """Which texts have an @, or digits enough in 32 bytes."""
    for i in range(len(offsets) - 1):
        start, stop = offsets[i], offsets[i + 1]
        near = 0  # digits, dots and colons in the last 32 bytes
        for at in range(start, stop):
            byte = data[at]
            if byte == 64 and with_at:
                suspects[i] = True
                break
            near += byte == 46 or 48 <= byte <= 58
            if at >= start + 32:
                near -= data[at - 32] == 46 or 48 <= data[at - 32] <= 58
            if with_digits and near >= _LEAST_DIGITS and 48 <= byte <= 57:
                suspects[i] = True
                break
