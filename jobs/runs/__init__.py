"""Where runs lie and how they are found again: their folders, their records, the tracking store and its page."""
