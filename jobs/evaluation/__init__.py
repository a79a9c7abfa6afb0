"""What a trained learner is worth and which modes it has found: scores, tables and figures."""
