"""``python -m selfreward`` is ``selfreward``."""

from selfreward.cli import main

main()
