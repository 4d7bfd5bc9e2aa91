"""Programs over several devices: what crosses between them, and what that means for many."""
