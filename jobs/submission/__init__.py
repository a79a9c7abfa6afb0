"""Commands as jobs of a Ray cluster: what is sent there, and the jobs listed, followed and stopped."""
