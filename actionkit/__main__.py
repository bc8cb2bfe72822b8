"""`python -m actionkit`."""

from actionkit.cli import main

if __name__ == "__main__":
    main()
