"""Self-supervised Label Augmentation: transformations, joint labels and aggregation, objectives."""
