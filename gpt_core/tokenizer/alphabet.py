"""GPT-2's alphabet: a character for every byte, in which byte-level vocabularies are spelled.

The bytes 0x21-0x7E, 0xA1-0xAC and 0xAE-0xFF stand for themselves; the other 68, in order, are U+0100 to U+0143
(Radford et al. 2019, the released encoder). The order of a learned tokenizer's first 256 ids is that of the characters.
"""

_PLAIN = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
_REST = sorted(set(range(256)) - set(_PLAIN))

BYTE_OF: dict[str, int] = {chr(byte): byte for byte in _PLAIN} | {chr(256 + n): byte for n, byte in enumerate(_REST)}
ALPHABET = sorted(BYTE_OF)
