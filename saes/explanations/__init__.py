"""What a latent is about, in words, and how well the words predict where it fires."""
