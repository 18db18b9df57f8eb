"""``python -m distopt`` is the command ``distopt``."""

from __future__ import annotations

from distopt.cli.main import main

if __name__ == "__main__":
    main()
