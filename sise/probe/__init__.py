"""One image in front of one network: what an explainer asks, and what each answer costs."""
