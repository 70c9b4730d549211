"""`python -m pure` is the command `puredit`."""

from pure.cli.start import start

if __name__ == "__main__":
    start()
