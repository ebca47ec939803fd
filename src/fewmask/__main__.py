"""``python -m fewmask`` is ``fewmask``."""

from fewmask.cli import main

if __name__ == "__main__":
    main()
