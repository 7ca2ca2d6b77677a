"""``python -m lensbench`` is the command ``lensbench``."""

import sys

if __name__ == "__main__":
    try:
        from lensbench.app.cli import main

        code = main()
    except KeyboardInterrupt:  # before anything could say so
        sys.stderr.write("lensbench: stopped\n")
        code = 130
    # An interrupt that left an exec of text (dataclasses and named tuples are made by one) is kept
    # by Python as unhandled, although it was handled above: `python -m` would then kill itself by
    # SIGINT. The next exec of text forgets it.
    exec("")
    sys.exit(code)
