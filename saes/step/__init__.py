"""One update of many dictionaries: encode, select, gradients, Adam; which engine does it."""
