"""Plot primitives: frames in, plotly figures out."""
