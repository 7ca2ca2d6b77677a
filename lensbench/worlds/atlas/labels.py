"""stub"""
LABEL_KINDS = {}
def label_arrays(world, tokens, offsets, template): return {}
