"""`python -m pipelines` is `gptmill`."""

from pipelines.cli import main

main()
