"""Who may ask over the network, for what, and how much of it."""
