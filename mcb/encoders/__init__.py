"""Task encoders: from a support set to an embedding."""
