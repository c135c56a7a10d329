"""Which documents there are and which of them are kept: the sections `corpus`, `clean` and `dedup`."""

from typing import Annotated, Literal

from pydantic import (
    Field,
    model_validator,
)

from gpt_core.recipe.section import (
    Fraction,
    Language,
    NonNegativeFloat,
    NonNegativeInt,
    PositiveFloat,
    PositiveInt,
    Section,
    Seed,
    Text,
)


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
