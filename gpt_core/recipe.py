"""The recipe: the only place where a name, a default, a unit and a bound of gptmill stand.

A recipe states decisions. The sections `corpus`, `clean`, `dedup`, `tokenizer`, `shards`, `model`, `pretrain`,
`finetune` and `evaluate` say what is made: they enter the fingerprints. `name`, `workspace`, `cluster` and
`tracking` say what it is called, where it is made and who watches: they never do. What DeepSpeed, Spark and Ray
are configured with is derived from here. recipe_file.py reads recipes and words the refusals.

Sources of defaults: [gopher] Rae et al. 2021, table A1; [c4] Raffel et al. 2020, section 2.2; [fineweb] Penedo et
al. 2024, sections 3.2 to 3.6; [minhash] the same, section 3.4; [lines] Wenzek et al. 2020 (CCNet), section 3.1;
[gpt1] Radford et al. 2018, section 4.1; [gpt2] Radford et al. 2019; [gpt3] Brown et al. 2020, section C;
[cl100k] OpenAI's tiktoken, encoding cl100k_base; [repeat] Muennighoff et al. 2023, "Scaling data-constrained
language models"; [packing] Ding et al. 2024, "Fewer truncations improve language modeling".
"""

from typing import Annotated, Literal, Self

from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    SerializerFunctionWrapHandler,
    model_serializer,
    model_validator,
)

from gpt_core.store_uri import store_uri_problem

Fraction = Annotated[float, Field(ge=0.0, le=1.0, allow_inf_nan=False)]
PositiveFloat = Annotated[float, Field(gt=0.0, allow_inf_nan=False)]
NonNegativeFloat = Annotated[float, Field(ge=0.0, allow_inf_nan=False)]
PositiveInt = Annotated[int, Field(ge=1)]
NonNegativeInt = Annotated[int, Field(ge=0)]
Seed = Annotated[int, Field(ge=0, lt=2**63)]
Text = Annotated[str, Field(min_length=1)]
Name = Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]{0,62}$")]
Language = Annotated[str, Field(pattern=r"^[a-z]{2,3}$")]


class Section(BaseModel):
    """Frozen; unknown keys are refused."""

    model_config = ConfigDict(frozen=True, extra="forbid")


# ---------------------------------------------------------------------------------------------- what is made


class Fields(Section):
    """Which field of a record holds what; a name that a record lacks is a value it does not state."""

    id: Text = Field("id", description="The document's id; where absent, the xxh3-128 of its text.")
    text: Text = Field("text", description="The document's text.")
    source: Text = Field("source", description="Name of the source.")
    url: Text = Field("url", description="Where the document was found.")
    language: Text = Field("language", description="ISO 639 code.")
    metadata: Text = Field("metadata", description="An object whose values are kept as strings.")


class CorpusInput(Section):
    """One file, or one glob of files, of raw documents."""

    path: Text = Field(description="A file or a glob of files; relative to the working folder.")
    format: Literal["auto", "jsonl", "parquet", "text", "lines", "wet", "warc"] = Field(
        "auto", description="What a file holds; auto: by its name. `text`: one document, `lines`: one on every line."
    )
    source: Text | None = Field(None, description="Name of the source; default: each record's own `source`.")
    fields: Fields | None = Field(None, description="Names of this input's fields; default: corpus.fields.")
    max_documents: PositiveInt | None = Field(
        None, description="Most documents kept of this input: those with the least hash of their id."
    )


class Corpus(Section):
    """The raw documents."""

    inputs: tuple[CorpusInput, ...] = Field(min_length=1, description="Where the raw documents are.")
    fields: Fields = Fields()
    max_record_bytes: Annotated[int, Field(ge=1_000, le=1 << 30)] = Field(
        64 << 20, description="A longer line or page is malformed: most likely a file without line ends."
    )


class UrlRules(Section):
    """Documents whose URL is blocked; a document without one passes [fineweb, section 3.2]."""

    domains: tuple[Text, ...] = Field((), description="Blocked domains, their subdomains included.")
    domain_files: tuple[Text, ...] = Field((), description="Text files with one blocked domain a line.")
    words: tuple[Text, ...] = Field((), description="One of these words in the URL blocks it.")
    soft_words: tuple[Text, ...] = Field((), description="Words that block together.")
    max_soft_words: NonNegativeInt = Field(1, description="Most different soft words in a URL.")


class GopherQuality(Section):
    """Document statistics that separate prose from the rest [gopher]."""

    min_words: NonNegativeInt = Field(50, description="Fewest words.")
    max_words: PositiveInt = Field(100_000, description="Most words.")
    min_mean_word_length: NonNegativeFloat = Field(3.0, description="Least mean characters a word.")
    max_mean_word_length: PositiveFloat = Field(10.0, description="Greatest mean characters a word.")
    max_symbol_word_ratio: NonNegativeFloat = Field(0.1, description="Most '#' and ellipses, each against words.")
    max_bullet_lines: Fraction = Field(0.9, description="Most lines that begin with a bullet.")
    max_ellipsis_lines: Fraction = Field(0.3, description="Most lines that end with an ellipsis.")
    min_alphabetic_words: Fraction = Field(0.8, description="Fewest words with at least one letter.")
    min_stop_words: NonNegativeInt = Field(2, description="Fewest different stop words.")
    stop_words: Annotated[tuple[Text, ...], Field(max_length=12)] = Field(
        ("the", "be", "to", "of", "and", "that", "have", "with"), description="The stop words, in lower case."
    )
    count_punctuation: bool = Field(
        False, description="Whether a punctuation mark is a word without a letter, as datatrove counts [fineweb]."
    )


class GopherRepetition(Section):
    """Shares of a document that repeat within it [gopher]."""

    max_duplicate_lines: Fraction = Field(0.30, description="Most duplicate lines, as a share of lines.")
    max_duplicate_line_characters: Fraction = Field(0.20, description="The same, as a share of characters.")
    max_duplicate_paragraphs: Fraction = Field(0.30, description="Most duplicate paragraphs.")
    max_duplicate_paragraph_characters: Fraction = Field(0.20, description="The same, as a share of characters.")
    max_top_ngram_characters: tuple[Fraction, Fraction, Fraction] = Field(
        (0.20, 0.18, 0.16), description="Most characters in the most frequent 2-, 3- and 4-gram of words."
    )
    max_duplicate_ngram_characters: tuple[Fraction, Fraction, Fraction, Fraction, Fraction, Fraction] = Field(
        (0.15, 0.14, 0.13, 0.12, 0.11, 0.10), description="Most characters in repeated 5- to 10-grams of words."
    )
    count_single_ngrams: bool = Field(
        False, description="Whether a top n-gram that occurs once counts, as datatrove counts [fineweb]."
    )


class C4(Section):
    """Lines that are no sentences go, and documents of which too little is left [c4]."""

    require_terminal_punctuation: bool = Field(True, description="Drop lines that do not end as a sentence does.")
    min_words_per_line: NonNegativeInt = Field(3, description="Lines with fewer words go.")
    max_word_characters: PositiveInt = Field(1_000, description="Lines with a longer word go.")
    line_phrases: tuple[Text, ...] = Field(
        (
            "javascript",
            "terms of use",
            "privacy policy",
            "cookie policy",
            "uses cookies",
            "use of cookies",
            "use cookies",
        ),
        description="Lines with one of these phrases go; lower case.",
    )
    document_phrases: tuple[Text, ...] = Field(
        ("lorem ipsum", "{"), description="A document with one of these is rejected; lower case."
    )
    remove_citations: bool = Field(True, description="Remove marks such as [1], [edit] and [citation needed].")
    min_sentences: NonNegativeInt = Field(5, description="Fewest sentences in what is left.")


class FineWeb(Section):
    """Lists, boilerplate and broken lines [fineweb, section 3.6]. Lines are those with anything on them."""

    min_terminal_punctuation: Fraction = Field(0.12, description="Fewest lines that end in punctuation.")
    short_line_characters: PositiveInt = Field(30, description="A line so long or shorter is short.")
    max_short_lines: Fraction = Field(0.67, description="Most short lines.")
    max_duplicate_line_characters: Fraction = Field(0.01, description="Most characters in duplicate lines.")
    max_newline_word_ratio: NonNegativeFloat = Field(0.3, description="Most line ends against words.")


class Classifier(Section):
    """A fastText quality classifier of the user's."""

    model: Text = Field(description="A fastText model, .bin or .ftz.")
    label: Text = Field("__label__hq", description="The label of documents to keep.")
    min_score: Fraction = Field(0.5, description="Least probability of the label.")


class Pii(Section):
    """Personal data, each replaced by a token of its kind such as <|email|>."""

    kinds: Annotated[tuple[Literal["email", "ip", "phone", "card", "iban"], ...], Field(min_length=1)] = Field(
        ("email", "ip", "phone", "card", "iban"), description="What is replaced. `ip`: public addresses alone."
    )


PRESETS: dict[str, dict[str, object]] = {  # what differs from the fields' own defaults, which are those of `gopher`
    "gopher": {},
    "c4": {"min_language_score": 0.99, "gopher_quality": None, "gopher_repetition": None, "c4": {}},
    "fineweb": {
        "url": {},
        "gopher_quality": {"count_punctuation": True},
        "gopher_repetition": {"count_single_ngrams": True},
        "c4": {"require_terminal_punctuation": False},
        "fineweb": {},
        "pii": {"kinds": ["email", "ip"]},
    },
    "none": {"languages": None, "gopher_quality": None, "gopher_repetition": None},
}


class Clean(Section):
    """Which raw documents are kept. A preset switches rules on; every field given beside it overrides it.

    The rules are asked in this order: url, languages, gopher_quality, gopher_repetition, c4, fineweb, classifier,
    decontaminate. A rule set to null is off.
    """

    preset: Literal["gopher", "c4", "fineweb", "none"] = Field("gopher", description="Where the other fields begin.")
    fix_mojibake: bool = Field(True, description="Repair text that was decoded wrongly (caf\u00c3\u00a9), with ftfy.")
    url: UrlRules | None = Field(None, description="Blocked URLs; preset: fineweb.")
    languages: tuple[Language, ...] | None = Field(
        ("en",), description="ISO 639 codes kept; empty keeps every language, null identifies none."
    )
    min_language_score: Fraction = Field(0.65, description="Least confidence of the language identifier.")
    min_language_scores: dict[Language, Fraction] = Field({}, description="The same for single languages.")
    gopher_quality: GopherQuality | None = Field(
        GopherQuality(), description="Quality statistics; presets: gopher, fineweb."
    )
    gopher_repetition: GopherRepetition | None = Field(
        GopherRepetition(), description="Repetition statistics; presets: gopher, fineweb."
    )
    c4: C4 | None = Field(None, description="Lines and sentences; presets: c4, fineweb.")
    fineweb: FineWeb | None = Field(None, description="Line statistics; preset: fineweb.")
    classifier: Classifier | None = Field(None, description="A quality classifier; no preset has one.")
    pii: Pii | None = Field(None, description="Personal data to replace; preset: fineweb.")
    decontaminate_ngram_words: Annotated[int, Field(ge=5, le=50)] | None = Field(
        13, description="A document that shares so many words in a row with an evaluation text is rejected [gpt3]."
    )
    decontaminate_files: tuple[Text, ...] = Field(
        (), description="Evaluation texts (JSONL) beside finetune.validation and finetune.test, which always count."
    )

    @model_validator(mode="before")
    @classmethod
    def _begin_with_preset(cls, given: object) -> object:
        if not isinstance(given, dict):
            return given
        preset = PRESETS.get(str(given.get("preset", "gopher")), {})
        merged = {**preset, **given}
        for name, values in preset.items():
            if isinstance(values, dict) and isinstance(given.get(name), dict):
                merged[name] = {**values, **given[name]}
        return _as_tuples(merged)


def _as_tuples(tree: object) -> object:
    """The tree with tuples for lists: what a validator hands on is Python, where strict fields take no list."""
    if isinstance(tree, dict):
        return {key: _as_tuples(value) for key, value in tree.items()}
    return tuple(map(_as_tuples, tree)) if isinstance(tree, list) else tree


class LineDedup(Section):
    """Lines or paragraphs that many documents share: menus, notices, footers [lines]."""

    unit: Literal["line", "paragraph"] = Field("line", description="What is compared, case and white space aside.")
    max_documents: PositiveInt = Field(10, description="A line in more documents than that goes from all of them.")
    min_characters: NonNegativeInt = Field(20, description="Shorter lines stay, however common.")


class Dedup(Section):
    """Exact and fuzzy duplicates over the whole corpus [minhash].

    Of duplicates that is kept whose source stands first in `source_priority`, then the longest, then the least id.
    """

    lines: LineDedup | None = Field(None, description="Drop common lines first; null: keep every line.")
    source_priority: tuple[Text, ...] = Field((), description="Sources to prefer; those not named come after them.")
    ngram_words: Annotated[int, Field(ge=1, le=50)] = Field(5, description="Words in a shingle.")
    bands: Annotated[int, Field(ge=1, le=256)] = Field(14, description="Bands of the signature.")
    rows_per_band: Annotated[int, Field(ge=1, le=64)] = Field(8, description="MinHash values in a band.")
    min_jaccard: Fraction = Field(0.7, description="Least Jaccard similarity of shingles of a verified pair.")
    seed: Seed = Field(0, description="Seed of the permutations.")


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
    """The decoder. `gpt2`: pre-LN, learned positions, GELU. `qwen3`: RMSNorm, rotary, SwiGLU, QK-norm."""

    architecture: Literal["gpt2", "qwen3"] = Field("gpt2", description="Which block.")
    n_layer: PositiveInt = Field(12, description="Blocks.")
    n_head: PositiveInt = Field(12, description="Query heads.")
    n_kv_head: PositiveInt | None = Field(None, description="Key and value heads (qwen3); default: n_head.")
    n_embd: PositiveInt = Field(768, description="Width of the residual stream.")
    n_inner: PositiveInt | None = Field(None, description="Width of the MLP; default: 4 n_embd, qwen3: 8/3 n_embd.")
    context_length: Annotated[int, Field(ge=8)] = Field(1024, description="Tokens in a training window, T.")
    dropout: Annotated[float, Field(ge=0.0, lt=1.0)] = Field(0.0, description="Dropout (gpt2 only).")
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
        if self.architecture == "qwen3" and self.dropout:
            raise ValueError(f"model.dropout={self.dropout} must be 0 with model.architecture: qwen3")
        return self


class Optimization(Section):
    """What pre-training and fine-tuning share: AdamW with decay on matrices only."""

    learning_rate: PositiveFloat = Field(6e-4, description="Peak learning rate.")
    weight_decay: NonNegativeFloat = Field(0.1, description="Decoupled decay of matrices; never of gains or biases.")
    beta1: Annotated[float, Field(ge=0.0, lt=1.0)] = Field(0.9, description="Decay of the first moment.")
    beta2: Annotated[float, Field(ge=0.0, lt=1.0)] = Field(0.95, description="Decay of the second moment.")
    eps: PositiveFloat = Field(1e-8, description="Term in Adam's denominator.")
    gradient_clip: NonNegativeFloat = Field(1.0, description="Greatest global gradient norm; 0 switches it off.")
    precision: Literal["fp32", "bf16"] = Field("bf16", description="Of forward and backward; weights stay fp32.")
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
    warmup_tokens: NonNegativeInt = Field(0, description="Tokens of linear warm-up.")
    final_learning_rate: Fraction = Field(0.1, description="Share of the peak that the schedule ends at.")
    schedule: Literal["cosine", "linear", "constant"] = Field("cosine", description="After the warm-up.")
    validate_every_steps: PositiveInt = Field(250, description="Steps between validations.")
    validation_tokens: PositiveInt = Field(1_000_000, description="Most tokens in one validation.")

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


class Finetune(Optimization):
    """Sequence classification: L3 = L2 + lm_coefficient L1 [gpt1, eq. 3 to 5]. Its defaults are the paper's."""

    train: Text = Field(description="Labelled JSONL, plain or .gz.")
    validation: Text = Field(description="Labelled JSONL that picks the best epoch.")
    test: Text = Field(description="Labelled JSONL that is scored once, at the end.")
    text_field: Text = Field("text", description="Field with the text.")
    label_field: Text = Field("label", description="Field with the label, a string.")
    learning_rate: PositiveFloat = Field(6.25e-5, description="Peak learning rate.")
    weight_decay: NonNegativeFloat = Field(0.01, description="Decoupled decay of matrices.")
    beta2: Annotated[float, Field(ge=0.0, lt=1.0)] = Field(0.999, description="Decay of the second moment.")
    max_examples: PositiveInt | None = Field(None, description="Most training examples, drawn by seed; default: all.")
    epochs: PositiveInt = Field(3, description="Passes over the training set.")
    batch_sequences: PositiveInt = Field(32, description="Examples in a step, over all ranks.")
    warmup_fraction: Fraction = Field(0.002, description="Share of the steps that warm up; then linear decay to 0.")
    lm_coefficient: NonNegativeFloat = Field(0.5, description="Lambda, the weight of the language model's loss.")
    classifier_dropout: Annotated[float, Field(ge=0.0, lt=1.0)] = Field(0.1, description="Dropout before W_y.")
    max_tokens: Annotated[int, Field(ge=4)] | None = Field(
        None, description="Tokens of a sequence, start and extract tokens in; default: T."
    )
    from_scratch_baseline: bool = Field(True, description="Also train from random weights with the same budget.")


class Evaluate(Section):
    """Samples and held-out figures."""

    prompts: tuple[Text, ...] = Field(("The",), description="Prompts the pre-trained model continues.")
    sample_tokens: PositiveInt = Field(64, description="New tokens a sample.")
    temperature: NonNegativeFloat = Field(0.8, description="0 is greedy.")
    top_k: NonNegativeInt = Field(50, description="Most candidates a token; 0 is all.")
    seed: Seed = Field(0, description="Seed of the samples.")


# ------------------------------------------------------------------------------------- where, and who watches


class SparkCluster(Section):
    """Where clean and dedup run."""

    master: Text = Field("local[*]", description="A Spark master.")
    driver_memory: Annotated[str, Field(pattern=r"^[1-9][0-9]*[mg]$")] = Field("2g", description="JVM heap.")
    executor_memory: Annotated[str, Field(pattern=r"^[1-9][0-9]*[mg]$")] = Field(
        "2g", description="JVM heap of an executor; a local master has none."
    )
    partitions: PositiveInt | None = Field(None, description="Shuffle partitions; default: two a core.")


class RayCluster(Section):
    """Where shards are made."""

    jobs_address: Annotated[str, Field(pattern=r"^https?://[^@\s]+$")] | None = Field(
        None, description="Ray's Jobs API, http://HOST:8265: the stage is a job there; default: a process here."
    )
    address: Text | None = Field(
        None, description="A running cluster that the process here joins; default: it starts a local one."
    )
    cpus: PositiveInt | None = Field(None, description="CPUs of the local Ray; default: all.")
    object_store_bytes: Annotated[int, Field(ge=80_000_000)] = Field(500_000_000, description="Of the local Ray.")


class TrainCluster(Section):
    """Where pretrain and finetune run."""

    processes: PositiveInt = Field(1, description="Ranks on this machine.")
    zero_stage: Annotated[int, Field(ge=0, le=3)] = Field(2, description="DeepSpeed ZeRO stage.")
    micro_batch_sequences: PositiveInt = Field(8, description="Most sequences a rank takes at once.")
    threads_per_process: PositiveInt | None = Field(None, description="CPU threads a rank; default: cores / ranks.")
    shards_from: Text | None = Field(
        None, description="s3://, gs:// or file:// folder that `gptmill shards push` copied to; default: local shards."
    )
    shard_cache: Text | None = Field(
        None, description="Folder of the local copies of those shards; default: shard-cache in the workspace."
    )
    shard_cache_bytes: PositiveInt = Field(50_000_000_000, description="Most bytes in that folder.")
    checkpoint_every_steps: PositiveInt = Field(500, description="Steps between checkpoints.")
    keep_checkpoints: PositiveInt = Field(2, description="Checkpoints kept while the stage runs.")

    @model_validator(mode="after")
    def _copy_can_be_read(self) -> Self:
        problem = store_uri_problem(self.shards_from) if self.shards_from is not None else None
        if problem is not None:
            raise ValueError(f"cluster.train.shards_from: {problem}")
        return self


class Cluster(Section):
    """Where the stages run. The same recipe moves to another machine by changing only this section."""

    spark: SparkCluster = SparkCluster()
    ray: RayCluster = RayCluster()
    train: TrainCluster = TrainCluster()


class Tracking(Section):
    """MLflow."""

    uri: Text | None = Field(None, description="Tracking server; default: sqlite in the workspace.")
    experiment: Text = Field("gptmill", description="Experiment that holds the runs.")
    registered_model: Name | None = Field(None, description="Default: {name}-classifier.")
    alias: Name = Field("candidate", description="Alias that the newly registered version gets.")


class Recipe(Section):
    """From raw text to a fine-tuned, registered GPT."""

    name: Name = Field(description="What this recipe is called.")
    workspace: Text = Field("workspace", description="Folder of all outputs; relative to the working folder.")
    corpus: Corpus
    clean: Clean = Clean()
    dedup: Dedup = Dedup()
    tokenizer: Tokenizer = Tokenizer()
    shards: Shards = Shards()
    model: Model = Model()
    pretrain: Pretrain = Pretrain()
    finetune: Finetune | None = Field(None, description="Leave it out to stop at the language model.")
    evaluate: Evaluate = Evaluate()
    cluster: Cluster = Cluster()
    tracking: Tracking = Tracking()

    @model_validator(mode="after")
    def _sections_fit(self) -> Self:
        step_tokens = self.pretrain.batch_sequences * self.model.context_length
        if self.pretrain.tokens < step_tokens:
            raise ValueError(
                f"pretrain.tokens={self.pretrain.tokens} is less than one step of pretrain.batch_sequences x "
                f"model.context_length = {step_tokens} tokens"
            )
        if self.pretrain.warmup_tokens > self.pretrain.tokens:
            raise ValueError(
                f"pretrain.warmup_tokens={self.pretrain.warmup_tokens} exceeds pretrain.tokens={self.pretrain.tokens}"
            )
        train = self.cluster.train
        for section, settings in (("pretrain", self.pretrain), ("finetune", self.finetune)):
            if settings is None:
                continue
            if settings.batch_sequences % train.processes:
                raise ValueError(
                    f"{section}.batch_sequences={settings.batch_sequences} must be a multiple of "
                    f"cluster.train.processes={train.processes}"
                )
        tuning = self.finetune
        if tuning is not None and (tuning.max_tokens or 0) > self.model.context_length:
            raise ValueError(
                f"finetune.max_tokens={tuning.max_tokens} exceeds model.context_length={self.model.context_length}"
            )
        return self
