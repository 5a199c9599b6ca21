"""Charts and heat maps: what they show, and how that is drawn for pages and notebooks."""
