"""Side-by-side runs against peers; each script writes a dated page under ``results/``."""
