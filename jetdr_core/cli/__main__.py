"""``python -m jetdr_core.cli`` is ``jetdr``."""

import sys

from jetdr_core.cli.app import main

if __name__ == "__main__":
    sys.exit(main())
