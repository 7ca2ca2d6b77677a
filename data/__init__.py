"""Bundled models and prompt sets; ``README.md`` beside this file names source and licence."""
