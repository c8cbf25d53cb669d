"""BLEU and other comparisons with reference answers."""
