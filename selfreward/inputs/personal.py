"""Finding what names a person in a text: mail addresses, telephone and card numbers, IP addresses.

A handful of patterns of ours. The well-kept libraries (Presidio, scrubadub) find names and
addresses, too, by a language model of some hundred megabytes each, which is more than seed data
needs, and of these four kinds they go by patterns as well. What looks alike is told apart where it
can be: card numbers by their check digit, IP addresses by what is reachable, and what is reserved
for examples is nobody's.
"""

import ipaddress
import re
from collections.abc import Iterator

_EMAIL = re.compile(r"(?<![\w.+-])[\w.+-]{1,64}@((?:[\w-]{1,63}\.){1,8}[A-Za-z]{2,24})(?![\w-])")
_EXAMPLES = re.compile(r"(?:.*\.)?(?:example(?:\.(?:com|net|org))?|test|invalid|localhost)")
"""Domains reserved for examples (RFC 2606)."""
_CARD = re.compile(r"(?<![\w.-])\d(?:[ -]?\d){12,18}(?![\w-])")
_IP = re.compile(
    r"(?<![\w.:])(?:(?:\d{1,3}\.){3}\d{1,3}|(?:[0-9A-Fa-f]{0,4}:){2,7}[0-9A-Fa-f]{1,4})(?![\w:]|\.\d)"
)
_PHONE = re.compile(
    r"""(?<![\w.+-])(?<!\d[ ./-])(?:
    (?:\+|00)[1-9]\d{0,2}(?:[ .-]?\(0?\d{1,4}\))?(?:[ ./-]?\d{1,5}){2,6}   # +49 (0)30 123456
    |(?:\(\d{3}\)\s?|\d{3}[ .-])\d{3}[ .-]\d{4}                            # (212) 736-5000
    |0\d{1,4}[ /-]\d{3,5}(?:[ -]?\d{2,5})?                                 # 030 1234567
    )(?![\w-]|[ .]\d)""",
    re.VERBOSE,
)
_FICTION = re.compile(r"555\D?01\d\d$")
"""Numbers reserved for fiction in North America."""


def kinds_in(text: str) -> list[str]:
    """Which kinds of personal data a text holds, in order: email, phone, card, IP address."""
    return list(dict.fromkeys(_found(text)))


def _found(text: str) -> Iterator[str]:
    for match in _EMAIL.finditer(text):
        if not _EXAMPLES.fullmatch(match[1].casefold()):
            yield "email"
    cards = [match.span() for match in _CARD.finditer(text) if _is_card(match[0])]
    for match in _PHONE.finditer(text):
        within = any(start <= match.start() < end for start, end in cards)
        if not within and _is_phone(match[0]):
            yield "phone"
    if cards:
        yield "card"
    for match in _IP.finditer(text):
        if _is_global(match[0]):
            yield "IP address"


def _is_card(found: str) -> bool:
    """Whether the check digit is right (Luhn; ISO/IEC 7812-1), and not all digits are the same."""
    digits = [int(char) for char in found if char.isdecimal()]
    doubled = [sum(divmod(2 * digit, 10)) for digit in digits[-2::-2]]
    return len({*digits}) > 1 and (sum(digits[-1::-2]) + sum(doubled)) % 10 == 0


def _is_phone(found: str) -> bool:
    """Whether it has 7 to 15 digits (ITU-T E.164), and is not reserved for fiction."""
    return 7 <= sum(map(str.isdecimal, found)) <= 15 and not _FICTION.search(found)


def _is_global(found: str) -> bool:
    """Whether it is an address that somebody on the Internet may have.

    Of IPv6 at least three groups have to be there: ``[::2]`` and ``a::b`` are code.
    """
    if ":" in found and sum(map(bool, found.split(":"))) < 3:
        return False
    try:
        return ipaddress.ip_address(found).is_global
    except ValueError:
        return False
