"""The shape of a decoder: everything that its parameters and its arithmetic depend on. Imports no torch.

The vocabulary is padded to a multiple of 128 rows, because GEMMs like it, and strictly beyond the tokenizer's
tokens, so that one row is always free: the first, `pad_id`, is the padding token of classification batches. No text
produces it, and it is the id that a tokenizer gives to the next token added to it. The end-of-text token cannot
pad: transformers pools a classifier at the rightmost token that is not padding, and that is an end-of-text token.
"""

from dataclasses import dataclass
from typing import Literal, Self

from gpt_core import recipe

VOCABULARY_MULTIPLE = 128
MLP_MULTIPLE = 64
INIT_STD = 0.02
LAYER_NORM_EPS, RMS_NORM_EPS = 1e-5, 1e-6


@dataclass(frozen=True)
class DecoderConfig:
    """The shape of one decoder; recipe.Model explains the fields. `vocab_size` counts the padded rows.

    `pad_id` is the row of the padding token, None for a foreign model that has none.
    """

    architecture: Literal["gpt1", "gpt2", "qwen3"]
    vocab_size: int
    n_layer: int
    n_head: int
    n_kv_head: int
    n_embd: int
    n_inner: int
    context_length: int
    dropout: float
    rope_theta: float
    pad_id: int | None = None

    def __post_init__(self) -> None:
        """Shapes fit together; recipe.Model words the same rules for people."""
        assert self.n_embd % self.n_head == 0, self
        assert self.n_head % self.n_kv_head == 0, self
        if self.architecture == "qwen3":
            assert self.head_dim % 2 == 0, self
        else:
            assert self.n_kv_head == self.n_head, self
        assert self.architecture != "gpt1" or self.n_inner == 4 * self.n_embd, self

    @classmethod
    def from_recipe(cls, model: recipe.Model, vocab_size: int) -> Self:
        """The config of the recipe's model for a tokenizer of `vocab_size` tokens."""
        n_inner = 4 * model.n_embd
        if model.architecture == "qwen3":
            n_inner = _round_up(-(-8 * model.n_embd // 3), MLP_MULTIPLE)
        return cls(
            architecture=model.architecture,
            vocab_size=pad_vocabulary(vocab_size),
            n_layer=model.n_layer,
            n_head=model.n_head,
            n_kv_head=model.n_kv_head or model.n_head,
            n_embd=model.n_embd,
            n_inner=model.n_inner or n_inner,
            context_length=model.context_length,
            dropout=model.dropout,
            rope_theta=model.rope_theta,
            pad_id=vocab_size,
        )

    @property
    def head_dim(self) -> int:
        """Width of one head, D."""
        return self.n_embd // self.n_head

    @property
    def block_matrix_elements(self) -> int:
        """Elements of the matrices of one block: attention and MLP, without biases."""
        qkv = (self.n_head + 2 * self.n_kv_head) * self.head_dim
        matrices = 3 if self.architecture == "qwen3" else 2
        return self.n_embd * (qkv + self.n_embd + matrices * self.n_inner)

    @property
    def n_parameters(self) -> int:
        """Parameters of the decoder; the tied embedding counts once."""
        C = self.n_embd  # noqa: N806
        if self.architecture == "qwen3":
            block = self.block_matrix_elements + 2 * self.head_dim + 2 * C
            return self.vocab_size * C + self.n_layer * block + C
        block = self.block_matrix_elements + 9 * C + self.n_inner  # biases of 3 C, C, n_inner and C; 2 norms of 2 C
        final_norm = 2 * C if self.architecture == "gpt2" else 0
        return (self.vocab_size + self.context_length) * C + self.n_layer * block + final_norm


def pad_vocabulary(vocab_size: int) -> int:
    """Rows of the embedding for a tokenizer of `vocab_size` tokens: the next multiple of 128 beyond them."""
    return _round_up(vocab_size + 1, VOCABULARY_MULTIPLE)


def _round_up(value: int, multiple: int) -> int:
    return -(-value // multiple) * multiple
