"""Parts that several pages share: selectors, figures with their downloads, states without data."""
