"""Methods read off captured activations, which by themselves make no run faster."""
