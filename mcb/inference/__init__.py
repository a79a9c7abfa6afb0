"""Bayesian adaptation: from a prior and a support set to a posterior."""
