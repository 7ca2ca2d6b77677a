"""What came out: reconstruction, sparsity, cross-entropy, labels, implants, with controls."""
