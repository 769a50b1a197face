"""The model catalogue, the store of pulled models, and the demo model's recipe."""
