"""What an examination finds: well, to be put right, or worth knowing; and how it is laid out."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass


@dataclass(frozen=True)
class Finding:
    """One line of the examination. A warning is well: it says what a person should know all the same."""

    subject: str
    well: bool
    text: str
    warning: bool = False

    @property
    def mark(self) -> str:
        """`ok`, `warn` or `BAD`."""
        return "BAD" if not self.well else "warn" if self.warning else "ok"


def report_lines(findings: Sequence[Finding]) -> Iterator[str]:
    """The findings in columns, then how many are not ok."""
    width = max(len(finding.subject) for finding in findings)
    for finding in findings:
        first, *rest = finding.text.splitlines() or [""]
        yield f"{finding.mark:<4} {finding.subject:<{width}}  {first}".rstrip()
        yield from (f"{'':<{width + 7}}{line}" for line in rest)
    counts = [(mark, sum(finding.mark == mark for finding in findings)) for mark in ("BAD", "warn")]
    told = ", ".join(f"{count} {mark}" for mark, count in counts if count)
    yield told or "all is well"
