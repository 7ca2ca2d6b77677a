"""nnsight behind the waist, and around a model: traces, NDIF and vLLM.

Importing this package does not import nnsight; using it does.
"""
