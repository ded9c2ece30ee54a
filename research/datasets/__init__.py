"""Released splits and prompts of the literature, which no installation imports."""
