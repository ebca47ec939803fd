"""Pure tensor functions: no state, no files, nothing of ours imported."""
