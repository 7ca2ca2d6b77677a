"""``python -m lensbench`` is the command ``lensbench``."""

import sys

from lensbench.app.cli import main

if __name__ == "__main__":
    sys.exit(main())
