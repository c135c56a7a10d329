"""How text is split into the pieces within which bytes are merged.

`gpt2` (Radford et al. 2019, section 2.2, and its released encoder): contractions in lower case; letters, digits and
other characters, each run with one space before it; white space. `cl100k` (OpenAI's tiktoken, encoding cl100k_base):
contractions in either case; letters with any one character before them that is neither letter, digit nor line end; at
most three digits; other characters with the line ends behind them; white space up to its last line end.

The expression of cl100k is spelled as it was first published. tiktoken's later spelling has possessive quantifiers,
which Oniguruma, the engine of `tokenizers`, reads otherwise: it would put no bound on digits. The two split every text
alike but for white space at its very end: "a\\n " ends in two pieces here, in one there. Cleaned documents have none.
"""

from typing import Literal

from tokenizers import Regex, pre_tokenizers

CL100K = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*"
    r"|\s*[\r\n]+|\s+(?!\S)|\s+"
)

PreTokenizer = Literal["gpt2", "cl100k"]


def build_pre_tokenizer(name: PreTokenizer) -> pre_tokenizers.PreTokenizer:
    """Splits a text into pieces, and spells their bytes in the alphabet of byte-level vocabularies."""
    if name == "gpt2":
        return pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=True)
    split = pre_tokenizers.Split(Regex(CL100K), behavior="isolated")
    return pre_tokenizers.Sequence([split, pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)])
