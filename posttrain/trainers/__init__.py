"""One file per method, each overriding only what its paper changes."""
