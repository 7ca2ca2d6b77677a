"""``python -m lensbench`` is the command ``lensbench``."""

import sys

if __name__ == "__main__":
    try:
        from lensbench.app.cli import main

        sys.exit(main())
    except KeyboardInterrupt:  # before anything could say so
        sys.stderr.write("lensbench: stopped\n")
        sys.exit(130)
