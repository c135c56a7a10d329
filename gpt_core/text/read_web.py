"""Common Crawl's archives to documents: WET's texts, and WARC's pages by resiliparse's main-text extraction."""

from collections.abc import Iterator

from fastwarc.warc import ArchiveIterator, WarcRecord, WarcRecordType
from resiliparse.extract.html2text import extract_plain_text
from resiliparse.parse.encoding import detect_encoding
from resiliparse.parse.html import HTMLTree

from gpt_core.text.document import Document, Rejection, malformed
from gpt_core.text.inputs import RawInput, stem

_HTML = ("text/html", "application/xhtml+xml")


def read_archive(given: RawInput, max_record_bytes: int) -> Iterator[Document]:
    """The documents of a WET or WARC file; requests and notes on the crawl are none and are passed over."""
    name, source = given.name, given.source or stem(given.path)
    wanted = WarcRecordType.conversion if given.format == "wet" else WarcRecordType.response
    number = 0
    try:
        for record in ArchiveIterator(given.path, record_types=wanted, fsspec_args=False):
            number += 1
            yield _document(record, f"{name} record {number}", source, given.format, max_record_bytes)
    except (OSError, ValueError, EOFError) as error:
        yield malformed(f"{name} record {number + 1}", f"the archive breaks off here ({error})", source=source)
        return
    if not number:
        yield malformed(name, f"the file holds no {'text' if given.format == 'wet' else 'page'}", source=source)


def _document(record: WarcRecord, place: str, source: str, fmt: str, max_record_bytes: int) -> Document:
    if record.content_length > max_record_bytes:
        why = f"the record has more than {max_record_bytes} bytes (corpus.max_record_bytes)"
        return malformed(place, why, source=source)
    body, headers = record.reader.read(), record.headers
    metadata: dict[str, str | None] = {"date": headers.get("WARC-Date")}
    if fmt == "wet":
        try:
            text = body.decode("utf-8")
        except UnicodeDecodeError as error:
            return malformed(place, f"byte {error.start} is not UTF-8", source=source)
    else:
        kind = (record.http_content_type or "").partition(";")[0].strip().lower()
        if kind not in _HTML:
            page = malformed(place, "", source=source)
            return page.rejected(Rejection("not_html", f"{place}: {kind or 'no content type'}"))
        tree = HTMLTree.parse_from_bytes(body, record.http_charset or detect_encoding(body) or "utf-8")
        metadata["title"] = tree.title or None
        text = extract_plain_text(tree, main_content=True, alt_texts=False)
    if not text.strip():
        return malformed(place, "no text", source=source)
    identifier = (headers.get("WARC-Record-ID") or "").removeprefix("<urn:uuid:").removesuffix(">")
    return Document(
        id=identifier or f"{source}/{place}",
        text=text.replace("\0", ""),
        source=source,
        url=headers.get("WARC-Target-URI"),
        metadata={key: value for key, value in metadata.items() if value},
        place=place,
    )
