"""From settings to the objects of a run: its tasks, its learner, its plan, and what is known of the tasks."""
