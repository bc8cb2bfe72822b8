"""`python -m actionkit.cli`: the command line of this very interpreter."""

from actionkit.cli import main

main()
