r"""Text that anyone may have written, made safe to show: control characters are spelled out.

A model writes what it likes. What would act on a terminal, break XML or turn the reading order
around is shown as ``\x1b`` or ``\u202e`` instead.
"""

import re

# C0 but tab and newline, DEL, C1, bidirectional controls, line separators, tags, lone surrogates,
# noncharacters.
UNSAFE = re.compile(
    "[\x00-\x08\x0b-\x1f\x7f-\x9f\u061c\u200e\u200f\u2028-\u202e\u2066-\u2069\ufeff\ufff9-\ufffb"
    "\U000e0000-\U000e007f\ud800-\udfff\ufdd0-\ufdef\ufffe\uffff]"
)

ACTIVE = "'=+-@\t\r\n\uff1d\uff0b\uff0d\uff20"
"""How a text begins that a spreadsheet would take for a formula
(https://owasp.org/www-community/attacks/CSV_Injection), or for one that is made harmless."""


def spelled(text: str) -> str:
    r"""Spell out each character that acts instead of being seen; newlines and tabs stay.

    A carriage return before a newline goes.
    """
    return UNSAFE.sub(lambda match: spell(match[0]), text.replace("\r\n", "\n"))


def spell(character: str) -> str:
    r"""Its code as people write it: ``\x1b``, ``\u202e``, ``\U000e0041``."""
    code = ord(character)
    if code < 0x100:
        return f"\\x{code:02x}"
    return f"\\u{code:04x}" if code < 0x10000 else f"\\U{code:08x}"
