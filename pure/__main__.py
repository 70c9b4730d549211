"""`python -m pure` is the command `puredit`."""

from pure.cli.main import main

if __name__ == "__main__":
    main()
