"""What a store says that an accelerated model would do, and the live run that is held to it."""
