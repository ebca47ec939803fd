"""A run: from a recipe to a model, and what is done with a finished one. Only here the floors are joined."""
