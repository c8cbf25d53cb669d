"""Jobs that make training data: choosing the rows that a model does worst on, and adding reference answers."""
