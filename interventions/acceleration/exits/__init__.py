"""Leaving the network early for a token, unchecked: CALM, FREE and EE-LLM as one engine."""
