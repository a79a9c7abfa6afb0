"""What a user starts: the `mcb` command, recipes, and the jobs behind them."""
