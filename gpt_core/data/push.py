"""Copying a whole output to an object store. See remote.py for what stands there then."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

from gpt_core.artifact import MANIFEST, Artifact, FileEntry
from gpt_core.data.remote import RemoteFolder, copy_uri, listed_in_copy
from gpt_core.errors import ArtifactError
from gpt_core.fingerprint import file_sha256

Report = Callable[[str, int, int], None]  # the file that is sent, bytes of the output that are there, bytes in all


@dataclass(frozen=True)
class Pushed:
    """What a push did."""

    uri: str  # of the copy
    sent_files: int
    sent_bytes: int
    kept_files: int  # stood there already


def push_output(artifact: Artifact, uri: str, *, report: Report) -> Pushed:
    """A whole copy of the output stands below `uri`, in a folder named by its fingerprint.

    Objects that stand there with the right size are kept, unless the copy's manifest calls them others, so that an
    interrupted push goes on. Every file is checked against the manifest before it is sent, and the manifest is sent
    last. Raises ArtifactError for a local file that is not what the manifest says, InputError and SetupError for what
    the store refuses.
    """
    copy = RemoteFolder(copy_uri(uri, artifact.manifest.fingerprint))
    sizes = copy.sizes()
    copied = listed_in_copy(copy, sizes) or {}
    files = artifact.manifest.files
    total = sum(entry.size_bytes for entry in files)
    done = sent_files = sent_bytes = 0
    for entry in files:
        if sizes.get(entry.path) != entry.size_bytes or copied.get(entry.path, entry) != entry:
            _send(artifact, entry, copy, sent=partial(_report_from, report, entry.path, done, total))
            sent_files, sent_bytes = sent_files + 1, sent_bytes + entry.size_bytes
        done += entry.size_bytes
        report(entry.path, done, total)
    if sent_files or copied != {entry.path: entry for entry in files}:
        copy.put(artifact.root / MANIFEST, MANIFEST, sent=lambda _: None)
    return Pushed(copy.uri, sent_files, sent_bytes, len(files) - sent_files)


def _send(artifact: Artifact, entry: FileEntry, copy: RemoteFolder, *, sent: Callable[[int], None]) -> None:
    path = artifact.file(entry.path)
    sent(0)
    if file_sha256(path) != entry.sha256:
        raise ArtifactError(
            f"{path}: the checksum differs from the manifest's, so it is not sent; delete {artifact.root} and run again"
        )
    copy.put(path, entry.path, sent=sent)


def _report_from(report: Report, path: str, done: int, total: int, sent: int) -> None:
    report(path, done + sent, total)
