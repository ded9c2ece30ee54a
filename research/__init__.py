"""How good and how fast Lethe is, and where its bundled model comes from. A distribution of its own, never served."""
