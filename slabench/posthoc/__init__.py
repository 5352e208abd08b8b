"""Post-hoc methods: what can be gained from a trained classifier without training its backbone again."""
