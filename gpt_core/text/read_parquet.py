"""Rows of Parquet files to documents."""

from collections.abc import Iterator

import pyarrow as pa
import pyarrow.parquet as pq

from gpt_core.text.document import Document, malformed
from gpt_core.text.inputs import RawInput, stem
from gpt_core.text.record import try_document

_BATCH_ROWS = 1_000


def read_rows(given: RawInput, start: int, stop: int) -> Iterator[Document]:
    """The documents of row groups start to stop; a rejected one for a row, or a file, that holds none."""
    name, source = given.name, given.source or stem(given.path)
    fields = given.fields
    try:
        with pq.ParquetFile(given.path) as file:
            schema = file.schema_arrow
            if fields.text not in schema.names:
                columns = ", ".join(schema.names)
                yield malformed(name, f"has no column {fields.text!r}; it has {columns}", source=source)
                return
            if start == stop:
                yield malformed(name, "the file holds no record", source=source)
                return
            row = sum(file.metadata.row_group(i).num_rows for i in range(start))
            names = {fields.id, fields.text, fields.source, fields.url, fields.language, fields.metadata}
            columns_read = [column for column in schema.names if column in names]
            for batch in file.iter_batches(_BATCH_ROWS, row_groups=list(range(start, stop)), columns=columns_read):
                for record in batch.to_pylist():
                    yield try_document(record, place=f"{name} row {row}", given=given)
                    row += 1
    except (OSError, UnicodeDecodeError, pa.ArrowException) as error:
        why = str(error).partition("\n")[0]
        yield malformed(f"{name} group {start}", f"cannot be read as Parquet ({why})", source=source)
