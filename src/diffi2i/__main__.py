"""`python -m diffi2i` is `diffi2i`."""

from diffi2i.cli import main

if __name__ == "__main__":
    main()
