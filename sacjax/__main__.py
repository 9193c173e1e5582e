"""`python -m sacjax COMMAND …`, the same as the console script `sacjax`."""

from sacjax.commands import console

if __name__ == "__main__":
    console()
