"""Single latents: the contexts they fire in, how strongly, and what they write."""
