"""Files scored, and a reward examined before it is trained on."""
