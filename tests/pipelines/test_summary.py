from io import StringIO
from pathlib import Path

from report_run import make_run
from rich.console import Console

from pipelines.summary import summary_table


def lines_of(folder: Path, *stages: str) -> list[str]:
    """The table of these stages' outputs, as 80 columns show it, with single spaces."""
    made = make_run(folder)
    console = Console(width=80, file=StringIO())
    console.print(summary_table({name: made[name] for name in stages}))
    assert isinstance(console.file, StringIO)
    return [" ".join(line.split()) for line in console.file.getvalue().splitlines()]


def test_the_table_holds_the_fine_tuned_model_against_all_others(tmp_path: Path) -> None:
    told = lines_of(tmp_path, "finetune", "evaluate")
    for line in (
        "validation loss 4.305 nats/token",
        "test accuracy, fine-tuned 83.9%",
        "same model from scratch 73.6%",
        "bag of words 77.5%",
        "majority 31.3%",
        "worth of pre-training +10.3 points of accuracy",
        "95% interval 6.4 to 14.2",
    ):
        assert line in told


def test_a_table_without_an_evaluation_tells_of_the_rest(tmp_path: Path) -> None:
    told = lines_of(tmp_path, "clean")
    assert told[0] == "documents in 26,801"
    assert not any("accuracy" in line for line in told)
