"""What pytest leaves alone among the pages: scripts that need the tools of the site."""

collect_ignore = ["figures", "griffe_examples.py", "node_modules", "vendor.py"]
