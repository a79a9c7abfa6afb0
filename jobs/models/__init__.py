"""A trained learner in use: loaded and asked, kept as an MLflow model, compared and registered."""
