"""Tasks: how a problem is put, and how an answer to it is judged; one object for training and evaluation."""
