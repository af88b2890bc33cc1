"""``python -m selfreward`` is ``selfreward``."""

from selfreward.cli.main import main

main()
