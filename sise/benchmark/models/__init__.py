"""Networks, a file for each kind: `model` holds what they share."""
