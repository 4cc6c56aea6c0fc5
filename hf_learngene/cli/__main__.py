"""`python -m hf_learngene.cli`, where the package is not installed."""

from hf_learngene.cli import main


main()
