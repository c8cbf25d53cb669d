"""What a person sees: the terminal and the run page."""
