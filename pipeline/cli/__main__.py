"""`python -m pipeline.cli`: the same as `airlock`, by the interpreter that is named."""

from pipeline.cli import main

main()
