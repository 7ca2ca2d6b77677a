"""Latent selection: which latents tell two classes of entities apart, and do they act?"""
