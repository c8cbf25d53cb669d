"""Instructions and forms that a program can check."""
