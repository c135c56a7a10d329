"""What is learned: the sections `tokenizer`, `shards`, `model`, `pretrain` and `evaluate`."""

from typing import Annotated, Literal, Self

from pydantic import (
    Field,
    SerializerFunctionWrapHandler,
    model_serializer,
    model_validator,
)

from gpt_core.recipe.section import (
    Fraction,
    NonNegativeFloat,
    NonNegativeInt,
    PositiveFloat,
    PositiveInt,
    Section,
    Seed,
    Text,
)


class Tokenizer(Section):
    """Byte-level BPE, learned from a sample of the documents, or with `path` an existing tokenizer of any kind."""

    path: Text | None = Field(
        None, description="A tokenizer.json, or a folder with one or with vocab.json and merges.txt; null: learn one."
    )
    pre_tokenizer: Literal["gpt2", "cl100k"] = Field(
        "gpt2", description="How text is split before merging: as GPT-2 does [gpt2], or as GPT-4 does [cl100k]."
    )
    vocab_size: Annotated[int, Field(ge=257, le=1_000_000)] = Field(32_768, description="Tokens, special ones in.")
    min_frequency: PositiveInt = Field(2, description="Fewest occurrences of a merged pair.")
    sample_bytes: PositiveInt = Field(512_000_000, description="UTF-8 bytes of text the merges are learned from.")
    special_tokens: tuple[Text, ...] = Field((), description="Tokens for later use, which no text ever gives.")
    end_of_text: Text = Field("<|endoftext|>", description="The token that closes every document.")

    @model_validator(mode="after")
    def _tokens_fit(self) -> Self:
        fixed = [name for name in LEARNED if name in self.model_fields_set]
        if self.path is not None and fixed:
            raise ValueError(
                f"tokenizer.{fixed[0]} is given beside tokenizer.path={self.path!r}, whose files say all but "
                f"end_of_text; leave out {' and '.join(fixed)}, or the path to learn a tokenizer"
            )
        marks = [*self.special_tokens, self.end_of_text]
        twice = next((mark for mark in marks if marks.count(mark) > 1), None)
        if twice is not None:
            other = "tokenizer.end_of_text" if twice == self.end_of_text else "given twice"
            raise ValueError(f"tokenizer.special_tokens: {twice!r} is {other}; name every token once")
        least = 256 + len(marks)
        if self.path is None and self.vocab_size < least:
            raise ValueError(
                f"tokenizer.vocab_size={self.vocab_size} must be at least {least}: 256 bytes, "
                f"{len(self.special_tokens)} special tokens and the end of text"
            )
        return self

    @model_serializer(mode="wrap")
    def _decisions(self, write: SerializerFunctionWrapHandler) -> dict[str, object]:
        """What is learned is no decision where nothing is learned; so a written recipe can be read again."""
        tree: dict[str, object] = write(self)
        return {name: value for name, value in tree.items() if self.path is None or name not in LEARNED}


LEARNED = ("pre_tokenizer", "vocab_size", "min_frequency", "sample_bytes", "special_tokens")  # without tokenizer.path


class Shards(Section):
    """Token shards and the split into train and validation."""

    validation_fraction: Annotated[float, Field(gt=0.0, lt=0.5)] = Field(0.01, description="Share of documents.")
    shard_text_bytes: Annotated[int, Field(ge=1_000_000)] = Field(512_000_000, description="Text a shard, about.")
    seed: Seed = Field(0, description="Seed of the placement of documents.")
    encoder: Literal["auto", "fast", "reference"] = Field(
        "auto",
        description="`reference`: tokenizers. `fast`: gigatoken, refused where it differs on a sample of a block; "
        "`auto`: the reference for such a block. It changes no shard and enters no fingerprint.",
    )


class Model(Section):
    """The decoder. `gpt1`: post-LN, learned positions, GELU. `gpt2`: the same, pre-LN. `qwen3`: RMSNorm, rotary,
    SwiGLU, QK-norm.
    """

    architecture: Literal["gpt1", "gpt2", "qwen3"] = Field("gpt2", description="Which block.")
    n_layer: PositiveInt = Field(12, description="Blocks.")
    n_head: PositiveInt = Field(12, description="Query heads.")
    n_kv_head: PositiveInt | None = Field(None, description="Key and value heads (qwen3); default: n_head.")
    n_embd: PositiveInt = Field(768, description="Width of the residual stream.")
    n_inner: PositiveInt | None = Field(None, description="Width of the MLP; default: 4 n_embd, qwen3: 8/3 n_embd.")
    context_length: Annotated[int, Field(ge=8)] = Field(1024, description="Tokens in a training window, T.")
    dropout: Annotated[float, Field(ge=0.0, lt=1.0)] = Field(0.0, description="Dropout (gpt1, gpt2).")
    rope_theta: PositiveFloat = Field(10_000.0, description="Base of the rotary angles (qwen3).")

    @model_validator(mode="after")
    def _shapes_fit(self) -> Self:
        if self.n_embd % self.n_head:
            raise ValueError(f"model.n_embd={self.n_embd} must be a multiple of model.n_head={self.n_head}")
        if self.architecture == "qwen3" and self.n_embd // self.n_head % 2:
            raise ValueError(
                f"model.n_embd / model.n_head = {self.n_embd // self.n_head} must be even for rotary positions"
            )
        if self.n_kv_head is not None and (self.architecture != "qwen3" or self.n_head % self.n_kv_head):
            raise ValueError(
                f"model.n_kv_head={self.n_kv_head} must divide model.n_head={self.n_head}, and needs "
                "model.architecture: qwen3; leave it out otherwise"
            )
        if self.architecture == "gpt1" and self.n_inner not in (None, 4 * self.n_embd):
            raise ValueError(
                f"model.n_inner={self.n_inner} must be 4 x model.n_embd = {4 * self.n_embd} with model.architecture: "
                "gpt1, whose files name no other; leave it out"
            )
        if self.architecture == "qwen3" and self.dropout:
            raise ValueError(f"model.dropout={self.dropout} must be 0 with model.architecture: qwen3")
        return self


class Optimization(Section):
    """What pre-training and fine-tuning share: AdamW with decay on matrices only, and the guard of the steps."""

    learning_rate: PositiveFloat = Field(6e-4, description="Peak learning rate.")
    weight_decay: NonNegativeFloat = Field(0.1, description="Decoupled decay of matrices; never of gains or biases.")
    beta1: Annotated[float, Field(ge=0.0, lt=1.0)] = Field(0.9, description="Decay of the first moment.")
    beta2: Annotated[float, Field(ge=0.0, lt=1.0)] = Field(0.95, description="Decay of the second moment.")
    eps: PositiveFloat = Field(1e-8, description="Term in Adam's denominator.")
    gradient_clip: NonNegativeFloat = Field(1.0, description="Greatest global gradient norm; 0 switches it off.")
    precision: Literal["fp32", "bf16", "autocast"] = Field(
        "autocast",
        description="`autocast`: products in bf16, weights and gradients fp32. `bf16`: weights and gradients in bf16, "
        "beside fp32 weights in the optimizer (ZeRO stage 1 to 3).",
    )
    spike_factor: Annotated[float, Field(gt=1.0)] | None = Field(
        None, description="Skip a step whose loss or gradient norm is over so many times the recent median; null: none."
    )
    max_skipped_steps: NonNegativeInt = Field(
        4, description="Most steps in a row that are skipped, as spikes or as not finite; one more ends the stage."
    )
    seed: Seed = Field(0, description="Seed of weights, dropout and sample order.")


OTHERS = "*"
MIN_MIXTURE_SHARE = 1 / 5_000  # a period of 2^20 samples holds it within half a percent


class MixtureSource(Section):
    """One source of the documents; `*` stands for all that are not named, as one."""

    weight: NonNegativeFloat = Field(description="Of the sum of all weights; 0 leaves the source out.")
    max_epochs: PositiveFloat | None = Field(
        4.0, description="Most passes over the source; more are refused [repeat]. null: any number."
    )


class Pretrain(Optimization):
    """Next-token likelihood over the train shards: L1 [gpt1, eq. 1]."""

    tokens: PositiveInt = Field(
        2_500_000_000, description="Training tokens, padding included; whole steps only, rounded down."
    )
    batch_sequences: PositiveInt = Field(512, description="Sequences of T tokens in a step, over all ranks.")
    mixture: dict[Text, MixtureSource] | None = Field(
        None, description="Shares of the training tokens by source; default: every source as large as it is."
    )
    packing: Literal["windows", "best_fit"] = Field(
        "windows",
        description="`windows`: all tokens in a row, cut every T. `best_fit`: whole documents, best-fit decreasing; "
        "only those longer than T + 1 are cut; opens every shard at the start [packing].",
    )
    shuffle_shards: PositiveInt | None = Field(
        None,
        description="Shuffle within so many neighbouring shards at a time (of each source of the mixture), for shards "
        "that come from afar; default: within all.",
    )
    document_mask: bool = Field(
        False,
        description="Attend within a document alone, with positions from its start; else across all that stand "
        "in a sequence.",
    )
    init_from: Text | None = Field(
        None, description="Folder of a language model in Hugging Face layout to go on from; null: random weights."
    )
    optimizer: Literal["adamw", "muon"] = Field(
        "adamw",
        description="`muon`: momentum, orthogonalized, for the matrices of the blocks; AdamW for all else [muon].",
    )
    muon_learning_rate: PositiveFloat = Field(0.02, description="Peak learning rate of Muon's matrices.")
    muon_momentum: Annotated[float, Field(ge=0.0, lt=1.0)] = Field(0.95, description="Decay of Muon's momentum.")
    z_loss: NonNegativeFloat = Field(
        0.0, description="Weight of the mean squared log of the softmax's normalizer; 1e-4 in [palm]."
    )
    warmup_tokens: NonNegativeInt = Field(0, description="Tokens of linear warm-up.")
    final_learning_rate: Fraction = Field(0.1, description="Share of the peak that the schedule ends at.")
    schedule: Literal["cosine", "linear", "wsd", "constant"] = Field(
        "cosine",
        description="After the warm-up. `wsd`: the peak, then a linear decay over the last decay_tokens [wsd].",
    )
    decay_tokens: PositiveInt | None = Field(None, description="Of `wsd`; default: a fifth of tokens.")
    validate_every_steps: PositiveInt = Field(250, description="Steps between validations.")
    validation_tokens: PositiveInt = Field(1_000_000, description="Most tokens in one validation.")

    @model_validator(mode="after")
    def _schedule_fits(self) -> Self:
        if self.decay_tokens is None:
            return self
        if self.schedule != "wsd":
            raise ValueError(
                f"pretrain.decay_tokens={self.decay_tokens} needs pretrain.schedule: wsd, not {self.schedule}; "
                "leave it out otherwise"
            )
        if self.warmup_tokens + self.decay_tokens > self.tokens:
            raise ValueError(
                f"pretrain.warmup_tokens={self.warmup_tokens} and pretrain.decay_tokens={self.decay_tokens} together "
                f"exceed pretrain.tokens={self.tokens}"
            )
        return self

    @model_validator(mode="after")
    def _mixture_holds(self) -> Self:
        if self.mixture is None:
            return self
        total = sum(source.weight for source in self.mixture.values())
        if not total > 0:
            raise ValueError("pretrain.mixture: no source has a weight > 0; give one, or leave the mixture out")
        for name, source in self.mixture.items():
            if 0 < source.weight < total * MIN_MIXTURE_SHARE:
                raise ValueError(
                    f"pretrain.mixture.{name}.weight={source.weight:g} is less than 1/{1 / MIN_MIXTURE_SHARE:.0f} of "
                    f"all weights, {total:g}; raise it, or leave the source out with weight 0"
                )
        return self


class Evaluate(Section):
    """Samples and held-out figures."""

    prompts: tuple[Text, ...] = Field(("The",), description="Prompts the pre-trained model continues.")
    sample_tokens: PositiveInt = Field(64, description="New tokens a sample.")
    temperature: NonNegativeFloat = Field(0.8, description="0 is greedy.")
    top_k: NonNegativeInt = Field(50, description="Most candidates a token; 0 is all.")
    top_p: Annotated[float, Field(gt=0.0, le=1.0)] = Field(
        1.0, description="Of those the fewest that have this share of the odds [nucleus]; 1 is all."
    )
    stop: tuple[Text, ...] = Field((), description="Texts before which a sample ends.")
    seed: Seed = Field(0, description="Seed of the samples, and of the resamples that intervals are made of.")
