"""The peers of shard_reads_vs_peers.py, run by an interpreter that has mosaicml-streaming; knows nothing of gptmill.

    python shard_readers.py write FOLDER TOKENS.bin LENGTH
    python shard_readers.py READER FOLDER READS SEED          READER: mds, arrow or memmap

`write` makes of a file of uint16 token ids three data sets of samples of LENGTH ids: MDS; an Arrow file with a record
batch a sample; and the file itself, for numpy.memmap. A reader fetches READS random samples, copies each into a row
of int64 as a training loop needs it, and prints CPU-seconds, a checksum and the bytes on disk as JSON. The order is
that of numpy's default_rng(SEED).
"""

import json
import shutil
import sys
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pyarrow as pa

BATCH = 64
Read = Callable[[int], np.ndarray]


def write(folder: Path, tokens: Path, length: int) -> None:
    """The three data sets stand below the folder."""
    from streaming import MDSWriter

    ids = np.memmap(tokens, np.uint16, mode="r")
    samples = ids[: len(ids) // length * length].reshape(-1, length)
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    with MDSWriter(out=str(folder / "mds"), columns={"tokens": f"ndarray:uint16:{length}"}, size_limit=1 << 28) as mds:
        for sample in samples:
            mds.write({"tokens": np.array(sample)})
    schema = pa.schema([("doc_id", pa.string()), ("tokens", pa.large_list(pa.uint16()))])
    with pa.OSFile(str(folder / "samples.arrow"), "wb") as sink, pa.ipc.new_file(sink, schema) as writer:
        for number, sample in enumerate(samples):
            lists = pa.LargeListArray.from_arrays(pa.array([0, length]), pa.array(np.array(sample)))
            writer.write_batch(pa.record_batch([pa.array([str(number)]), lists], schema=schema))
    samples.tofile(folder / "tokens.bin")
    (folder / "length").write_text(str(length))


def open_mds(folder: Path) -> tuple[int, Read, Path]:
    """Samples, how to read one, and where they are."""
    from streaming import StreamingDataset

    data = StreamingDataset(local=str(folder / "mds"), batch_size=1, shuffle=False)
    return len(data), lambda number: data[number]["tokens"], folder / "mds"


def open_arrow(folder: Path) -> tuple[int, Read, Path]:
    """The same of a record batch a sample."""
    path = folder / "samples.arrow"
    reader = pa.ipc.open_file(pa.memory_map(str(path)))
    return (
        reader.num_record_batches,
        lambda number: reader.get_batch(number).column(1).values.to_numpy(),
        path,
    )


def open_memmap(folder: Path) -> tuple[int, Read, Path]:
    """The same of a plain file of ids."""
    length = int((folder / "length").read_text())
    ids = np.memmap(folder / "tokens.bin", np.uint16, mode="r")
    return len(ids) // length, lambda number: ids[number * length : (number + 1) * length], folder / "tokens.bin"


def main() -> None:
    """See the module."""
    what, folder = sys.argv[1], Path(sys.argv[2])
    if what == "write":
        write(folder, Path(sys.argv[3]), int(sys.argv[4]))
        return
    count, read, path = {"mds": open_mds, "arrow": open_arrow, "memmap": open_memmap}[what](folder)
    reads, length = int(sys.argv[3]), int((folder / "length").read_text())
    order = np.random.default_rng(int(sys.argv[4])).integers(0, count, reads).reshape(-1, BATCH)
    for number in range(count):  # every page is in memory, every file open
        read(number).sum()
    rows, checksum = np.empty((BATCH, length), np.int64), 0
    seconds = 0.0
    for batch in order.tolist():
        started = time.process_time()
        for row, number in zip(rows, batch, strict=True):
            row[:] = read(number)
        seconds += time.process_time() - started
        checksum += int(rows.sum())
    files = [path] if path.is_file() else [file for file in path.rglob("*") if file.is_file()]
    size = sum(file.stat().st_size for file in files)
    print(json.dumps({"cpu_seconds": seconds, "checksum": checksum, "bytes_per_token": size / (count * length)}))


if __name__ == "__main__":
    main()
